"""A small choreography to track, and looks at what became of it: as projected, and as worked out anew."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import anyio

from choreo import Abort, Event, Participant, Retry
from choreo.broker.broker import Broker
from choreo.broker.projections import Batch, Progress
from choreo.choreography import Choreography
from choreo.model.facts import Fact, add, decode_fact, encode_view, project
from choreo.runtime.worker import Worker
from choreo.tracker.follower import Tracker
from choreo.tracker.projection import Projector
from choreo.wire.envelope import Malformed
from choreo.wire.facts import Place, of_event, of_journal, of_malformed
from choreo.wire.keys import TRACKER_GROUP
from choreo.wire.topology import SagaType, Topology

#: Seconds within which whatever a test waits for must come.
PATIENCE = 20.0

Fields: TypeAlias = dict[bytes, bytes]
OpenBroker: TypeAlias = Callable[[Topology], Broker]


class Placed(Event):
    amount: int = 1


class Paid(Event):
    amount: int = 1


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

ONCE = Retry(attempts=1)

#: Amounts that make something happen.
DECLINED, NO_STOCK, BOOM, STUCK = 11, 12, 13, 14


def topology_of(namespace: str, partitions: int = 2) -> Topology:
    return Topology(namespace, partitions, STREAMS, {}, {"order": ORDER})


def participants() -> list[Participant]:
    """Two branches, a join, undos; who fails is chosen by the amount of the order."""
    payments, inventory, shipping = Participant("payments"), Participant("inventory"), Participant("shipping")

    @payments.on(Placed)
    async def charge(placed: Placed) -> Paid | Declined:
        return Declined() if placed.amount == DECLINED else Paid(placed.amount)

    @charge.undo(retry=ONCE)
    async def refund(placed: Placed, paid: Paid | None) -> Refunded:
        if placed.amount == STUCK:
            raise RuntimeError("the bank is closed")
        return Refunded(placed.amount)

    @inventory.on(Placed)
    async def reserve(placed: Placed) -> Reserved:
        if placed.amount == NO_STOCK:
            raise Abort("sold out")
        return Reserved()

    @reserve.undo
    async def release(placed: Placed) -> Released:
        return Released()

    @shipping.on_all(Paid, Reserved, retry=ONCE)
    async def send(paid: Paid, reserved: Reserved) -> Shipped:
        if paid.amount in (BOOM, STUCK):
            raise RuntimeError("boom")
        return Shipped()

    return [payments, inventory, shipping]


async def until(condition: Callable[[], Awaitable[object]], what: str, *, seconds: float = PATIENCE) -> None:
    """Wait until ``condition`` holds; fail, naming ``what``, if it does not in time."""
    with anyio.move_on_after(seconds):
        while not await condition():  # noqa: ASYNC110 - what changes is on a server
            await anyio.sleep(0.01)
        return
    raise AssertionError(f"waited {seconds:g} s for {what}")


@asynccontextmanager
async def running(*services: Worker | Tracker) -> AsyncIterator[None]:
    """Run workers and trackers while the block runs; then end them where they stand."""
    async with anyio.create_task_group() as tasks:
        for service in services:
            await tasks.start(service.run)
        yield
        tasks.cancel_scope.cancel()


def workers(topology: Topology, broker: Broker) -> list[Worker]:
    return [Worker(participant, topology, broker) for participant in participants()]


async def run_sagas(
    topology: Topology, broker: Broker, amounts: Iterable[int], prefix: str = "s"
) -> list[str]:
    """Have sagas run to their end, without a tracker. Returns their ids."""
    async with running(*workers(topology, broker)):
        return await _start_and_wait(topology, broker, amounts, prefix)


async def _start_and_wait(
    topology: Topology, broker: Broker, amounts: Iterable[int], prefix: str
) -> list[str]:
    choreo = Choreography(topology, broker)
    ids = [
        await choreo.start(Placed(amount), saga_id=f"{prefix}{number}")
        for number, amount in enumerate(amounts)
    ]
    for saga_id in ids:
        await until(lambda saga_id=saga_id: has_ended(broker, saga_id), f"{saga_id} to end")  # type: ignore[misc]
    return ids


async def run_to_rest(
    topology: Topology, broker: Broker, amounts: Iterable[int], prefix: str = "s"
) -> list[str]:
    """As :func:`run_sagas`, and until every participant has read and acknowledged all that there is."""
    async with running(*workers(topology, broker)):
        ids = await _start_and_wait(topology, broker, amounts, prefix)
        await until(lambda: is_at_rest(topology, broker), "every group to have done with everything")
    return ids


async def is_at_rest(topology: Topology, broker: Broker) -> bool:
    """Whether no group of a participant has anything left to read or to acknowledge."""
    for kind in ("stream", "inbox"):
        for stream in await keys_of(broker, f"{{{topology.namespace}:*:{kind}:*"):
            newest = (await broker.projections.newest([stream]))[stream]
            for flat in await broker.connection.call("XINFO", "GROUPS", stream):
                group = dict(zip(flat[::2], flat[1::2], strict=True))
                at_end = group[b"last-delivered-id"].decode() == newest
                if group[b"name"].decode() != TRACKER_GROUP and (group[b"pending"] or not at_end):
                    return False
    return True


async def has_ended(broker: Broker, saga_id: str) -> bool:
    state = await broker.sagas.state(saga_id)
    return state is not None and state.ended


# -- looks -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Projected:
    """Everything that the tracker has written, comparable byte for byte."""

    views: dict[str, bytes]
    """Saga id -> its view."""
    listings: dict[str, list[tuple[str, int]]]
    """``type:state`` -> (start time in ms, saga id) in no particular order."""
    facts: dict[str, frozenset[Fact]]
    """Saga id -> the facts of its timeline, as they count."""


async def keys_of(broker: Broker, pattern: str) -> list[str]:
    """The keys of every partition that match, by SCAN: only tests may do that."""
    cursor, found = b"0", set()
    while True:
        cursor, page = await broker.connection.call("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
        found.update(key.decode() for key in page)
        if int(cursor) == 0:
            return sorted(found)


async def look(topology: Topology, broker: Broker) -> Projected:
    """What the tracker has projected."""
    views, listings, facts = {}, {}, {}
    for partition in range(topology.partitions):
        tag = f"{{{topology.namespace}:{partition}}}"
        for key in await keys_of(broker, f"{tag}:view:*"):
            views[key.removeprefix(f"{tag}:view:")] = await broker.connection.call("GET", key)
        for key in await keys_of(broker, f"{tag}:trace:*"):
            timeline: dict[str, Fact] = {}
            for packed in await broker.connection.call("LRANGE", key, 0, -1):
                add(timeline, decode_fact(packed))
            facts[key.removeprefix(f"{tag}:trace:")] = frozenset(timeline.values())
        for key in await keys_of(broker, f"{tag}:index:*"):
            flat = await broker.connection.call("ZRANGE", key, 0, -1, "WITHSCORES")
            rows = [
                (name.decode(), int(float(score))) for name, score in zip(flat[::2], flat[1::2], strict=True)
            ]
            listings.setdefault(key.removeprefix(f"{tag}:index:"), []).extend(rows)
    return Projected(views, {name: sorted(rows) for name, rows in listings.items() if rows}, facts)


async def work_out(topology: Topology, broker: Broker) -> Projected:
    """What must be projected, worked out from the streams in one go, without the tracker."""
    timelines: dict[str, dict[str, Fact]] = {}
    for partition in range(topology.partitions):
        keys = topology.keys
        journal = keys.journal(partition)
        for stream, topic in {
            journal: "",
            **{keys.stream(partition, name): name for name in topology.streams},
        }.items():
            for entry, flat in await broker.connection.call("XRANGE", stream, "-", "+"):
                for saga_id, fact in _tell(topology, stream, Place(topic, partition), entry.decode(), flat):
                    add(timelines.setdefault(saga_id, {}), fact)
    views = {saga_id: project(saga_id, timeline) for saga_id, timeline in timelines.items()}
    listings: dict[str, list[tuple[str, int]]] = {}
    for saga_id, view in views.items():
        listings.setdefault(f"{view.type}:{view.status}", []).append((saga_id, view.started))
    return Projected(
        {saga_id: encode_view(view) for saga_id, view in views.items()},
        {name: sorted(rows) for name, rows in listings.items()},
        {saga_id: frozenset(timeline.values()) for saga_id, timeline in timelines.items()},
    )


def _tell(
    topology: Topology, stream: str, place: Place, entry: str, flat: Sequence[bytes]
) -> Iterable[tuple[str, Fact]]:
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    try:
        if place.topic:
            yield of_event(topology, place, fields, entry)
        else:
            yield of_journal(topology, place.partition, fields, entry)
    except Malformed as malformed:
        if malformed.subject:
            yield malformed.subject, of_malformed(stream, entry, malformed)


async def catch_up(topology: Topology, broker: Broker) -> Projected:
    """Let a tracker of its own project what is there, and look."""
    await Tracker(topology, broker).catch_up()
    return await look(topology, broker)


class Hand:
    """A tracker of one partition that is led by hand: what it remembers, and where it believes to be."""

    def __init__(self, topology: Topology, broker: Broker, partition: int = 0) -> None:
        self.projections = broker.projections
        self.projector = Projector(topology, partition)
        self.progress: Progress | None = None

    async def fold(self, count: int) -> Batch:
        """Read at most ``count`` entries of each stream, and make a batch of them."""
        partition = self.projector.partition
        if self.progress is None:
            self.progress = await self.projections.progress(partition, self.projector.streams)
        read = await self.projections.read(self.progress.positions, count, wait=False)
        return await self.projector.fold(
            self.progress.version, read, partial(self.projections.load, partition)
        )

    async def write(self, batch: Batch) -> bool:
        """Write a batch; after a refusal everything is forgotten, as a tracker does."""
        version = await self.projections.write(batch)
        if version is None:
            self.forget()
            return False
        assert self.progress is not None
        self.progress.version = version
        self.progress.positions.update(batch.after)
        return True

    async def step(self, count: int) -> bool:
        """Project at most ``count`` entries of each stream. Returns whether there were any."""
        batch = await self.fold(count)
        assert not batch.after or await self.write(batch)
        return bool(batch.after)

    def forget(self) -> None:
        self.projector.forget()
        self.progress = None


# -- entries and letters -----------------------------------------------------------------------------


async def add_entry(broker: Broker, stream: str, fields: dict[bytes, bytes], entry: str = "*") -> str:
    """XADD, as any program may."""
    flat = [part for pair in fields.items() for part in pair]
    return (await broker.connection.call("XADD", stream, entry, *flat)).decode()


async def letters(topology: Topology, broker: Broker) -> list[Fields]:
    """The dead letters of every partition."""
    found = []
    for partition in range(topology.partitions):
        for _, flat in await broker.connection.call("XRANGE", topology.keys.dead(partition), "-", "+"):
            found.append(dict(zip(flat[::2], flat[1::2], strict=True)))
    return found


async def kill(task: asyncio.Task[Any]) -> None:
    """End a task where it stands, as a killed process ends."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=0.01)
