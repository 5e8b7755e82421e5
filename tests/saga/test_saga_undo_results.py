"""What an undo is given, which outcomes it undoes, and what comes of what it does."""

from __future__ import annotations

import anyio
import pytest
from saga_cast import A, B, C, Cast, Finished, Refused, Restored, Started
from saga_kit import choreography, on_stage, reactions

from choreo import Abort, Context, Event, Participant
from choreo.broker.connection import Connection
from choreo.model.facts import Kind
from choreo.model.saga import State
from choreo.runtime.worker import WorkerOptions

pytestmark = pytest.mark.anyio

SHORT_LEASE = WorkerOptions(lease=0.3)


class Captured(Event):
    amount: int


class Declined(Event):
    reason: str


async def refuse() -> None:
    raise Abort("no")


async def hang() -> None:
    await anyio.sleep_forever()


async def test_step_that_raised(connection: Connection, namespace: str, cast: Cast) -> None:
    """After an error nobody knows whether the step took effect: the saga unwinds, and the step's own undo
    is given ``None``.
    """

    async def crash() -> None:
        raise RuntimeError("boom")

    cast.step("root", Started, A)
    cast.step("crashing", A, B, does=crash)
    topology = choreography(namespace, cast.participants)
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.start()
        view = await stage.ended()
        assert await stage.letters() == ["step-failed"]
    assert view.status is State.COMPENSATED
    assert view.dead_letters == 1
    assert view.last_error is not None
    assert view.last_error.message == "RuntimeError: boom"
    assert "crash" in view.last_error.traceback
    assert cast.undone() == ["crashing", "root"]
    assert cast.results == {"crashing": None, "root": A()}


async def test_worker_that_died(connection: Connection, namespace: str, cast: Cast) -> None:
    """A step whose worker died while it ran, in a saga that aborted meanwhile, is not run again: it is in
    doubt, and its undo is given ``None``.
    """

    cast.step("root", Started, A)
    cast.step("dying", A, B, does=hang)
    topology = choreography(namespace, cast.participants)
    async with on_stage(connection, topology, cast.participants, options=SHORT_LEASE) as stage:
        await stage.start()
        await cast.until("dying")
        stage.kill(stage.workers["dying"][0])
        assert await stage.choreo.compensate("s1") is State.COMPENSATING
        await stage.add(cast.participants[1], SHORT_LEASE)
        view = await stage.ended()
        trace = reactions(await stage.choreo.trace("s1"))
    assert view.status is State.COMPENSATED
    assert cast.diary == ["root", "dying", "undo dying", "undo root"]
    assert cast.results == {"dying": None, "root": A()}
    assert trace["dying/dying"].outcome is Kind.LATE


async def test_worker_that_died_in_an_undo(connection: Connection, namespace: str, cast: Cast) -> None:
    """An undo whose worker died is run again by another, with the same key, result and event."""
    died = anyio.Event()

    async def hang_once() -> None:
        if not died.is_set():
            died.set()
            await hang()

    cast.step("root", Started, A, undoes=hang_once)
    topology = choreography(namespace, cast.participants)
    async with on_stage(connection, topology, cast.participants, options=SHORT_LEASE) as stage:
        await stage.start()
        await stage.quiet()
        await stage.choreo.compensate("s1")
        await died.wait()
        stage.kill(stage.workers["root"][0])
        await stage.add(cast.participants[0], SHORT_LEASE)
        view = await stage.ended()
    assert (view.status, view.undone) == (State.COMPENSATED, {"root/root": 1})
    assert cast.diary == ["root", "undo root", "undo root"]
    first, second = cast.contexts["undo root"]
    assert (first.key, first.undoes, first.event_id) == (second.key, second.undoes, second.event_id)


async def test_compensating_events(connection: Connection, namespace: str, cast: Cast) -> None:
    """An undo may return an event; others react to it although the saga unwinds, and so on."""
    cast.step("root", Started, A, undo=Restored)
    cast.step("last", A, does=refuse)
    cast.step("notify", Restored, B, undo=False)
    cast.step("further", B, C)
    topology = choreography(namespace, cast.participants)
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.start()
        view = await stage.ended()
        entries = await stage.entries()
    assert view.status is State.COMPENSATED
    assert cast.diary == ["root", "last", "undo root", "notify", "further"]
    assert [(entry["type"], entry.get("phase", "")) for entry in entries] == [
        ("Started", ""), ("A", ""), ("Restored", "back"), ("B", "back"), ("C", "back"),
    ]  # fmt: skip
    assert entries[2]["source"] == "root/root/undo_root"


async def test_reaction_to_compensation_is_not_undone(
    connection: Connection, namespace: str, cast: Cast
) -> None:
    """A step on the way back is not undone itself, also if something is left to undo after it."""
    cast.step("root", Started, A)
    cast.step("middle", A, B, undo=Restored)
    cast.step("last", B, does=refuse)
    cast.step("notify", Restored, C)
    topology = choreography(namespace, cast.participants)
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.start()
        assert (await stage.ended()).status is State.COMPENSATED
    assert cast.undone() == ["middle", "root"]


