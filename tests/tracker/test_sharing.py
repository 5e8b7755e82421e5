"""Trackers that run side by side: each leaves alone what another is at work on, and helps where one is late."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count

import anyio
import pytest
from tracker_kit import OpenBroker, kill, look, running, topology_of, until, work_out

from choreo.broker.broker import Broker
from choreo.broker.projections import Batch, Projections, Standing
from choreo.tracker import follower
from choreo.tracker.follower import Tracker
from choreo.tracker.sharing import Sharing
from choreo.wire.topology import Topology

pytestmark = pytest.mark.anyio

PARTITIONS = 4
#: Orders a second.
RATE = 160
#: Writes from which it is told who is at work where.
RECENT = 10 * PARTITIONS


def standing(version: int, at: str = "5-0", end: str = "5-0") -> Standing:
    return Standing(version, {"a": at}, {"a": end})


def seen(**left: Standing) -> Sharing:
    """What a tracker knows that has left partition 3 to another, has partition 4 itself, and has looked once."""
    sharing = Sharing()
    sharing.leave(3)
    sharing.look({3: left.get("left", standing(7)), 4: left.get("own", standing(1))}, 11.0)
    return sharing


def test_who_was_refused_looks_at_once_and_then_from_time_to_time() -> None:
    """The first look shows how things stand; from then on it rests as long as it is told to."""
    sharing = Sharing()
    assert not sharing.left(3)
    assert not sharing.is_due(10.0)
    sharing.leave(3)
    assert sharing.left(3)
    assert sharing.is_due(10.0)
    sharing.look({3: standing(7), 4: standing(1)}, 11.0)
    assert not sharing.is_due(10.9)
    assert sharing.is_due(11.0)
    assert sharing.left(3)
    assert not sharing.left(4)


@pytest.mark.parametrize("late", [False, True])
def test_nobody_has_written(late: bool) -> None:
    """The other may be gone; whoever is there goes on, late itself or not."""
    sharing = seen(own=standing(1, end="9-0"))
    sharing.look({3: standing(7, end="9-0"), 4: standing(2, "5-0" if late else "9-0")}, 12.0)
    assert not sharing.left(3)


def test_the_other_keeps_up() -> None:
    """It has come to where the streams ended at the last look, whatever has come since."""
    sharing = seen()
    assert not sharing.settled
    sharing.look({3: standing(8, end="900-0"), 4: standing(1)}, 12.0)
    assert sharing.left(3)
    assert not sharing.is_due(11.9)
    assert sharing.settled
    sharing.look({3: standing(9, "900-0", "901-0"), 4: standing(1)}, 13.0)
    assert sharing.left(3)


@pytest.mark.parametrize("late", [False, True])
def test_the_other_is_late(late: bool) -> None:
    """It has not come so far: who is not late itself takes over. Ids are compared as numbers."""
    sharing = seen(left=standing(7, end="10-0"), own=standing(1, end="10-0"))
    sharing.look({3: standing(8, "9-0", "10-0"), 4: standing(2, "9-0" if late else "10-0")}, 12.0)
    assert sharing.left(3) is late


def test_one_partition_is_taken_over_at_a_time() -> None:
    """Who has time for one need not have time for all."""
    sharing = Sharing()
    for version in (1, 2):
        for partition in range(3):
            if version == 1:
                sharing.leave(partition)
        sharing.look({number: standing(version, "1-0", "9-0") for number in range(3)}, 11.0)
    assert [sharing.left(number) for number in range(3)] == [False, True, True]


def test_what_is_too_much_for_everybody_does_not_change_hands_all_the_time() -> None:
    """Who has helped and was refused again waits twice as long before it helps the next time."""
    sharing, needed = Sharing(), []
    for _ in range(4):
        sharing.leave(3)
        looks = 0
        while sharing.left(3):
            looks += 1
            sharing.look({3: standing(looks, "1-0", "9-0")}, 11.0)
        needed.append(looks)
    assert needed == [2, 3, 5, 9]


def test_an_entry_that_is_deleted_is_not_waited_for() -> None:
    """It was the last one of its stream, and was never projected."""
    sharing = seen(left=standing(7, end="10-0"), own=standing(1, end="10-0"))
    sharing.look({3: standing(8), 4: standing(1)}, 12.0)  # late, and so is this one
    sharing.look({3: standing(9), 4: standing(1)}, 13.0)
    assert sharing.left(3)


@dataclass
class Books:
    """What came, who projected how much of it where, and how often somebody came second."""

    published: int = 0
    projected: int = 0
    recent: deque[tuple[str, int]] = field(default_factory=lambda: deque(maxlen=RECENT))
    since_refused: int = 0

    @property
    def owners(self) -> set[str]:
        """Who has written lately."""
        return {name for name, _ in self.recent}

    def is_shared(self) -> bool:
        """Whether several trackers keep up together, and none has come second for a while."""
        return len(self.owners) > 1 and self.published - self.projected < 100 and self.since_refused >= RECENT

    def is_done_by(self, name: str) -> bool:
        """Whether one tracker works on every partition, and nobody else does."""
        return set(self.recent) == {(name, number) for number in range(PARTITIONS)}


@dataclass(frozen=True)
class WatchedProjections(Projections):
    """Notes every write in books, and takes its time for each fact."""

    name: str
    books: Books
    pace: list[float]
    """Seconds for a fact."""
    busy: anyio.Lock = field(default_factory=anyio.Lock)

    async def write(self, batch: Batch) -> int | None:
        facts = sum(len(each.facts) for each in batch.updates)
        async with self.busy:
            await anyio.sleep(facts * self.pace[0])
        version = await super().write(batch)
        self.books.since_refused += 1
        if version is None:
            self.books.since_refused = 0
        else:
            self.books.projected += facts
            self.books.recent.append((self.name, batch.partition))
        return version


def watched(topology: Topology, broker: Broker, name: str, books: Books, pace: list[float]) -> Tracker:
    broker.projections = WatchedProjections(broker.connection, topology.keys, name, books, pace)
    return Tracker(topology, broker)


@asynccontextmanager
async def traffic(topology: Topology, broker: Broker, books: Books) -> AsyncIterator[None]:
    """So many orders a second come in all partitions, each a saga of its own; also on a busy machine."""

    async def publish() -> None:
        began = time.monotonic()
        for number in count():
            while number > (time.monotonic() - began) * RATE:  # noqa: ASYNC110 - it is the clock that changes
                await anyio.sleep(0.005)
            saga = f"s{number}"
            stream = topology.keys.stream(topology.keys.partition(saga), "orders")
            await broker.connection.call(
                "XADD", stream, "*", "id", f"e{number}", "type", "Placed", "subject", saga,
                "time", int(time.time() * 1000), "data", "{}",
            )  # fmt: skip
            books.published = number + 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(publish)
        yield
        tasks.cancel_scope.cancel()


async def holds(condition: Callable[[], bool], what: str) -> None:
    async def ask() -> bool:
        return condition()

    await until(ask, what, seconds=40)


async def test_trackers_do_together_what_one_cannot(
    open_broker: OpenBroker, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is slower than what comes. With a second one beside it both keep up, each in partitions of its own;
    and when one is killed, the other, no longer slow, takes over all. No fact is missing."""
    monkeypatch.setattr(follower, "_BULK", 20)
    topology = topology_of(namespace, PARTITIONS)
    books, broker, pace = Books(), open_broker(topology), [1.3 / RATE]
    async with traffic(topology, broker, books):
        first = watched(topology, open_broker(topology), "first", books, pace)
        async with running(first):
            await holds(lambda: books.published - books.projected > 120, "one tracker to fall behind")
            second = asyncio.create_task(
                watched(topology, open_broker(topology), "second", books, pace).run()
            )
            await holds(books.is_shared, "two trackers to share the partitions")
            await kill(second)
            pace[0] = 0.0
            await holds(lambda: books.is_done_by("first"), "the one that is left to do everything")
    await Tracker(topology, broker).catch_up()
    assert await look(topology, broker) == await work_out(topology, broker)


async def test_who_catches_up_leaves_to_others_what_they_keep_up_with(
    open_broker: OpenBroker, namespace: str
) -> None:
    """It ends although entries come all the time, and whoever projects them: what was there is projected."""
    topology = topology_of(namespace, PARTITIONS)
    books, broker = Books(), open_broker(topology)
    beside = watched(topology, open_broker(topology), "beside", books, [0.0])
    async with running(beside), traffic(topology, broker, books):
        await holds(lambda: books.projected > 50, "a tracker to be at work")
        with anyio.fail_after(20):
            for _ in range(3):
                there = books.published
                await watched(topology, broker, "asked", books, [0.0]).catch_up()
                assert books.projected >= there
