"""A tracker may stop, be killed, be late or be two: the views are those of the streams, byte for byte."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import anyio
import pytest
from tracker_kit import (
    BOOM,
    DECLINED,
    NO_STOCK,
    STUCK,
    OpenBroker,
    Placed,
    catch_up,
    has_ended,
    kill,
    look,
    run_sagas,
    running,
    topology_of,
    until,
    work_out,
    workers,
)

from choreo.broker.broker import Broker
from choreo.broker.engine import EngineProcess
from choreo.choreography import Choreography
from choreo.errors import BrokerUnavailable, WaitTimeout
from choreo.tracker import follower
from choreo.tracker.follower import Tracker
from choreo.tracker.projection import Projector
from choreo.wire.topology import Topology

pytestmark = pytest.mark.anyio

MIXED = [1, NO_STOCK, 1, DECLINED, BOOM, 1, STUCK, 1]


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trackers take a few entries at a time and stand by shortly, so that much can happen in between."""
    monkeypatch.setattr(follower, "_ENTRIES", 1)
    monkeypatch.setattr(follower, "_LEAST", 4)
    monkeypatch.setattr(follower, "_STANDBY", 0.02)
    monkeypatch.setattr(follower, "_ASIDE", 0.1)


async def test_a_tracker_that_was_not_there_catches_up(broker: Broker, topology: Topology) -> None:
    """Sagas run without a tracker; one that is started afterwards projects all of them."""
    ids = await run_sagas(topology, broker, MIXED)
    found = await catch_up(topology, broker)
    assert set(found.views) == set(ids)
    assert found == await work_out(topology, broker)


async def test_waiting_without_a_tracker_says_so(broker: Broker, topology: Topology) -> None:
    """A client that waits for an ended saga while no tracker runs is told what is missing."""
    (saga_id,) = await run_sagas(topology, broker, [1])
    with pytest.raises(WaitTimeout, match="is completed, but no tracker has projected that; is one running"):
        await Choreography(topology, broker).wait(saga_id, timeout=0.05)


async def test_a_tracker_that_is_stopped_during_traffic(open_broker: OpenBroker, topology: Topology) -> None:
    """A tracker that stops in an orderly way and one that is started later make the views together."""
    broker = open_broker(topology)
    choreo = Choreography(topology, broker)
    async with running(*workers(topology, broker)):
        for turn in range(3):
            tracker = Tracker(topology, broker)
            async with anyio.create_task_group() as tasks:
                await tasks.start(tracker.run)
                for number, amount in enumerate(MIXED):
                    await choreo.start(Placed(amount), saga_id=f"s{turn}-{number}")
                tracker.stop()
        for turn in range(3):
            for number, _ in enumerate(MIXED):
                await until(lambda saga_id=f"s{turn}-{number}": has_ended(broker, saga_id), "the end")  # type: ignore[misc]
    assert await catch_up(topology, broker) == await work_out(topology, broker)


async def test_a_stopped_tracker_has_projected_what_it_read(broker: Broker, topology: Topology) -> None:
    """Stopping leaves whole batches behind: what is projected is what the positions say."""
    await run_sagas(topology, broker, MIXED)
    tracker = Tracker(topology, broker)
    async with anyio.create_task_group() as tasks:
        await tasks.start(tracker.run)
        tracker.stop()
    assert await catch_up(topology, broker) == await work_out(topology, broker)


async def test_a_tracker_that_is_killed_anywhere(open_broker: OpenBroker, topology: Topology) -> None:
    """Killed again and again at any point of its work, trackers miss nothing and double nothing."""
    broker = open_broker(topology)
    await run_sagas(topology, broker, MIXED)
    right = await work_out(topology, broker)
    for tenths in range(0, 60, 2):
        task = asyncio.create_task(Tracker(topology, open_broker(topology)).run())
        await asyncio.sleep(tenths / 10_000)
        await kill(task)
    assert await catch_up(topology, broker) == right


async def test_a_tracker_that_is_killed_at_every_turn(open_broker: OpenBroker, topology: Topology) -> None:
    """The same, killed after one turn of the loop, after two, and so on, each time from the beginning."""
    broker = open_broker(topology)
    await run_sagas(topology, broker, MIXED[:4])
    right = await work_out(topology, broker)
    for turns in range(45):
        for partition in range(topology.partitions):
            await broker.projections.wipe(partition, [], begin=True)
        task = asyncio.create_task(Tracker(topology, open_broker(topology)).run())
        for _ in range(turns):
            await asyncio.sleep(0)
        await kill(task)
        assert await catch_up(topology, broker) == right, f"killed after {turns} turns"


async def test_trackers_that_are_killed_during_traffic(open_broker: OpenBroker, topology: Topology) -> None:
    """While sagas run, one tracker after another is killed; the last one finds everything."""
    broker = open_broker(topology)
    choreo = Choreography(topology, broker)
    ids = [f"s{number}" for number in range(24)]
    async with running(*workers(topology, broker)):
        for number, saga_id in enumerate(ids):
            await choreo.start(Placed(MIXED[number % len(MIXED)]), saga_id=saga_id)
            task = asyncio.create_task(Tracker(topology, open_broker(topology)).run())
            await asyncio.sleep(number / 2_000)
            await kill(task)
        for saga_id in ids:
            await until(lambda saga_id=saga_id: has_ended(broker, saga_id), f"{saga_id} to end")  # type: ignore[misc]
    assert await catch_up(topology, broker) == await work_out(topology, broker)


