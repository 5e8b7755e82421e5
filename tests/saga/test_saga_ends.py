"""How sagas complete, and what still happens then."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import pytest
from saga_cast import A, B, Billed, C, Cast, Finished, Refused, Started
from saga_kit import choreography, on_stage, reactions
from saga_wait import until

from choreo import Abort, Event
from choreo.broker.connection import Connection
from choreo.model.facts import Kind
from choreo.model.saga import State

pytestmark = pytest.mark.anyio


def held_until(gate: anyio.Event, outcome: Event | Exception) -> Callable[[], Awaitable[Event]]:
    """What a step does that waits, and then returns or raises ``outcome``."""

    async def wait() -> Event:
        await gate.wait()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    return wait


@pytest.mark.parametrize("end", [Finished, Billed])
async def test_completes_with_any(
    connection: Connection, namespace: str, cast: Cast, end: type[Event]
) -> None:
    """Any one event of ``completes_with`` completes the saga; nothing is undone."""
    cast.step("root", Started, A)
    cast.step("last", A, end)
    topology = choreography(namespace, cast.participants, completes=(Finished, Billed))
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.start()
        view = await stage.ended()
        assert await stage.has_no_work()
    assert (view.status, view.completed) == (State.COMPLETED, view.updated)
    assert cast.diary == ["root", "last"]


async def test_completes_with_all(connection: Connection, namespace: str, cast: Cast) -> None:
    """With ``all`` a saga is complete when the last of the events has been emitted, in whatever order;
    one of them twice counts once.
    """
    gate = anyio.Event()
    cast.step("shipping", Started, Finished)
    cast.step("shipping-again", Started, Finished)
    cast.step("billing", Started, Billed, does=held_until(gate, Billed()))
    topology = choreography(namespace, cast.participants, completes=(Finished, Billed), every=True)
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.start()

        async def shipped_twice() -> bool:
            return (await stage.published()).count("Finished") == 2

        await until(shipped_twice)
        assert await stage.state() is State.RUNNING
        gate.set()
        view = await stage.ended()
        assert await stage.has_no_work()
    assert view.status is State.COMPLETED


async def test_all_but_one(connection: Connection, namespace: str, cast: Cast) -> None:
    """With ``all`` a saga that lacks one of the events can still abort, and everything is undone."""
    gate = anyio.Event()
    cast.step("shipping", Started, Finished)
    cast.step("billing", Started, Billed, does=held_until(gate, Abort("no")))
    topology = choreography(namespace, cast.participants, completes=(Finished, Billed), every=True)
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.start()
        await cast.until("shipping", "billing")
        gate.set()
        assert (await stage.ended()).status is State.COMPENSATED
    assert cast.undone() == ["shipping"]


@pytest.mark.parametrize(
    ("outcome", "letter", "note"),
    [
        (Abort("too late"), "abort-too-late", "too late"),
        (RuntimeError("boom"), "step-failed", "RuntimeError: boom"),
    ],
)
async def test_failure_after_completion(
    connection: Connection, namespace: str, cast: Cast, outcome: Exception, letter: str, note: str
) -> None:
    """A completed saga cannot abort any more: a step that fails then is a dead letter that the view
    shows, and nothing is undone.
    """
    gate = anyio.Event()
    cast.step("root", Started, A)
    cast.step("slow", A, B, does=held_until(gate, outcome))
    cast.step("last", A, Finished)
    topology = choreography(namespace, cast.participants)
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.start()
        await cast.until("slow")
        await stage.is_in(State.COMPLETED)
        gate.set()
        view = await stage.view()
        assert await stage.letters() == [letter]
    assert (view.status, view.dead_letters) == (State.COMPLETED, 1)
    assert view.last_error is not None
    assert (view.last_error.step, view.last_error.message) == ("slow/slow", note)
    assert cast.undone() == []


async def test_aborting_event_after_completion(connection: Connection, namespace: str, cast: Cast) -> None:
    """An event of ``aborts_with`` that comes after completion is an event like any other."""
    gate = anyio.Event()
    cast.step("slow", Started, Refused, does=held_until(gate, Refused()))
    cast.step("last", Started, Finished)
    cast.step("listener", Refused)
    topology = choreography(namespace, cast.participants)
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.start()
        await cast.until("slow")
        await stage.is_in(State.COMPLETED)
        gate.set()
        await cast.until("listener")
        view = await stage.view()
        assert await stage.published() == ["Started", "Finished", "Refused"]
        assert "phase" not in (await stage.entries())[-1]
        assert await stage.has_no_work()
    assert (view.status, view.dead_letters) == (State.COMPLETED, 0)


async def test_steps_after_completion(connection: Connection, namespace: str, cast: Cast) -> None:
    """Steps that are under way at completion commit and publish as ever, and so do those after them."""
    gate = anyio.Event()
    cast.step("slow", Started, A, does=held_until(gate, A()))
    cast.step("last", Started, Finished)
    cast.step("after", A, B)
    cast.step("join", (Finished, B), C)
    cast.step("reader", C)
    topology = choreography(namespace, cast.participants)
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.start()
        await cast.until("slow")
        await stage.is_in(State.COMPLETED)
        gate.set()
        await cast.until("reader")
        view = await stage.view()
        assert await stage.published() == ["Started", "Finished", "A", "B", "C"]
        trace = reactions(await stage.choreo.trace("s1"))
        assert await stage.has_no_work()
    assert view.status is State.COMPLETED
    assert trace["reader/reader"].outcome is Kind.DONE
    assert cast.undone() == []


async def test_completing_event_of_a_late_step(connection: Connection, namespace: str, cast: Cast) -> None:
    """A saga that unwinds does not complete, also if the step under way would have completed it."""
    gate = anyio.Event()
    cast.step("last", Started, Finished, does=held_until(gate, Finished()))
    topology = choreography(namespace, cast.participants)
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.start()
        await cast.until("last")
        await stage.choreo.compensate("s1")
        gate.set()
        view = await stage.ended()
        assert await stage.published() == ["Started"]
    assert view.status is State.COMPENSATED
    assert cast.results == {"last": Finished()}


async def test_completing_event_on_the_way_back(connection: Connection, namespace: str, cast: Cast) -> None:
    """An event of ``completes_with`` that is emitted on the way back completes nothing."""
    cast.step("root", Started, A)
    cast.step("judge", A, Refused)
    cast.step("listener", Refused, Finished)
    topology = choreography(namespace, cast.participants)
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.start()
        assert (await stage.ended()).status is State.COMPENSATED
        assert (await stage.published())[-1] == "Finished"


@pytest.mark.parametrize(
    ("event", "saga", "data"),
    [
        ("x", "s1", "{}"), ("a/b:c_é", "s1", "{}"), ("x", "order 7/ü:x", "{}"),
        ("x", "s1", '{"number": 7, "more": [{}]}'),
    ],
)  # fmt: skip
async def test_any_program_starts(
    connection: Connection, namespace: str, cast: Cast, event: str, saga: str, data: str
) -> None:
    """An event that any program has written, with the four attributes that it needs, starts a saga; also
    with an event id, a saga id or a payload that looks odd.
    """
    cast.step("root", Started, A)
    cast.step("last", A, Finished)
    topology = choreography(namespace, cast.participants)
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.write((event, "Started"), saga=saga, data=data)
        view = await stage.ended(saga)
        assert await stage.published(saga) == ["Started", "A", "Finished"]
    assert (view.status, view.type, view.events) == (State.COMPLETED, "order", 3)
    assert view.started > 0


async def test_any_program_aborts(connection: Connection, namespace: str, cast: Cast) -> None:
    """A saga that any program has started unwinds like any other."""
    cast.step("root", Started, A)
    cast.step("last", A, Refused)
    topology = choreography(namespace, cast.participants)
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.write(("x:y/z", "Started"))
        assert (await stage.ended()).status is State.COMPENSATED
    assert cast.undone() == ["last", "root"]
