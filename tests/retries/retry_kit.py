"""A stage for choreographies whose handlers fail, and looks at everything that was written."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import anyio
from anyio.abc import TaskStatus

from choreo import Choreography, Event, Participant, Retry
from choreo.broker.broker import Broker
from choreo.broker.clock import Clock, wall_clock
from choreo.broker.connection import Argument
from choreo.errors import BrokerError, SagaNotFound
from choreo.model.facts import View
from choreo.runtime.worker import Worker, WorkerOptions
from choreo.tracker.follower import Tracker
from choreo.wire.topology import SagaType, Topology

#: Seconds within which whatever a test waits for must come.
PATIENCE = 20.0
#: A time of day (ms), for clocks and decisions by hand.
NOW = 1_700_000_000_000
#: A backoff so long that no test sees the end of it.
NEVER = Retry(attempts=5, first=3600, limit=3600, jitter=0)
#: Amounts of orders that kill whoever handles them, or take a while.
DEADLY, SLOW = 13, 14


def quick(attempts: int, **values: Any) -> Retry:
    """Attempts that follow each other at once."""
    return Retry(attempts=attempts, first=0.001, limit=0.001, **values)


class Placed(Event):
    amount: int = 1


class Paid(Event):
    amount: int = 1
    note: str = ""


class Declined(Event):
    pass


class Refunded(Event):
    amount: int = 1


class Reserved(Event):
    pass


class Released(Event):
    pass


class Shipped(Event):
    pass


ORDER = SagaType("order", frozenset({"Placed"}), frozenset({"Shipped"}), False, frozenset({"Declined"}))
STREAMS = {
    "orders": ("Placed", "Shipped"),
    "money": ("Paid", "Declined", "Refunded"),
    "stock": ("Reserved", "Released"),
}

Fields: TypeAlias = dict[str, str]


def topology_of(namespace: str, partitions: int = 1) -> Topology:
    return Topology(namespace, partitions, STREAMS, {}, {"order": ORDER})


class HandClock:
    """A clock that stands still until a test moves it. Milliseconds."""

    def __init__(self, now: int = NOW) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += round(seconds * 1000)


async def until(condition: Callable[[], Any], what: str, *, seconds: float = PATIENCE) -> None:
    """Wait until ``condition`` (async or not) holds; fail, naming ``what``, if it does not in time."""
    with anyio.move_on_after(seconds):
        while True:
            answer = condition()
            if await answer if inspect.isawaitable(answer) else answer:
                return
            await anyio.sleep(0.01)
    raise AssertionError(f"waited {seconds:g} s for {what}")


async def until_view(choreo: Choreography, saga_id: str, shows: Callable[[View], object], what: str) -> View:
    """Wait until the tracker's view of a saga shows what is wanted. Returns it."""
    found: list[View] = []

    async def look() -> bool:
        with suppress(SagaNotFound):
            found[:] = [await choreo.view(saga_id)]
        return bool(found and shows(found[0]))

    await until(look, f"the view of {saga_id} to show {what}")
    return found[0]


@contextmanager
def elsewhere(work: Callable[[], Coroutine[Any, Any, None]]) -> Iterator[None]:
    """Run ``work`` in a thread and an event loop of its own, until the block ends."""
    started: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = []
    ready = threading.Event()

    async def run() -> None:
        task = asyncio.ensure_future(work())
        started.append((asyncio.get_running_loop(), task))
        ready.set()
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        assert ready.wait(PATIENCE)
        yield
    finally:
        loop, task = started[0]
        loop.call_soon_threadsafe(task.cancel)
        thread.join(PATIENCE)


@dataclass(frozen=True)
class Mover:
    """Moves due timers without a pause, so that tests need not wait until a worker looks at them."""

    broker: Broker
    clock: Clock

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        while True:
            with suppress(BrokerError):
                await self.broker.timers.move_due(self.clock())
            await anyio.sleep(0.01)


