"""What makes a saga unwind, and what does not."""

from __future__ import annotations

import anyio
import pytest
from saga_cast import A, B, C, Cast, D, Finished, Refused, Restored, Started
from saga_kit import choreography, on_stage

from choreo import Abort, Context, Event, Participant
from choreo.broker.connection import Connection
from choreo.model.saga import State

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("in_thread", [True, False])
async def test_abort(connection: Connection, namespace: str, cast: Cast, in_thread: bool) -> None:
    """A handler that raises Abort unwinds the saga; the step itself has nothing to undo."""
    participant = Participant("judge")
    undone: list[Event] = []

    if in_thread:

        @participant.on(A)
        def decide(event: A) -> Finished:
            raise Abort("card declined")
    else:

        @participant.on(A)
        async def decide(event: A) -> Finished:
            raise Abort("card declined")

    @decide.undo
    def forget(event: A) -> None:
        undone.append(event)

    cast.step("root", Started, A)
    participants = [*cast.participants, participant]
    topology = choreography(namespace, participants)
    async with on_stage(connection, topology, participants) as stage:
        await stage.start()
        view = await stage.ended()
        assert await stage.letters() == []
    assert (view.status, view.dead_letters) == (State.COMPENSATED, 0)
    assert view.reason == "judge/decide: card declined"
    assert cast.undone() == ["root"]
    assert undone == []


async def test_abort_with_nothing_done(connection: Connection, namespace: str, cast: Cast) -> None:
    """A saga that aborts before anything took effect is compensated at once."""

    async def refuse() -> None:
        raise Abort

    cast.step("root", Started, A, does=refuse)
    topology = choreography(namespace, cast.participants)
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.start()
        view = await stage.ended()
        assert await stage.published() == ["Started"]
    assert (view.status, view.reason) == (State.COMPENSATED, "root/root: aborted")
    assert cast.diary == ["root"]


async def test_aborting_event(connection: Connection, namespace: str, cast: Cast) -> None:
    """An event of ``aborts_with`` unwinds the saga, and is published: others react to it."""
    cast.step("root", Started, A)
    cast.step("judge", A, Refused)
    cast.step("listener", Refused, B)
    cast.step("further", B)
    topology = choreography(namespace, cast.participants)
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.start()
        view = await stage.ended()
        entries = await stage.entries()
    assert view.status is State.COMPENSATED
    assert view.reason == "Refused from judge/judge"
    assert [(entry["type"], entry.get("phase", "")) for entry in entries] == [
        ("Started", ""), ("A", ""), ("Refused", "back"), ("B", "back"),
    ]  # fmt: skip
    assert {"listener", "further"} <= set(cast.diary)
    assert cast.undone() == ["judge", "root"]


async def test_events_beside_the_aborting_one(connection: Connection, namespace: str, cast: Cast) -> None:
    """What a step emits beside an aborting event is no event of the way back: nobody goes forward on it."""
    participant = Participant("judge")

    @participant.on(A)
    def decide(event: A) -> list[B | Refused]:
        return [B(), Refused(), B()]

    cast.step("root", Started, A)
    cast.step("forward", B, C)
    cast.step("back", Refused)
    participants = [*cast.participants, participant]
    topology = choreography(namespace, participants)
    async with on_stage(connection, topology, participants) as stage:
        await stage.start()
        view = await stage.ended()
        phases = [(entry["type"], entry.get("phase", "")) for entry in await stage.entries()]
    assert (view.status, view.reason) == (State.COMPENSATED, "Refused from judge/decide")
    assert phases == [("Started", ""), ("A", ""), ("B", ""), ("Refused", "back"), ("B", "")]
    assert sorted(cast.diary) == ["back", "root", "undo root"]


async def test_compensation_by_hand(connection: Connection, namespace: str) -> None:
    """Plain choreography needs no undo: a participant reacts to the failure with a compensation."""
    money = {"s1": 0}
    payments, stock = Participant("payments"), Participant("stock")

    class Paid(Event):
        amount: int

    class OutOfStock(Event):
        pass

    @payments.on(Started)
    def charge(event: Started, ctx: Context) -> Paid:
        money[ctx.saga_id] += event.number
        return Paid(event.number)

    @payments.on(OutOfStock)
    def refund(event: OutOfStock, ctx: Context) -> Restored:
        money[ctx.saga_id] = 0
        return Restored("money")

    @stock.on(Paid)
    def reserve(event: Paid) -> OutOfStock | Finished:
        return OutOfStock()

    topology = choreography(namespace, [payments, stock], aborts=(OutOfStock,))
    async with on_stage(connection, topology, [payments, stock]) as stage:
        await stage.start(7)
        view = await stage.ended()
        assert await stage.published() == ["Started", "Paid", "OutOfStock", "Restored"]
    assert view.status is State.COMPENSATED
    assert money == {"s1": 0}


