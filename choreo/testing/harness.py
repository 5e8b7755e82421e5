"""The harness: a whole choreography beside a test, with a clock of its own."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NoReturn, Self

import anyio
import anyio.to_thread
from anyio.abc import TaskGroup

from choreo.broker.fake import FakeStore
from choreo.choreography import Choreography
from choreo.errors import ChoreoError
from choreo.model.event import Event, type_name
from choreo.model.participant import Participant
from choreo.model.policy import seconds_of
from choreo.runtime.worker import WorkerOptions
from choreo.testing.casting import Cast, Ends, cast
from choreo.testing.director import Director
from choreo.testing.faults import (
    Crash,
    Delay,
    Disconnect,
    Duplicate,
    Fail,
    Fault,
    Faults,
    Hang,
    Moment,
    PlannedFailure,
    Reorder,
    Unwind,
)
from choreo.testing.names import handler_named, participant_named, type_named
from choreo.testing.process import Process
from choreo.testing.sagas import SagaHandle
from choreo.testing.stage import Stage, StagedTracker
from choreo.testing.world import World
from choreo.wire.envelope import SPEC_VERSION, derive_id, encode_data
from choreo.wire.keys import check_saga_id
from choreo.wire.topology import Topology

#: How long `finish` lets time pass at most, in seconds.
LONG_ENOUGH = 86_400.0


#: Attributes of faults that name something -> what they name in a choreography.
_LOOK_UPS: dict[str, Callable[[Cast, Any], str]] = {
    "handler": lambda cast, name: handler_named(cast.participants, name),
    "event": lambda cast, name: type_named(cast.topology, name),
    "participant": lambda cast, name: participant_named(cast.participants, name),
}


#: What a harness has only when it is open.
_OPENED = frozenset({"_director", "_processes", "_stage", "_tracker", "_world", "choreo"})


class FaultDidNotHappen(AssertionError):
    """A planted fault had no chance to happen, so the test has not tested what it says."""


class Harness:
    """A choreography for one test: its participants, the gate and a tracker, on a store in memory.

    ::

        async with Harness("streams.yaml") as shop:
            order = await shop.start(OrderPlaced(...))
            await shop.settle()
            order.assert_status("completed")

    Everything is the real thing but the server, which is fakeredis, and time, which stands still until
    :meth:`advance` or :meth:`finish` moves it. Handlers run in the test's thread, between the test's own
    steps: never while the test itself runs.

    Args:
        source: path of streams.yaml, or a topology. ``None`` with ``participants`` given: one stream.
        participants: take the place of those of the same names in streams.yaml.
        ends: without streams.yaml: the events that begin and end a saga.
        faults: what is to go wrong; see :meth:`plant`.
        options: how workers work: their lease, for one.
        workers: how many processes each participant has.
        seed: decides what :mod:`random` gives to handlers, and choreo's own jitter.
    """

    def __init__(
        self, source: str | Path | Topology | None = None, *, participants: Sequence[Participant] = (),
        ends: Ends | None = None, faults: Iterable[Fault] = (), options: WorkerOptions | None = None,
        workers: int = 1, seed: int = 0,
    ) -> None:  # fmt: skip
        self.cast: Cast = cast(source, participants, ends)
        self._faults = Faults()
        self._workers = workers
        self._options = options or WorkerOptions()
        self.seed = seed
        self._required: list[Fault] = []
        self._sagas: dict[str, SagaHandle] = {}
        self._emitted = 0
        for fault in faults:
            self.plant(fault)

    has_opened = False
    """Whether it is open, or was."""

    def __getattr__(self, name: str) -> NoReturn:
        if name in _OPENED:
            raise RuntimeError("the harness is not open: `async with Harness(...) as shop:` opens it")
        raise AttributeError(f"a harness has no {name!r}")

    # -- opening and closing -----------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        _check_runner()
        self._world = World(self.seed)
        topology, store = self.cast.topology, FakeStore(self._world.clock)
        self._stage = Stage(
            self._world, topology, self.cast.participants, store, self._options, self._faults, self._replace
        )
        self._director = Director(self._stage)
        self.choreo = Choreography(topology, self._stage.connect(), self._world.clock)
        """The client. Its `wait` would wait in vain, for time stands still: use `finish`."""
        self._tracker = StagedTracker(self._stage)
        self._processes: list[Process] = []
        self._ready = False
        self._world.loop.is_at_work = lambda: self._stage.running > 0
        try:
            self._world.start(self._run())
            self._director.settle()
            if not self._ready:
                raise ChoreoError("the participants did not get ready: does a lifespan wait for something?")
        except BaseException:
            self._world.close()
            raise
        self.has_opened = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self._stop()
        finally:
            self._world.close()
        if error is None:
            self.check_faults()

    async def _run(self) -> None:
        """The life of the world: everything runs in one task group, until the world is closed."""
        self._world.loop.threads = anyio.to_thread.current_default_thread_limiter()
        try:
            async with anyio.create_task_group() as self._tasks:
                await self._tasks.start(self._tracker.run)
                for participant in self.cast.participants:
                    for _ in range(self._workers):
                        await self._tasks.start(self._make_process(participant).run)
                self._ready = True
        except BaseExceptionGroup as group:
            raise _first(group) from None

    def _stop(self) -> None:
        """Let everybody close what he has opened; whoever is still at work then is just cancelled."""
        self._stage.closing = True
        for process in self._processes:
            process.stop()
        self._tracker.stop()
        self._world.pump()

    def _make_process(self, participant: Participant) -> Process:
        process = Process(self._stage, participant)
        self._processes.append(process)
        return process

    def _replace(self, crashed: Process) -> None:
        """Start a process in place of one that has crashed."""
        self._processes.remove(crashed)
        tasks: TaskGroup = self._tasks
        tasks.start_soon(self._make_process(crashed.participant).run)

    # -- sagas -------------------------------------------------------------------------------------

    async def start(self, event: Event, *, saga_id: str | None = None) -> SagaHandle:
        """Begin a saga. Nothing of it has happened yet: :meth:`settle` lets it.

        Without an id the sagas are called ``saga-1``, ``saga-2`` and so on. Raises as
        :meth:`choreo.Choreography.start` does.
        """
        saga_id = saga_id or f"saga-{len(self._sagas) + 1}"
        await self.choreo.start(event, saga_id=saga_id)
        return self.saga(saga_id)

    async def emit(self, event: Event, saga_id: str | SagaHandle) -> None:
        """Publish an event of a saga, as a program outside of the choreography may.

        Raises:
            UnroutableEvent: if no stream carries it.
            InvalidSagaId: if the id cannot be one.
        """
        topology, subject, name = self.cast.topology, check_saga_id(str(saga_id)), type_name(event)
        stream = topology.keys.stream(topology.keys.partition(subject), topology.stream_of(name))
        self._emitted += 1
        sagas = list(topology.sagas)
        fields: dict[str, str | bytes | int] = {
            "id": derive_id("test", subject, name, str(self._emitted)), "type": name, "source": "test",
            "subject": subject, "time": self._world.clock(), "specversion": SPEC_VERSION,
            "data": encode_data(event), "sagatype": sagas[0] if len(sagas) == 1 else "",
        }  # fmt: skip
        await self.choreo.broker.connection.call(
            "XADD", stream, "*", *(part for pair in fields.items() if pair[1] for part in pair)
        )
        self.saga(subject)

    async def compensate(self, saga_id: str | SagaHandle, *, note: str = "") -> None:
        """Unwind a running saga, as an operator may; see :meth:`choreo.Choreography.compensate`."""
        await self.choreo.compensate(str(saga_id), note=note, who="test")

    def saga(self, saga_id: str) -> SagaHandle:
        """The saga of this id."""
        if saga_id not in self._sagas:
            self._sagas[saga_id] = SagaHandle(saga_id, self.choreo, self._world.ask)
        return self._sagas[saga_id]

    @property
    def sagas(self) -> list[SagaHandle]:
        """Every saga that was begun here, in that order."""
        return list(self._sagas.values())

    # -- time --------------------------------------------------------------------------------------

    @property
    def added(self) -> list[tuple[bytes, list[bytes]]]:
        """Every entry that was added to a stream: the stream's key, and names and values of its fields."""
        return self._stage.store.added

    @property
    def now(self) -> int:
        """The time of day in this harness: milliseconds since the epoch."""
        return self._world.clock()

    async def settle(self) -> None:
        """Let happen what can happen now, until nothing moves.

        Time passes only as far as handlers that are at work need it. What is due later (a retry, a delayed
        event, a deadline, the lease of a crashed worker) stays as it is.
        """
        self._director.settle()

    async def advance(
        self, duration: float | timedelta = 0, *, hours: float = 0, minutes: float = 0, seconds: float = 0
    ) -> None:
        """Let time pass; what falls due in it happens in order. A bare ``duration`` is in seconds."""
        self._director.advance(seconds_of(duration) + hours * 3600 + minutes * 60 + seconds)

    async def finish(self, within: float | timedelta = LONG_ENOUGH) -> None:
        """Let time pass until nothing is due any more, at most ``within`` seconds (a day)."""
        self._director.finish(seconds_of(within))

    async def jump_clock(self, seconds: float) -> None:
        """Set the clock on the wall, the server's too, forward: a time of day jumps, no time passes."""
        self._world.ahead += round(seconds * 1000)
        self._director.settle()

    # -- faults ------------------------------------------------------------------------------------

    @property
    def planted(self) -> list[Fault]:
        """Everything that is to go wrong, or has."""
        return list(self._faults.planted)

    def plant(self, fault: Fault, *, required: bool = True) -> Fault:
        """Have something go wrong. If it is ``required``, the test fails in the end if it did not happen.

        Returns the planted copy; its ``happened`` says how often it has happened.

        Raises:
            ValueError: if it names something that is not there.
        """
        planted = dataclasses.replace(fault)
        for attribute, look_up in _LOOK_UPS.items():
            if getattr(planted, attribute, None) is not None:
                setattr(planted, attribute, look_up(self.cast, getattr(planted, attribute)))
        self._faults.planted.append(planted)
        if required:
            self._required.append(planted)
        return planted

    def fail(
        self, handler: Any, *, times: int = 1, error: Exception | type[Exception] = PlannedFailure,
        when: Literal["before", "after effect"] = "before",
    ) -> Fault:  # fmt: skip
        """Have a step or an undo raise ``error``, the next ``times`` times that it runs.

        ``handler`` is ``"participant/step"``, ``"participant/undo"``, the step itself or the undo's function.
        """
        return self.plant(Fail(handler, error, when, times=times))

    def hang(self, handler: Any, *, times: int = 1) -> Fault:
        """Have a step or an undo not return, until its timeout."""
        return self.plant(Hang(handler, times=times))

    def crash(self, handler: Any, *, when: Moment = "after effect", times: int = 1) -> Fault:
        """Kill the process in which a step or an undo runs; see :class:`~choreo.testing.Crash`."""
        return self.plant(Crash(handler, when, times=times))

    def duplicate(self, event: type[Event] | str, *, times: int = 1) -> Fault:
        """Have an event stand twice in its stream."""
        return self.plant(Duplicate(type_named(self.cast.topology, event), times=times))

    def delay(self, event: type[Event] | str, *, seconds: float = 1.0, times: int = 1) -> Fault:
        """Have an event reach its participants late."""
        return self.plant(Delay(type_named(self.cast.topology, event), seconds, times=times))

    def reorder(self) -> Fault:
        """Of what arrives together, let the last come first."""
        return self.plant(Reorder())

    def disconnect(self, participant: str | None = None, *, seconds: float = 2.0, times: int = 1) -> Fault:
        """Lose the answer to a participant's next commit, and let it not reach the server for a while."""
        return self.plant(Disconnect(participant, seconds, times=times))

    def unwind(
        self, handler: Any, *, when: Literal["after effect", "after commit"] = "after commit", times: int = 1
    ) -> Fault:
        """Have an operator unwind the saga in which the step ``handler`` takes effect next, right then."""
        return self.plant(Unwind(handler, when, times=times))

    def check_faults(self) -> None:
        """Raises:
        FaultDidNotHappen: if a fault that is required has not happened as often as it was to.
        """
        missing = [fault for fault in self._required if not fault.is_through]
        if missing:
            told = "\n".join(f"  {fault!r}: happened {fault.happened} times" for fault in missing)
            raise FaultDidNotHappen(f"planted, but did not happen:\n{told}")


def _check_runner() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        raise ChoreoError(
            "a harness runs beside a test on asyncio; let the fixture `anyio_backend` return \"asyncio\""
        ) from None


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    """The first error of a group, within however many groups."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
