"""Attempts that fail and are repeated: parked meanwhile, void when somebody else was faster."""

from __future__ import annotations

import itertools

import anyio
import pytest
from saga_cast import A, Cast, Finished, Refused, Started
from saga_kit import choreography, on_stage
from saga_wait import until

from choreo import Abort
from choreo.broker.connection import Connection
from choreo.model.policy import Retry
from choreo.model.saga import State
from choreo.wire.topology import Topology

pytestmark = pytest.mark.anyio

SOON = Retry(attempts=3, first=0.001)
LATER = Retry(attempts=3, first=30.0)


def together(topology: Topology, number: int) -> list[str]:
    """So many saga ids of one partition."""
    names = (f"saga-{each}" for each in itertools.count())
    return list(itertools.islice((name for name in names if not topology.keys.partition(name)), number))


@pytest.mark.parametrize("what", ["step", "undo"])
async def test_equal_event_ids(connection: Connection, namespace: str, cast: Cast, what: str) -> None:
    """Event ids are unique within their saga alone: sagas of one partition whose events have equal ids
    are each tried again.
    """
    failed: set[str] = set()

    async def fail_once(name: str) -> None:
        saga = cast.contexts[name][-1].saga_id
        if saga not in failed:
            failed.add(saga)
            raise RuntimeError("not yet")

    async def step() -> Refused:
        if what == "step":
            await fail_once("root")
        return Refused()

    async def undo() -> None:
        if what == "undo":
            await fail_once("undo root")

    cast.step("root", Started, Refused, does=step, undoes=undo)
    topology = choreography(namespace, cast.participants, retry=Retry(attempts=3, first=0.1))
    sagas = together(topology, 3)
    async with on_stage(connection, topology, cast.participants) as stage:
        for saga in sagas:
            await stage.write(("e1", "Started"), saga=saga)
        views = [await stage.ended(saga) for saga in sagas]
    assert failed == set(sagas)
    assert [view.status for view in views] == [State.COMPENSATED] * 3
    assert [view.retries for view in views] == [1] * 3


@pytest.mark.parametrize("undoable", [True, False])
async def test_abort_while_parked(connection: Connection, namespace: str, cast: Cast, undoable: bool) -> None:
    """A saga that aborts while a step waits for its next attempt does not wait for it: the step may have
    taken effect, so its undo runs now, without a result; without an undo there is no further attempt.
    """

    async def fail() -> A:
        raise RuntimeError("not yet")

    cast.step("root", Started, A)
    cast.step("failing", A, Finished, undo=undoable, does=fail)
    topology = choreography(namespace, cast.participants, retry=LATER)
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.start()
        await cast.until("failing")
        await stage.parks()
        await stage.choreo.compensate("s1")
        with anyio.fail_after(5):
            view = await stage.choreo.wait("s1")
    assert view.status is State.COMPENSATED
    assert cast.diary == ["root", "failing", *["undo failing"] * undoable, "undo root"]
    if undoable:
        assert cast.results["failing"] is None


async def test_attempts_used_up(connection: Connection, namespace: str, cast: Cast) -> None:
    """A step whose attempts are used up is one dead letter, and the saga unwinds, itself included."""

    async def fail() -> A:
        raise RuntimeError("never")

    cast.step("failing", Started, A, does=fail)
    topology = choreography(namespace, cast.participants, retry=SOON)
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.start()
        view = await stage.ended()
        assert await stage.letters() == ["step-failed"]
    assert (view.status, view.retries, view.dead_letters) == (State.COMPENSATED, 2, 1)
    assert cast.diary == ["failing"] * 3 + ["undo failing"]


async def test_abort_is_not_tried_again(connection: Connection, namespace: str, cast: Cast) -> None:
    """A business failure is final at once."""

    async def refuse() -> A:
        raise Abort("no")

    cast.step("judge", Started, A, does=refuse)
    topology = choreography(namespace, cast.participants, retry=SOON)
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.start()
        assert (await stage.ended()).retries == 0
    assert cast.diary == ["judge"]


async def test_delivered_again_while_parked(connection: Connection, namespace: str, cast: Cast) -> None:
    """An event that is delivered again while its step waits for the next attempt is published of once."""
    failed = anyio.Event()

    async def fail_once() -> A:
        if not failed.is_set():
            failed.set()
            raise RuntimeError("not yet")
        return A()

    cast.step("root", Started, A, does=fail_once)
    cast.step("last", A, Finished)
    topology = choreography(namespace, cast.participants, retry=Retry(attempts=3, first=0.2, jitter=0))
    key = topology.keys.stream(topology.keys.partition("s1"), "facts")
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.start()
        await failed.wait()
        await stage.parks()
        await connection.call("XGROUP", "SETID", key, "root", "0")
        await stage.wake()
        assert (await stage.ended()).status is State.COMPLETED
        assert await stage.published() == ["Started", "A", "Finished"]
    await until(lambda: cast.diary.count("root") >= 2)
    assert cast.diary.count("last") == 1