async def test_compensation_by_hand_and_by_undo(connection: Connection, namespace: str, cast: Cast) -> None:
    """Both ways back work in one saga, and neither waits for the other."""
    cast.step("undoable", Started, A)
    cast.step("by-hand", Refused, Restored, undo=False)
    cast.step("judge", A, Refused, undo=False)
    cast.step("listener", Restored)
    topology = choreography(namespace, cast.participants)
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.start()
        assert (await stage.ended()).status is State.COMPENSATED
    assert sorted(cast.diary) == ["by-hand", "judge", "listener", "undo undoable", "undoable"]


async def test_two_that_abort(connection: Connection, namespace: str, cast: Cast) -> None:
    """Of several steps that abort one gives the reason; each effect is undone once all the same."""
    gate = anyio.Event()

    async def refuse(reason: str) -> None:
        await gate.wait()
        raise Abort(reason)

    cast.step("root", Started, A)
    for number in range(5):
        cast.step(f"judge{number}", A, does=lambda number=number: refuse(f"no {number}"))
    topology = choreography(namespace, cast.participants)
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.start()
        await cast.until(*[f"judge{number}" for number in range(5)])
        gate.set()
        view = await stage.ended()
    assert view.status is State.COMPENSATED
    assert view.reason in [f"judge{number}/judge{number}: no {number}" for number in range(5)]
    assert cast.undone() == ["root"]


async def test_joins_on_the_way_back(connection: Connection, namespace: str, cast: Cast) -> None:
    """A join of compensating events fires although the saga unwinds, and leaves nothing behind."""

    class LeftBack(Event):
        pass

    class RightBack(Event):
        pass

    cast.step("left", Started, A, undo=LeftBack)
    cast.step("right", Started, B, undo=RightBack)
    cast.step("judge", (A, B), Refused, undo=False)
    cast.step("join", (LeftBack, RightBack), D, undo=False)
    topology = choreography(namespace, cast.participants)
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.start()
        view = await stage.ended()
        assert (await stage.published())[-1] == "D"
        assert await stage.has_no_work()
    assert view.status is State.COMPENSATED


@pytest.mark.parametrize("how", ["wrong type", "nothing", "not an event", "several", "emitted"])
async def test_broken_contract(connection: Connection, namespace: str, cast: Cast, how: str) -> None:
    """A handler that returns or emits what its annotation does not allow has failed: nothing is
    published, there is a dead letter, and the step is undone, for it may have taken effect.
    """
    participant = Participant("careless")
    given: list[object] = []

    @participant.on(A)
    async def work(event: A, ctx: Context) -> B:
        if how == "emitted":
            ctx.emit(C())
            return B()
        returned = {"wrong type": C(), "nothing": None, "not an event": 7, "several": [B(), B()]}
        return returned[how]  # type: ignore[return-value]

    @work.undo
    def rest(event: A, result: B | None) -> None:
        given.append(result)

    cast.step("root", Started, A)
    cast.step("listener", B, C)
    participants = [*cast.participants, participant]
    topology = choreography(namespace, participants)
    async with on_stage(connection, topology, participants) as stage:
        await stage.start()
        view = await stage.ended()
        assert await stage.letters() == ["step-failed"]
        assert await stage.published() == ["Started", "A"]
    assert view.status is State.COMPENSATED
    assert view.last_error is not None
    assert "its annotation allows one of B" in view.last_error.message
    assert "test_saga_aborts.py" in view.last_error.message
    assert given == [None]
    assert cast.undone() == ["root"]


async def test_payload_that_does_not_fit(connection: Connection, namespace: str, cast: Cast) -> None:
    """An event whose data is not of its type, as the participant knows it, is a dead letter; the saga
    unwinds, and the step did not run.
    """

    class Before(Event):
        amount: int

    cast.step("root", Started, A)
    cast.step("reader", Before, B)
    topology = choreography(namespace, cast.participants)
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.start()
        await stage.quiet()
        await stage.write(("x", "Before"), data='{"amount":"seven"}')
        view = await stage.ended()
        assert await stage.letters() == ["data-misfit"]
    assert view.status is State.COMPENSATED
    assert cast.diary == ["root", "undo root"]
