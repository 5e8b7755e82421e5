"""Processes in a world: real workers and a real tracker, each behind a line that faults can cut."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import anyio

from choreo.broker.broker import Broker
from choreo.broker.clock import ServerClock
from choreo.broker.connection import Argument, Connection
from choreo.broker.fake import FakeStore
from choreo.broker.fake_connection import FakeConnection, Link
from choreo.broker.gate import (
    Decision,
)
from choreo.broker.groups import Delivery
from choreo.broker.patience import LONGEST_PAUSE
from choreo.errors import BrokerUnavailable
from choreo.model.context import Context
from choreo.model.participant import Participant
from choreo.runtime.parked import Work
from choreo.runtime.worker import WorkerOptions
from choreo.testing.world import World
from choreo.tracker.follower import Tracker
from choreo.wire.topology import Topology

if TYPE_CHECKING:
    from choreo.testing.process import Process

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
    tracker: StagedTracker | None = None
    shaken: bool = False
    """Whether a process has crashed, or lost the server: deliveries may lie there that nobody holds."""
    closing: bool = False
    """Whether the harness is being closed."""
    tokens: int = 0
    """How many tokens were made."""
    recovers_until: float = 0.0
    """Until when processes may still wait for a server that was away."""
    idle_calls: list[Callable[[], None]] = field(default_factory=list)
    """What is to be called when nothing else moves, one at a time."""

    def connect(self, link: Link | None = None, look: float = 30.0) -> Broker:
        """A broker on a connection of its own, whose readers look again after ``look`` seconds."""
        return self.broker_on(FakeConnection(self.store, link, look))

    def broker_on(self, connection: Connection) -> Broker:
        """A broker on a connection, with this world's clock."""
        broker = Broker(connection, self.topology.keys)
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

    def next_idle_call(self) -> bool:
        """Nothing moves: let one thing happen that waits for that, if there is one.

        What is held back comes first. The tracker comes last: what it reads in one go need not be read
        entry by entry.
        """
        if self.idle_calls:
            self.idle_calls.pop()()
            return True
        return self.tracker is not None and self.tracker.look()

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
        self.shaken = True
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


class StagedTracker(Tracker):
    """The tracker of a world. No fault befalls it: that views may be late is no business of a saga's."""

    def __init__(self, stage: Stage) -> None:
        self._line = LazyConnection(stage.store, look=_TRACKERS_LOOK)
        super().__init__(stage.topology, stage.broker_on(self._line), stage.world.clock)
        stage.tracker = self

    def look(self) -> bool:
        """Look at what is new. Returns whether anything is."""
        return self._line.look()

    def stop(self) -> None:
        """Begin to stop."""
        super().stop()
        self._line.wake()


class LazyConnection(FakeConnection):
    """A connection whose readers are not woken by what is new, but when they are told to look."""

    _unread = False

    def look(self) -> bool:
        """Wake the readers if there is something new. Returns whether there is."""
        unread, self._unread = self._unread, False
        if unread:
            self.wake()
        return unread

    def on_news(self, stream: bytes, group: bytes | None) -> None:
        """Remember that there is something new."""
        self._unread = self._unread or group is None


def wake(broker: Broker) -> None:
    """Let its readers look again."""
    assert isinstance(broker.connection, FakeConnection)
    broker.connection.wake()