async def test_several_trackers_at_once(open_broker: OpenBroker, topology: Topology) -> None:
    """Three trackers during traffic: one is ahead, the others stand by, and the views are right."""
    broker = open_broker(topology)
    choreo = Choreography(topology, broker)
    trackers = [Tracker(topology, open_broker(topology)) for _ in range(3)]
    async with running(*workers(topology, broker), *trackers):
        for number in range(24):
            await choreo.start(Placed(MIXED[number % len(MIXED)]), saga_id=f"s{number}")
        for number in range(24):
            await choreo.wait(f"s{number}", timeout=20)
    assert await catch_up(topology, broker) == await work_out(topology, broker)


async def test_another_tracker_takes_over(open_broker: OpenBroker, topology: Topology) -> None:
    """When the tracker that was ahead is killed, one that stood by goes on."""
    broker = open_broker(topology)
    choreo = Choreography(topology, broker)
    async with running(*workers(topology, broker), Tracker(topology, open_broker(topology))):
        ahead = asyncio.create_task(Tracker(topology, open_broker(topology)).run())
        await choreo.start(Placed(), saga_id="before")
        await choreo.wait("before", timeout=20)
        await kill(ahead)
        await choreo.start(Placed(), saga_id="after")
        await choreo.wait("after", timeout=20)


async def test_one_cancellation_is_enough(open_broker: OpenBroker, topology: Topology) -> None:
    """A tracker that is cancelled ends, wherever it is just then; so timeouts around it hold."""
    await run_sagas(topology, open_broker(topology), [1])
    for hundredths in range(0, 200, 5):
        task = asyncio.create_task(Tracker(topology, open_broker(topology)).run())
        await asyncio.sleep(hundredths / 100_000)
        task.cancel()
        done, _ = await asyncio.wait([task], timeout=5)
        await kill(task)
        assert done, f"cancelled after {hundredths / 100} ms, it went on"


async def test_a_tracker_that_ran_into_an_error_may_be_asked_again(
    server_process: Callable[..., EngineProcess],
) -> None:
    """A `catch_up` that failed may be called again on the same tracker: nothing that it read is lost."""
    topology = topology_of("t")
    async with Broker.open(server_process().url, topology.keys) as broker:
        await run_sagas(topology, broker, MIXED)
        tracker = Tracker(topology, broker)
        await broker.connection.call("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(BrokerUnavailable, match="maxmemory"):
            await tracker.catch_up()
        await broker.connection.call("CONFIG", "SET", "maxmemory", "0")
        await tracker.catch_up()
        assert await look(topology, broker) == await work_out(topology, broker)


@pytest.mark.parametrize("what", ["trace", "index", "dead", "letters", "tracker"])
async def test_a_key_in_the_way_loses_nothing(broker: Broker, topology: Topology, what: str) -> None:
    """A key of the wrong type makes the tracker wait; when it is gone, every fact is there."""
    keys = topology.keys
    ids = await run_sagas(topology, broker, [1, 1, NO_STOCK])
    partition = keys.partition(ids[0])
    stream = keys.stream(partition, "orders")
    await broker.connection.call("XADD", stream, "*", "not", "ours")
    obstacle = {
        "trace": keys.trace(partition, ids[0]), "index": keys.index(partition, "order", "completed"),
        "dead": keys.dead(partition), "letters": keys.letters(partition), "tracker": keys.tracker(partition),
    }[what]  # fmt: skip
    await broker.connection.call("SET", obstacle, "in the way")
    expected = await work_out(topology, broker)

    async def is_right() -> bool:
        return await look(topology, broker) == expected

    async with running(Tracker(topology, broker)):
        await until(lambda: has_written(broker, topology, 1 - partition), "the other partition", seconds=5)
        await broker.connection.call("DEL", obstacle)
        await until(is_right, "the right views")
    assert await catch_up(topology, broker) == await work_out(topology, broker)


async def test_a_stream_of_the_wrong_type_holds_up_its_partition_alone(
    broker: Broker, topology: Topology
) -> None:
    """Where a key of the wrong type stands in a topic's place, the other partitions are projected."""
    await run_sagas(topology, broker, [1], prefix="order-")
    partition = topology.keys.partition("order-0")
    in_the_way = topology.keys.stream(1 - partition, "money")
    await broker.connection.call("DEL", in_the_way)
    await broker.connection.call("SET", in_the_way, "in the way")
    async with running(Tracker(topology, broker)):
        await Choreography(topology, broker).wait("order-0", timeout=5)


async def has_written(broker: Broker, topology: Topology, partition: int) -> bool:
    """Whether the tracker has projected the partition as far as it goes."""
    streams = Projector(topology, partition).streams
    positions = (await broker.projections.progress(partition, streams)).positions
    return not await broker.projections.read(positions, 1, wait=False)