@dataclass(frozen=True)
class Stage:
    """A namespace on a store: plays choreographies on it, and shows everything that was written."""

    topology: Topology
    broker: Broker

    def worker(self, participant: Participant, clock: Clock = wall_clock, **options: Any) -> Worker:
        return Worker(participant, self.topology, self.broker, options=WorkerOptions(**options), clock=clock)

    @asynccontextmanager
    async def running(self, *services: Worker | Tracker | Mover) -> AsyncIterator[None]:
        """Run services while the block runs; then end them where they stand, as killed processes end."""
        try:
            async with anyio.create_task_group() as tasks:
                for service in services:
                    await tasks.start(service.run)
                yield
                tasks.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            raise _only(group) from None

    @asynccontextmanager
    async def playing(
        self, *participants: Participant, clock: Clock = wall_clock, mover: bool = True, **options: Any
    ) -> AsyncIterator[Choreography]:
        """Run a worker of each participant, and a tracker, while the block runs. Yields a client.

        ``mover``: whether due timers are moved at once, and not only when a worker looks at them.
        """
        services: list[Worker | Tracker | Mover] = [
            self.worker(each, clock, **options) for each in participants
        ]
        if mover:
            services.append(Mover(self.broker, clock))
        async with self.running(*services, Tracker(self.topology, self.broker)):
            yield Choreography(self.topology, self.broker, clock)

    async def move_due(self, now: int) -> tuple[int, int | None]:
        """Move what is due. Returns how many that were, and when the next one is due."""
        moved = await self.broker.timers.move_due(now)
        return moved.count, moved.following

    # -- looks -------------------------------------------------------------------------------------

    async def call(self, *command: Argument) -> Any:
        return await self.broker.connection.call(*command)

    async def entries(self, key: str) -> list[Fields]:
        """The fields of every entry of a stream, given as its key without the partition."""
        found = []
        for partition in range(self.topology.partitions):
            name = f"{{{self.topology.namespace}:{partition}}}:{key}"
            for _, flat in await self.call("XRANGE", name, "-", "+"):
                found.append(decoded(flat))
        return found

    async def emitted(self, event_type: str) -> list[Fields]:
        """Every published event of a type."""
        stream = self.topology.stream_of(event_type)
        return [entry for entry in await self.entries(f"stream:{stream}") if entry["type"] == event_type]

    async def has_paid(self, saga_id: str) -> bool:
        """Whether a saga's payment was published."""
        return saga_id in [entry["subject"] for entry in await self.emitted("Paid")]

    async def letters(self) -> list[Fields]:
        """Every dead letter."""
        return await self.entries("dead")

    async def reasons(self) -> list[tuple[str, str]]:
        """Saga and reason of every dead letter."""
        return sorted((letter["subject"], letter["reason"]) for letter in await self.letters())

    async def journal(self, kind: str = "") -> list[Fields]:
        """The entries of the journal: all, or those of a kind."""
        return [entry for entry in await self.entries("journal") if kind in ("", entry["kind"])]

    async def due(self) -> list[int]:
        """When each timer is due (ms), in order."""
        found: list[int] = []
        for partition in range(self.topology.partitions):
            key = self.topology.keys.timers(partition)
            found += [
                int(float(each)) for each in (await self.call("ZRANGE", key, 0, -1, "WITHSCORES"))[1::2]
            ]
        return sorted(found)

    async def has_ended(self, saga_id: str) -> bool:
        state = await self.broker.sagas.state(saga_id)
        return state is not None and state.ended

    async def is_settled(self) -> bool:
        """Whether nothing is in anybody's hands."""
        return not await self.pending()

    async def pending(self) -> list[tuple[str, str, int]]:
        """Everything that some group's consumer holds: (key, entry, deliveries). Not the tracker's."""
        found = []
        for key in sorted(await self._keys()):
            if (await self.call("TYPE", key)) != b"stream":
                continue
            for flat in await self.call("XINFO", "GROUPS", key):
                for entry, _, _, count in await self.call(
                    "XPENDING", key, decoded(flat)["name"], "-", "+", 100
                ):
                    found.append((key.decode(), entry.decode(), count))
        return found

    async def dump(self) -> dict[bytes, Any]:
        """Every key of the namespace with everything in it, groups and pending lists included."""
        readers: dict[bytes, Callable[[bytes], Any]] = {
            b"string": lambda key: self.call("GET", key),
            b"hash": self._hash,
            b"zset": lambda key: self.call("ZRANGE", key, 0, -1, "WITHSCORES"),
            b"list": lambda key: self.call("LRANGE", key, 0, -1),
            b"stream": self._stream,
        }
        keys = await self._keys()
        kinds = {key: await self.call("TYPE", key) for key in keys}
        return {key: await readers[kinds[key]](key) for key in sorted(keys)}

    async def _hash(self, key: bytes) -> dict[bytes, bytes]:
        flat = await self.call("HGETALL", key)
        return dict(zip(flat[::2], flat[1::2], strict=True))

    async def _stream(self, key: bytes) -> Any:
        groups = [decoded(flat) for flat in await self.call("XINFO", "GROUPS", key)]
        pending = [await self.call("XPENDING", key, group["name"]) for group in groups]
        return await self.call("XRANGE", key, "-", "+"), groups, pending

    async def _keys(self) -> set[bytes]:
        cursor, keys = b"0", set()
        while True:
            pattern = f"{{{self.topology.namespace}:*}}:*"
            cursor, page = await self.call("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
            keys.update(page)
            if int(cursor) == 0:
                return keys


def _only(error: BaseException) -> BaseException:
    """What a task group wraps, if it is one thing: a failed assertion reads better so."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def decoded(flat: Any) -> Fields:
    """Names and values that follow each other, as text."""
    texts = [each.decode(errors="replace") if isinstance(each, bytes) else str(each) for each in flat]
    return dict(zip(texts[::2], texts[1::2], strict=True))
