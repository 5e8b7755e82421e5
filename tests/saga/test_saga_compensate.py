"""An operator unwinds a saga; also when that races against the saga's own end."""

from __future__ import annotations

from collections import Counter

import anyio
import pytest
from saga_cast import A, Cast, Finished, Started
from saga_kit import choreography, on_stage
from saga_wait import until

from choreo import Choreography
from choreo.broker.connection import Connection
from choreo.errors import SagaClosed, SagaNotFound
from choreo.model.saga import State

pytestmark = pytest.mark.anyio

RACES = 1_000
#: Sagas that race at a time.
HEAT = 50


async def test_running_saga(connection: Connection, namespace: str, cast: Cast) -> None:
    """A running saga is unwound on an operator's word; who it was and why is kept."""
    cast.step("root", Started, A)
    topology = choreography(namespace, cast.participants)
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.start()
        await stage.quiet()
        assert await stage.choreo.compensate("s1", note="wrong customer", who="ada") is State.COMPENSATING
        view = await stage.ended()
        trace = await stage.choreo.trace("s1")
    assert (view.status, view.reason) == (State.COMPENSATED, "wrong customer (ada)")
    assert cast.diary == ["root", "undo root"]
    assert [(each.kind, each.note, each.detail) for each in trace.incidents] == [
        ("ordered", "wrong customer", "ada")
    ]  # fmt: skip


async def test_nothing_to_undo(connection: Connection, namespace: str, cast: Cast) -> None:
    """A saga without effects is compensated at once, and says so at once."""
    cast.step("root", Started, A, undo=False)
    topology = choreography(namespace, cast.participants)
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.start()
        await stage.quiet()
        assert await stage.choreo.compensate("s1") is State.COMPENSATED
        assert (await stage.ended()).status is State.COMPENSATED


async def test_unread_saga(connection: Connection, namespace: str, cast: Cast) -> None:
    """A saga that was started, and that nobody has read yet, can be unwound: then no step runs."""
    cast.step("root", Started, A)
    topology = choreography(namespace, cast.participants)
    async with on_stage(connection, topology, []) as stage:
        await stage.start()
        assert await stage.choreo.compensate("s1") is State.COMPENSATED
        await stage.add(cast.participants[0])
        assert (await stage.ended()).status is State.COMPENSATED
    assert cast.diary == []


async def test_unknown_saga(connection: Connection, namespace: str) -> None:
    """A saga that nobody knows cannot be unwound."""
    async with on_stage(connection, choreography(namespace, []), []) as stage:
        with pytest.raises(SagaNotFound, match="'nobody'"):
            await stage.choreo.compensate("nobody")


async def test_ended_saga(connection: Connection, namespace: str, cast: Cast) -> None:
    """A saga that has ended, or unwinds already, cannot be unwound again; the error says how it stands."""
    gate = anyio.Event()

    async def wait() -> None:
        await gate.wait()

    cast.step("root", Started, A, undoes=wait)
    ends = Cast()
    ends.step("last", A, Finished)
    participants = [*cast.participants, *ends.participants]
    topology = choreography(namespace, participants)
    async with on_stage(connection, topology, participants) as stage:
        await stage.start(saga="completed")
        assert (await stage.ended("completed")).status is State.COMPLETED
        stage.workers["last"][0].stop()
        await stage.start(saga="unwinding")
        await until(lambda: cast.diary.count("root") == 2)
        await stage.choreo.compensate("unwinding")
        for saga, state in (("completed", "completed"), ("unwinding", "compensating")):
            with pytest.raises(SagaClosed, match=state) as closed:
                await stage.choreo.compensate(saga)
            assert closed.value.state == state
        gate.set()
        await stage.is_in(State.COMPENSATED, "unwinding")
        with pytest.raises(SagaClosed) as closed:
            await stage.choreo.compensate("unwinding")
        assert closed.value.state == "compensated"


class Race:
    """Sagas whose last step and two operators decide at the same moment."""

    def __init__(self, cast: Cast) -> None:
        self.about_to_end: dict[str, anyio.Event] = {}
        self.told: dict[str, list[str]] = {}
        cast.step("root", Started, A)
        cast.step("last", A, Finished, does=self._end)
        self._cast = cast

    async def _end(self) -> Finished:
        saga = self._cast.contexts["last"][-1].saga_id
        self.about_to_end[saga].set()
        return Finished()

    async def run(self, choreo: Choreography, saga: str) -> None:
        """One race: tells in ``told`` what each operator was told."""
        self.about_to_end[saga] = anyio.Event()
        self.told[saga] = []
        await choreo.start(Started(), saga_id=saga)
        await self.about_to_end[saga].wait()
        async with anyio.create_task_group() as operators:
            operators.start_soon(self._order, choreo, saga)
            operators.start_soon(self._order, choreo, saga)

    async def _order(self, choreo: Choreography, saga: str) -> None:
        try:
            self.told[saga].append((await choreo.compensate(saga)).value)
        except SagaClosed as closed:
            self.told[saga].append(f"closed: {closed.state}")


async def test_race_against_the_last_step(
    anyio_backend: str, server_url: str, namespace: str, cast: Cast
) -> None:
    """An order to unwind that races against the last step has one outcome, and everybody is told the
    same: who was obeyed sees a compensated saga, who was told that it is completed a completed one.
    The tracker's view agrees, every effect is undone or none, and both outcomes do come up.
    """
    connection = Connection.open(server_url)
    race = Race(cast)
    topology = choreography(namespace, cast.participants)
    sagas = [f"race-{number}" for number in range(RACES)]
    async with on_stage(connection, topology, cast.participants) as stage:
        for first in range(0, RACES, HEAT):
            async with anyio.create_task_group() as heat:
                for saga in sagas[first : first + HEAT]:
                    heat.start_soon(race.run, stage.choreo, saga)
        await stage.quiet()
        views = {view.id: view for view in await stage.choreo.sagas(limit=RACES)}
        states = {saga: await stage.state(saga) for saga in sagas}
    await connection.close()

    outcomes: Counter[State] = Counter()
    for saga in sagas:
        told, view = set(race.told[saga]), views[saga]
        assert view.status is states[saga]
        outcomes[view.status] += 1
        if view.status is State.COMPLETED:
            assert race.told[saga] == ["closed: completed"] * 2
            assert view.undone == {}
        else:
            assert view.status is State.COMPENSATED
            assert len([each for each in race.told[saga] if not each.startswith("closed")]) == 1
            assert told & {"compensating", "compensated"}
            assert not told & {"closed: completed"}
            assert view.undone == view.done == {"root/root": 1, "last/last": 1}
        assert len(race.told[saga]) == 2
    assert set(outcomes) == {State.COMPLETED, State.COMPENSATED}, outcomes
