"""Undos run in reverse causal order: nothing is undone before what it caused."""

from __future__ import annotations

import anyio
import pytest
from saga_cast import A, B, C, Cast, D, E, Refused, Started
from saga_kit import choreography, on_stage, reactions
from saga_wait import until

from choreo import Abort
from choreo.broker.connection import Connection
from choreo.model.facts import Kind
from choreo.model.saga import State

pytestmark = pytest.mark.anyio


async def refuse() -> None:
    raise Abort("no")


async def test_chain(connection: Connection, namespace: str, cast: Cast) -> None:
    """A chain of four unwinds exactly backwards, from the last to the first."""
    cast.step("one", Started, A)
    cast.step("two", A, B)
    cast.step("three", B, C)
    cast.step("four", C, D)
    cast.step("last", D, does=refuse)
    topology = choreography(namespace, cast.participants)
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.start()
        view = await stage.ended()
        trace = reactions(await stage.choreo.trace("s1"))
        assert await stage.published() == ["Started", "A", "B", "C", "D"]
    assert cast.diary[:5] == ["one", "two", "three", "four", "last"]
    assert cast.diary[5:] == ["undo four", "undo three", "undo two", "undo one"]
    assert view.status is State.COMPENSATED
    assert view.done == view.undone == {"one/one": 1, "two/two": 1, "three/three": 1, "four/four": 1}
    assert view.reason == "last/last: no"
    backwards = [trace[f"{name}/{name}"].undone_by[0] for name in ("four", "three", "two", "one")]
    assert [undo.order for undo in backwards] == [1, 2, 3, 4]


async def test_step_without_undo_between(connection: Connection, namespace: str, cast: Cast) -> None:
    """A step without undo is stepped over: what stands behind it is undone before what stands before it."""
    cast.step("one", Started, A)
    cast.step("reader", A, B, undo=False)
    cast.step("three", B, C)
    cast.step("last", C, does=refuse)
    topology = choreography(namespace, cast.participants)
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.start()
        assert (await stage.ended()).status is State.COMPENSATED
    assert cast.undone() == ["three", "one"]


async def test_two_branches(connection: Connection, namespace: str, cast: Cast) -> None:
    """Two branches unwind side by side, each backwards; their common ancestor comes last."""
    met = {"left": anyio.Event(), "right": anyio.Event()}

    async def meet(mine: str, other: str) -> None:
        met[mine].set()
        with anyio.fail_after(5):
            await met[other].wait()

    cast.step("root", Started, A)
    cast.step("left", A, B)
    cast.step("left2", B, D, undoes=lambda: meet("left", "right"))
    cast.step("right", A, C, undoes=lambda: meet("right", "left"))
    cast.step("judge", (C, D), undo=False, does=refuse)
    topology = choreography(namespace, cast.participants)
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.start()
        view = await stage.ended()
    assert view.status is State.COMPENSATED
    undone = cast.undone()
    assert sorted(undone[:2]) == ["left2", "right"]
    assert undone[2:] == ["left", "root"]


async def test_join(connection: Connection, namespace: str, cast: Cast) -> None:
    """A join is undone before both of its branches."""
    cast.step("left", Started, A)
    cast.step("right", Started, B)
    cast.step("join", (A, B), C)
    cast.step("last", C, does=refuse)
    topology = choreography(namespace, cast.participants)
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.start()
        assert (await stage.ended()).status is State.COMPENSATED
    assert cast.undone()[0] == "join"
    assert sorted(cast.undone()[1:]) == ["left", "right"]
    assert cast.results["join"] == C()