def payments(diary: list[object], *, decline: bool) -> Participant:
    """A participant whose undo is concerned with one of two outcomes."""
    participant = Participant("payments")

    @participant.on(Started)
    async def charge(event: Started) -> Captured | Declined:
        return Declined("poor") if decline else Captured(event.number)

    @charge.undo
    async def refund(event: Started, captured: Captured | None, ctx: Context) -> None:
        diary.append(captured)

    return participant


@pytest.mark.parametrize("decline", [True, False])
async def test_outcome_that_needs_no_undo(
    connection: Connection, namespace: str, cast: Cast, decline: bool
) -> None:
    """An outcome that the undo's result parameter does not name leaves nothing to undo."""
    diary: list[object] = []
    cast.step("either", Declined, B)
    cast.step("other", Captured, B)
    cast.step("last", B, does=refuse)
    participants = [payments(diary, decline=decline), *cast.participants]
    topology = choreography(namespace, participants)
    async with on_stage(connection, topology, participants) as stage:
        await stage.start(7)
        view = await stage.ended()
    assert view.status is State.COMPENSATED
    assert diary == ([] if decline else [Captured(7)])
    assert cast.undone() == ["either" if decline else "other"]


async def test_aborting_outcome_that_needs_no_undo(connection: Connection, namespace: str) -> None:
    """A decline that aborts the saga is not undone itself; with nothing else done the saga has ended."""
    diary: list[object] = []
    participant = payments(diary, decline=True)
    topology = choreography(namespace, [participant], aborts=(Declined,))
    async with on_stage(connection, topology, [participant]) as stage:
        await stage.start()
        view = await stage.ended()
        assert await stage.published() == ["Started", "Declined"]
    assert (view.status, view.reason, diary) == (State.COMPENSATED, "Declined from payments/charge", [])


async def test_several_results(connection: Connection, namespace: str, cast: Cast) -> None:
    """An undo of a step that returned several events is given all of them, in the shape they had."""
    given: list[object] = []
    participant = Participant("payments")

    @participant.on(Started)
    def split(event: Started) -> list[Captured]:
        return [Captured(1), Captured(2)]

    @split.undo
    def merge(event: Started, captured: list[Captured] | None) -> None:
        given.append(captured)

    cast.step("last", Captured, does=refuse)
    participants = [participant, *cast.participants]
    topology = choreography(namespace, participants)
    async with on_stage(connection, topology, participants) as stage:
        await stage.start()
        assert (await stage.ended()).status is State.COMPENSATED
    assert given == [[Captured(1), Captured(2)]]


async def test_undo_that_fails(connection: Connection, namespace: str, cast: Cast) -> None:
    """An undo that fails for good is a dead letter and the saga has failed; but the undo of what had
    caused it, and those of other branches, go on.
    """

    async def crash() -> None:
        raise RuntimeError("cannot")

    cast.step("root", Started, A)
    cast.step("left", A, B, undoes=crash)
    cast.step("right", A, C)
    cast.step("last", (B, C), does=refuse)
    topology = choreography(namespace, cast.participants)
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.start()
        view = await stage.ended()
        assert await stage.letters() == ["undo-failed"]
        trace = reactions(await stage.choreo.trace("s1"))
    assert view.status is State.FAILED
    assert view.dead_letters == 1
    assert view.undone == {"right/right": 1, "root/root": 1}
    assert sorted(cast.undone()[:2]) == ["left", "right"]
    assert cast.undone()[2:] == ["root"]
    undo = trace["left/left"].undone_by[0]
    assert (undo.outcome, undo.note) == (Kind.STUCK, "RuntimeError: cannot")


async def test_undo_that_breaks_its_contract(connection: Connection, namespace: str) -> None:
    """An undo that returns what its annotation does not allow has failed."""
    participant = Participant("payments")

    @participant.on(Started)
    def charge(event: Started) -> Refused:
        return Refused()

    @charge.undo
    def refund(event: Started) -> Restored:
        return A()  # type: ignore[return-value]

    topology = choreography(namespace, [participant])
    async with on_stage(connection, topology, [participant]) as stage:
        await stage.start()
        view = await stage.ended()
        assert await stage.published() == ["Started", "Refused"]
    assert view.status is State.FAILED
    assert view.last_error is not None
    assert "returned A; its annotation allows one of Restored" in view.last_error.message


async def test_abort_in_an_undo(connection: Connection, namespace: str, cast: Cast) -> None:
    """A business failure within an undo is a failure of the undo: there is no other way back."""
    cast.step("root", Started, Refused, undoes=refuse)
    topology = choreography(namespace, cast.participants)
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.start()
        view = await stage.ended()
        assert await stage.letters() == ["undo-failed"]
    assert view.status is State.FAILED


async def test_reaction_to_compensation_that_fails(
    connection: Connection, namespace: str, cast: Cast
) -> None:
    """A step on the way back that fails is a dead letter, and the saga has failed: not all was put right."""

    async def crash() -> None:
        raise RuntimeError("cannot")

    cast.step("root", Started, Refused, undo=Restored)
    cast.step("notify", Restored, Finished, does=crash)
    topology = choreography(namespace, cast.participants)
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.start()
        view = await stage.ended()
        assert await stage.letters() == ["step-failed"]
    assert cast.diary == ["root", "undo root", "notify"]
    assert (view.status, view.dead_letters) == (State.FAILED, 1)
