"""Trackers that run side by side: each leaves alone what another is at work on, and helps where one is late."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

import anyio
import pytest
from tracker_kit import OpenBroker, look, running, topology_of, until, work_out

from choreo.broker.broker import Broker
from choreo.broker.projections import Batch, Progress, Projections
from choreo.tracker.follower import Tracker
from choreo.tracker.sharing import Sharing
from choreo.wire.topology import Topology

pytestmark = pytest.mark.anyio

PARTITIONS = 4
#: Writes from which it is told who is at work where.
RECENT = 10 * PARTITIONS


def progress(version: int, at: str = "5-0") -> Progress:
    return Progress(version, {"a": at})


def seen(version: int = 7, end: str = "5-0") -> Sharing:
    """What a tracker knows that has left partition 3 to another and has looked at it once, at 10."""
    sharing = Sharing()
    sharing.leave(3, 10.0)
    assert not sharing.take_back(3, progress(version), {"a": end}, 11.0, idle=True)
    return sharing


def test_who_was_refused_looks_at_once_and_then_from_time_to_time() -> None:
    """The first look shows how things stand; from then on it rests as long as it is told to."""
    sharing = Sharing()
    assert not sharing.left(3)
    sharing.leave(3, 10.0)
    assert sharing.left(3)
    assert not sharing.rests(3, 10.0)
    assert not sharing.take_back(3, progress(7), {"a": "5-0"}, 11.0, idle=True)
    assert sharing.rests(3, 10.9)
    assert not sharing.rests(3, 11.0)
    assert not sharing.rests(4, 10.9)


@pytest.mark.parametrize("idle", [False, True])
def test_nobody_has_written(idle: bool) -> None:
    """The other may be gone; whoever is there goes on, busy or not."""
    sharing = seen()
    assert sharing.take_back(3, progress(7), {"a": "9-0"}, 12.0, idle=idle)
    assert not sharing.left(3)


@pytest.mark.parametrize("idle", [False, True])
def test_the_other_keeps_up(idle: bool) -> None:
    """It has come to where the streams ended at the last look, whatever has come since."""
    sharing = seen()
    assert not sharing.take_back(3, progress(8, "5-0"), {"a": "900-0"}, 12.0, idle=idle)
    assert sharing.rests(3, 11.9)
    assert not sharing.take_back(3, progress(9, "900-0"), {"a": "901-0"}, 13.0, idle=idle)


@pytest.mark.parametrize("idle", [False, True])
def test_the_other_is_late(idle: bool) -> None:
    """It has not come so far: who has time takes over. Ids are compared as numbers."""
    sharing = seen(end="10-0")
    assert sharing.take_back(3, progress(8, "9-0"), {"a": "10-0"}, 12.0, idle=idle) is idle
    assert sharing.left(3) is not idle


def test_everything_is_taken_back_at_once() -> None:
    """By who is asked to catch up."""
    sharing = seen()
    sharing.leave(4, 10.0)
    assert sharing.forget()
    assert not sharing.left(3)
    assert not sharing.forget()


@dataclass
class Books:
    """Who wrote what, and how often somebody came second."""

    recent: deque[tuple[str, int]] = field(default_factory=lambda: deque(maxlen=RECENT))
    since_refused: int = 0
    slow: str = ""

    def owners(self) -> dict[int, set[str]]:
        """Partition -> who has written there lately."""
        found: dict[int, set[str]] = {}
        for name, partition in self.recent:
            found.setdefault(partition, set()).add(name)
        return found

    def settled(self) -> bool:
        """Whether each partition has one tracker, and nobody was refused for a while."""
        owners = self.owners()
        one_each = len(owners) == PARTITIONS and all(len(each) == 1 for each in owners.values())
        return one_each and self.since_refused >= RECENT


@dataclass(frozen=True)
class WatchedProjections(Projections):
    """Notes every write in books, and takes its time if they say so."""

    name: str
    books: Books

    async def write(self, batch: Batch) -> int | None:
        if self.books.slow == self.name:
            await anyio.sleep(1.5)
        version = await super().write(batch)
        if version is None:
            self.books.since_refused = 0
        else:
            self.books.since_refused += 1
            self.books.recent.append((self.name, batch.partition))
        return version


def watched(topology: Topology, broker: Broker, name: str, books: Books) -> Tracker:
    broker.projections = WatchedProjections(broker.connection, topology.keys, name, books)
    return Tracker(topology, broker)


@asynccontextmanager
async def traffic(topology: Topology, broker: Broker) -> AsyncIterator[None]:
    """Orders come in every partition, all the time."""

    async def publish() -> None:
        for number in count():
            saga = f"s{number}"
            stream = topology.keys.stream(topology.keys.partition(saga), "orders")
            await broker.connection.call(
                "XADD", stream, "*", "id", f"e{number}", "type", "Placed", "subject", saga,
                "time", int(time.time() * 1000), "data", "{}",
            )  # fmt: skip
            await anyio.sleep(0.002)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(publish)
        yield
        tasks.cancel_scope.cancel()


async def holds(condition: Callable[[], bool], what: str) -> None:
    async def ask() -> bool:
        return condition()

    await until(ask, what, seconds=40)


async def test_trackers_share_and_help(open_broker: OpenBroker, namespace: str) -> None:
    """Under traffic each partition has one tracker, and none comes second any more. When one gets slow, the
    other takes over what it has; and no fact is missing."""
    topology = topology_of(namespace, PARTITIONS)
    books, broker = Books(), open_broker(topology)
    trackers = [watched(topology, open_broker(topology), name, books) for name in "ab"]
    async with running(*trackers):
        async with traffic(topology, broker):
            await holds(books.settled, "each partition to have one tracker")
            names = [name for (name,) in books.owners().values()]
            books.slow = max("ab", key=names.count)
            (other,) = {*"ab"} - {books.slow}
            await holds(
                lambda: set(books.recent) == {(other, number) for number in range(PARTITIONS)},
                "the other one to do everything",
            )
        books.slow = ""
    await Tracker(topology, broker).catch_up()
    assert await look(topology, broker) == await work_out(topology, broker)
