"""Processes in a world: real workers and a real tracker, each behind a line that faults can cut."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import anyio
from anyio.abc import TaskStatus

from choreo.broker.broker import Broker
from choreo.broker.clock import ServerClock
from choreo.broker.connection import Argument, Connection
from choreo.broker.fake import FakeConnection, FakeStore, Link
from choreo.broker.gate import (
    Answer,
    Begin,
    BeginUndo,
    Decision,
    Gate,
    Identity,
    Look,
    RetryUndo,
    Stuck,
    Undone,
)
from choreo.broker.groups import Delivery
from choreo.broker.patience import LONGEST_PAUSE
from choreo.errors import BrokerUnavailable
from choreo.model.context import Context
from choreo.model.participant import Participant, Step, Undo, wrapped
from choreo.runtime.delivery import Handling
from choreo.runtime.lives import own_task
from choreo.runtime.parked import Work
from choreo.runtime.worker import Worker, WorkerOptions
from choreo.testing.world import World, without_loop
from choreo.tracker.follower import Tracker
from choreo.wire.topology import Topology

#: Seconds after which the tracker looks whether a deadline has passed, if nothing wakes it.
_TRACKERS_LOOK = 0.5


@dataclass(frozen=True, slots=True)
class Call:
    """A handler that is about to run, or has run."""

    handler: str
    """``participant/step``, or ``participant/step/undo``."""
    context: Context
    process: Process


class Watcher(Protocol):
    """What faults are told, and may interfere with. Each of these may wait, raise, or end the process."""

    async def arriving(self, process: Process, delivery: Delivery, work: Work) -> None:
        """A process has got a delivery, and has not asked the gate yet."""

    async def before(self, call: Call) -> None:
        """A handler is about to run."""

    async def after(self, call: Call) -> None:
        """A handler has run; nothing of it is committed yet."""

    async def committing(self, process: Process, decisions: Sequence[Decision]) -> None:
        """Decisions are about to be sent to the gate."""

    async def committed(self, process: Process, decisions: Sequence[Decision]) -> None:
        """The gate has decided; the process has not got the answer yet."""

    async def on_the_way(self, process: Process) -> None:
        """A request is on its way to the store."""


class VirtualClock(ServerClock):
    """The world's clock, wherever choreo would follow the server's."""

    def __init__(self, connection: Connection, world: World) -> None:
        super().__init__(connection, world.loop.time)
        self._world = world

    def __call__(self) -> int:
        """Milliseconds since the epoch."""
        return self._world.clock()

    @property
    def known(self) -> bool:
        """Always: there is no other time."""
        return True

    async def refresh(self) -> None:
        """Nothing: it is right."""

    async def follow(self) -> None:
        """Nothing, until cancelled."""
        await anyio.sleep_forever()


class Line(Link):
    """A process's connection, which can be cut."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.process: Process | None = None
        self.dead = False
        """Whether the process is gone."""
        self.down_until = 0.0
        """Until when (the loop's time) the store cannot be reached."""

    async def request(self, commands: Sequence[Sequence[Argument]]) -> None:
        self._check()
        if self.process is not None:
            await self.process.stage.watcher.on_the_way(self.process)
            self._check()

    def _check(self) -> None:
        if self.dead:
            raise BrokerUnavailable("this process has crashed")
        if self._world.loop.now < self.down_until:
            raise BrokerUnavailable("the line to the server is cut")


@dataclass
class Stage:
    """Everything that processes of one world share."""

    world: World
    topology: Topology
    participants: Sequence[Participant]
    store: FakeStore
    options: WorkerOptions
    watcher: Watcher
    crash: Callable[[Process], None]
    """Ends a process as if it was killed, and starts another one in its place."""
    running: int = 0
    """Handlers that run now, hung ones aside."""
    hung: int = 0
    """Handlers that wait for their timeout because a fault has them hang."""
    in_hand: int = 0
    """Deliveries in the hands of processes that live."""
    held: int = 0
    """Those of them that a fault holds back."""
    travelling: int = 0
    """Requests that are on their way, and handlers that are about to run."""
    appointments: list[float] = field(default_factory=list)
    """When (the loop's time) something happens that a fault waits for."""
    tokens: int = 0
    """How many tokens were made."""
    recovers_until: float = 0.0
    """Until when processes may still wait for a server that was away."""
    idle_calls: list[Callable[[], None]] = field(default_factory=list)
    """What is to be called when nothing else moves, one at a time."""

    def connect(self, link: Link | None = None, look: float = 30.0) -> Broker:
        """A broker on a connection of its own, whose readers look again after ``look`` seconds."""
        broker = Broker(FakeConnection(self.store, link, look), self.topology.keys)
        broker.clock = VirtualClock(broker.connection, self.world)
        return broker

    def groups(self) -> Iterator[tuple[str, str]]:
        """Each stream that a participant reads, with the participant."""
        keys = self.topology.keys
        for participant in self.participants:
            heard = sorted({self.topology.stream_of(name) for name in participant.reactions})
            for partition in range(keys.partitions):
                yield keys.inbox(partition, participant.name), participant.name
                for topic in heard:
                    yield keys.stream(partition, topic), participant.name

    def make_token(self) -> str:
        """A token for an attempt: unique, and the same in each run."""
        self.tokens += 1
        return f"t{self.tokens}"

    @property
    def moving(self) -> bool:
        """Whether something is under way that ends by itself, and soon."""
        return bool(self.running or self.travelling or self.in_hand > self.hung + self.held)

    @property
    def recovering(self) -> bool:
        """Whether a process may still wait for a server that was away."""
        return self.world.loop.now < self.recovers_until

    def cut(self, line: Line, seconds: float) -> None:
        """Let a process not reach the server for a while."""
        line.down_until = self.world.loop.now + seconds
        self.appoint(line.down_until)
        self.recovers_until = max(self.recovers_until, line.down_until + 2 * LONGEST_PAUSE)

    async def hold_back(self, seconds: float) -> None:
        """Wait with a delivery, for so many seconds of this world's time."""
        self.appoint(self.world.loop.now + seconds)
        self.held += 1
        try:
            await anyio.sleep(seconds)
        finally:
            self.held -= 1

    async def hang(self) -> None:
        """Do nothing, until the deadline of whoever waits for it."""
        self.appoint(anyio.current_effective_deadline())
        self.hung += 1
        try:
            await anyio.sleep_forever()
        finally:
            self.hung -= 1

    def appoint(self, moment: float) -> None:
        """Time shall not jump past ``moment``, for something happens then."""
        if moment != math.inf:
            self.appointments.append(moment)