async def test_diamond(connection: Connection, namespace: str, cast: Cast) -> None:
    """A diamond unwinds from its end: the join, then the branches, then the root."""
    cast.step("root", Started, A)
    cast.step("left", A, B)
    cast.step("right", A, C)
    cast.step("join", (B, C), D)
    cast.step("after", D, E)
    cast.step("last", E, Refused, undo=False)
    topology = choreography(namespace, cast.participants)
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.start()
        assert (await stage.ended()).status is State.COMPENSATED
    undone = cast.undone()
    assert (undone[:2], sorted(undone[2:4]), undone[4:]) == (["after", "join"], ["left", "right"], ["root"])


async def test_join_that_never_fired(connection: Connection, namespace: str, cast: Cast) -> None:
    """A join that lacks an event when the saga aborts does not run; its branch is undone, and of the
    saga's work nothing is left.
    """
    cast.step("left", Started, A)
    cast.step("join", (A, B), C)
    cast.step("listener", C, B)  # makes B known; nobody emits it in time
    topology = choreography(namespace, cast.participants)
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.start()
        await cast.until("left")
        await stage.quiet()
        assert await stage.choreo.compensate("s1") is State.COMPENSATING
        assert (await stage.ended()).status is State.COMPENSATED
        assert await stage.has_no_work()
    assert cast.diary == ["left", "undo left"]


async def test_under_way(connection: Connection, namespace: str, cast: Cast) -> None:
    """A step that is under way when its saga aborts still commits. Its events are withheld, it is undone
    itself with its result, and only then what caused it; before that the saga is not compensated.
    """
    release = anyio.Event()

    async def wait() -> B:
        await release.wait()
        return B()

    async def refuse_when_slow_runs() -> None:
        await cast.until("slow")
        raise Abort("no")

    cast.step("root", Started, A)
    cast.step("slow", A, B, does=wait)
    cast.step("breaker", A, does=refuse_when_slow_runs)
    cast.step("listener", B)
    topology = choreography(namespace, cast.participants)
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.start()
        await cast.until("breaker")
        await stage.is_in(State.COMPENSATING)
        assert cast.undone() == []

        release.set()
        view = await stage.ended()
        trace = reactions(await stage.choreo.trace("s1"))
        assert await stage.published() == ["Started", "A"]
    assert view.status is State.COMPENSATED
    assert cast.undone() == ["slow", "root"]
    assert cast.results["slow"] == B()
    assert "listener" not in cast.diary
    assert (trace["slow/slow"].outcome, trace["slow/slow"].note) == (Kind.LATE, "B")


async def test_several_under_way(connection: Connection, namespace: str, cast: Cast) -> None:
    """What caused steps that are under way is undone when the last of them is undone."""
    releases = {name: anyio.Event() for name in ("fast", "slow")}

    async def wait(name: str) -> B:
        await releases[name].wait()
        return B()

    cast.step("root", Started, A)
    cast.step("fast", A, B, does=lambda: wait("fast"))
    cast.step("slow", A, B, does=lambda: wait("slow"))
    topology = choreography(namespace, cast.participants)
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.start()
        await cast.until("fast", "slow")
        await stage.choreo.compensate("s1")
        releases["fast"].set()
        await until(lambda: "undo fast" in cast.diary)
        assert await stage.state() is State.COMPENSATING
        releases["slow"].set()
        assert (await stage.ended()).status is State.COMPENSATED
    assert cast.undone() == ["fast", "slow", "root"]


async def test_event_that_nobody_had_read_yet(connection: Connection, namespace: str, cast: Cast) -> None:
    """A step whose event was published before the abort, and read after it, does not run."""
    cast.step("root", Started, A)
    cast.step("late", A, B)
    late = cast.participants.pop()
    topology = choreography(namespace, [*cast.participants, late])
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.start()
        await stage.quiet()
        await stage.choreo.compensate("s1")
        assert (await stage.ended()).status is State.COMPENSATED
        await stage.add(late)
        view = await stage.view()
        trace = reactions(await stage.choreo.trace("s1"))
    assert cast.diary == ["root", "undo root"]
    assert view.status is State.COMPENSATED
    assert trace["late/late"].outcome is Kind.SKIPPED