@dataclass(eq=False)
class Process:
    """One worker of one participant. It lives until it is stopped, or crashes."""

    stage: Stage
    participant: Participant
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    crashed: bool = False

    def __post_init__(self) -> None:
        self.name = self.participant.name
        self.line = Line(self.stage.world)
        self.broker = self.stage.connect(self.line)
        self.broker.gate = _StagedGate(self.broker.connection, self.stage.topology.keys, self)
        self._worker = _StagedWorker(self)

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Work until stopped, or until the process crashes."""
        self.line.process = self
        with self.scope:
            await self._worker.run(task_status=task_status)
        await self.broker.connection.close()

    def stop(self) -> None:
        """Let the worker finish what it has in hand, and end."""
        self._worker.stop()
        _wake(self.broker)

    def crash(self) -> BrokerUnavailable:
        """The process is gone: it finishes nothing, and says goodbye to nobody.

        Returns what to raise where the caller cannot be cancelled.
        """
        if not self.crashed:
            self.crashed = self.line.dead = True
            self.scope.cancel()
            self.stage.crash(self)
        return BrokerUnavailable("this process has crashed")

    def wrap(self, step: Step[Any], handler: Step[Any] | Undo) -> Callable[..., Any]:
        """The handler as it runs here: faults come before and after it, and no thread is needed."""
        label = f"{step.participant}/{step.name}"
        if isinstance(handler, Undo):
            label += f"/{handler.name}"
        function, takes_context = handler.function, handler.takes_context

        @functools.wraps(function)
        async def run(*arguments: Any) -> Any:
            call = Call(label, arguments[-1], self)
            await self.stage.watcher.before(call)
            result = await self._run(function, arguments if takes_context else arguments[:-1])
            await self.stage.watcher.after(call)
            return result

        return run

    async def _run(self, function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
        self.stage.running += 1
        try:
            if inspect.iscoroutinefunction(function):
                return await function(*arguments)
            with without_loop():
                return function(*arguments)
        finally:
            self.stage.running -= 1


class StagedTracker(Tracker):
    """The tracker of a world. No fault befalls it: that views may be late is no business of a saga's."""

    def __init__(self, stage: Stage) -> None:
        self._stage_broker = stage.connect(look=_TRACKERS_LOOK)
        super().__init__(stage.topology, self._stage_broker, stage.world.clock)

    def stop(self) -> None:
        """Begin to stop."""
        super().stop()
        _wake(self._stage_broker)


class _StagedWorker(Worker):
    """A worker whose handlers and deliveries are watched."""

    def __init__(self, process: Process) -> None:
        stage = process.stage
        super().__init__(
            wrapped(process.participant, process.wrap), stage.topology, process.broker,
            options=stage.options, clock=stage.world.clock,
        )  # fmt: skip
        self._process = process

    def _make_handling(self, resources: Any) -> Handling:
        handling = super()._make_handling(resources)
        handling.draft = dataclasses.replace(handling.draft, make_token=self._process.stage.make_token)
        return handling

    async def _handle(self, handling: Handling, delivery: Delivery, work: Work) -> None:
        stage = self._process.stage
        stage.in_hand += 1
        try:
            await own_task()
            await stage.watcher.arriving(self._process, delivery, work)
            await super()._handle(handling, delivery, work)
        finally:
            stage.in_hand -= 1


class _StagedGate(Gate):
    """Tells of decisions before and after they are committed."""

    def __init__(self, connection: Connection, keys: Any, process: Process) -> None:
        super().__init__(connection, keys)
        self._process = process

    async def decide(
        self, identity: Identity, now: int, batches: Sequence[tuple[int, Sequence[Decision]]]
    ) -> list[list[Answer] | Exception]:
        decisions = [decision for _, batch in batches for decision in batch]
        watcher = self._process.stage.watcher
        await watcher.committing(self._process, decisions)
        answers = await super().decide(identity, now, batches)
        await watcher.committed(self._process, decisions)
        return answers


def _wake(broker: Broker) -> None:
    """Let its readers look again."""
    assert isinstance(broker.connection, FakeConnection)
    broker.connection.wake()


def handler_of(process: Process, decision: Decision) -> str:
    """The handler that a decision is about, as :attr:`Call.handler` names it."""
    step = f"{process.name}/{decision.head.step}"
    return f"{step}/{decision.undo}" if isinstance(decision, BeginUndo | RetryUndo | Undone | Stuck) else step


def settles(decision: Decision) -> bool:
    """Whether a decision says what came of a handler, and not only asks whether it may run."""
    return not isinstance(decision, Look | Begin | BeginUndo)
