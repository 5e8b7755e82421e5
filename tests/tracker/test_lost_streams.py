"""Streams, groups and progress that vanish or go back: the tracker finds out and goes on."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable

import pytest
from tracker_kit import (
    NO_STOCK,
    Placed,
    add_entry,
    catch_up,
    letters,
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
from choreo.errors import BrokerUnavailable
from choreo.tracker.follower import Tracker
from choreo.tracker.projection import Projector
from choreo.wire.keys import TRACKER_GROUP
from choreo.wire.topology import Topology

pytestmark = pytest.mark.anyio

#: Seconds within which a tracker must have got over a loss.
SOON = 5.0


@pytest.fixture
async def own_broker(
    anyio_backend: str, server_process: Callable[..., EngineProcess]
) -> AsyncIterator[Broker]:
    """A broker of a server that this test may empty; 8 partitions."""
    topology = topology_of("t", 8)
    async with Broker.open(server_process({"appendonly": "no"}).url, topology.keys) as broker:
        yield broker


def event(saga_id: str, event_id: str = "e1") -> dict[bytes, bytes]:
    fields = {"id": event_id, "type": "Placed", "subject": saga_id, "data": '{"amount":1}', "time": "1000"}
    return {name.encode(): value.encode() for name, value in fields.items()}


async def test_everything_flushed_under_a_running_choreography(own_broker: Broker) -> None:
    """After FLUSHALL new sagas run and are projected within seconds, in every partition."""
    topology = topology_of("t", 8)
    choreo = Choreography(topology, own_broker)
    async with running(*workers(topology, own_broker), Tracker(topology, own_broker)):
        for number in range(16):
            await choreo.start(Placed(), saga_id=f"before-{number}")
        for number in range(16):
            await choreo.wait(f"before-{number}", timeout=20)
        await own_broker.connection.call("FLUSHALL")
        for number in range(16):
            await choreo.start(Placed(), saga_id=f"after-{number}")
        for number in range(16):
            await choreo.wait(f"after-{number}", timeout=SOON)
    found = await catch_up(topology, own_broker)
    assert found == await work_out(topology, own_broker)
    assert all(saga_id.startswith("after-") for saga_id in found.views)


async def test_flushed_while_nobody_looked(own_broker: Broker) -> None:
    """A tracker that remembers more than the server has: what comes afterwards is projected all the same."""
    topology = topology_of("t", 1)
    stream = topology.keys.stream(0, "orders")
    broker = Broker(own_broker.connection, topology.keys)
    async with running(Tracker(topology, broker)):
        # An entry id far in the future, as a server with a wrong clock gives them.
        await add_entry(broker, stream, event("before"), "9999999999999-0")
        await until(lambda: is_seen(broker, "before"), "the view of what came before the flush")
        await broker.connection.call("FLUSHALL")
        await add_entry(broker, stream, event("after"))
        await until(lambda: is_seen(broker, "after"), "the view of what came after the flush", seconds=SOON)


async def is_seen(broker: Broker, saga_id: str) -> bool:
    return (await broker.projections.views([saga_id]))[0] is not None


async def test_progress_ahead_of_its_stream(broker: Broker, topology: Topology) -> None:
    """A stream that begins anew behind the tracker's progress (deleted, or restored) is not overlooked."""
    partition = topology.keys.partition("s1")
    stream = topology.keys.stream(partition, "orders")
    await add_entry(broker, stream, event("s1"), "5000-0")
    await catch_up(topology, broker)
    await broker.connection.call("DEL", stream)
    await add_entry(broker, stream, event("s1", "e2"), "400-0")
    async with running(Tracker(topology, broker)):
        await until(lambda: has_events(topology, broker, 2), "the second event", seconds=SOON)


async def has_events(topology: Topology, broker: Broker, count: int) -> bool:
    return (await Choreography(topology, broker).view("s1")).events == count


async def test_streams_that_are_not_there_yet(broker: Broker, topology: Topology) -> None:
    """On an empty server there is nothing to project, and nothing to complain about."""
    assert await Tracker(topology, broker).catch_up() == 0
    assert await Tracker(topology, broker).rebuild() == 0
    assert (await look(topology, broker)).views == {}


async def test_a_stream_that_is_deleted_is_projected_when_it_comes_back(
    broker: Broker, topology: Topology
) -> None:
    """A stream deleted under a tracker costs what was in it; what is added later is projected."""
    partition = topology.keys.partition("s1")
    stream = topology.keys.stream(partition, "orders")
    async with running(Tracker(topology, broker)):
        await add_entry(broker, stream, event("s1"))
        await until(lambda: is_seen(broker, "s1"), "the first event")
        await broker.connection.call("DEL", stream)
        await add_entry(broker, stream, event("s1", "e2"))
        await until(lambda: has_events(topology, broker, 2), "the second event")


async def test_groups_that_vanish_cost_nothing(broker: Broker, topology: Topology) -> None:
    """Without its groups the tracker goes on, and whichever is started next has them again."""
    partition = topology.keys.partition("s1")
    stream = topology.keys.stream(partition, "orders")
    async with running(Tracker(topology, broker)):
        await add_entry(broker, stream, event("s1"))
        await until(lambda: is_seen(broker, "s1"), "the first event")
        for each in Projector(topology, partition).streams:
            await broker.connection.call("XGROUP", "DESTROY", each, TRACKER_GROUP)
        await add_entry(broker, stream, event("s1", "e2"))
        await until(lambda: has_events(topology, broker, 2), "the second event")
    await catch_up(topology, broker)
    assert await group_position(broker, stream) != ""


async def group_position(broker: Broker, stream: str) -> str:
    """Where the tracker's group stands in a stream; empty if there is no such group."""
    for flat in await broker.connection.call("XINFO", "GROUPS", stream):
        row = dict(zip(flat[::2], flat[1::2], strict=True))
        if row[b"name"].decode() == TRACKER_GROUP:
            return row[b"last-delivered-id"].decode()
    return ""


async def test_the_group_shows_how_far_the_tracker_is(broker: Broker, topology: Topology) -> None:
    """Generic tools see the tracker's position in each stream, and that nothing is pending."""
    await run_sagas(topology, broker, [1, NO_STOCK])
    await catch_up(topology, broker)
    for partition in range(topology.partitions):
        for stream in Projector(topology, partition).streams:
            entries = await broker.connection.call("XREVRANGE", stream, "+", "-", "COUNT", 1)
            last = entries[0][0].decode() if entries else "0-0"
            assert await group_position(broker, stream) == last
            assert (await broker.connection.call("XPENDING", stream, TRACKER_GROUP))[0] == 0


async def test_deleted_and_trimmed_entries_do_not_stop_it(broker: Broker, topology: Topology) -> None:
    """What somebody deleted before it was read is missing from the views, and that is all."""
    stream = topology.keys.stream(topology.keys.partition("s1"), "orders")
    entries = [await add_entry(broker, stream, event("s1", f"e{number}")) for number in range(5)]
    await broker.connection.call("XDEL", stream, entries[1], entries[4])
    await broker.connection.call("XTRIM", stream, "MINID", entries[1])
    found = await catch_up(topology, broker)
    assert (await Choreography(topology, broker).view("s1")).events == 2
    assert found == await work_out(topology, broker)


async def test_projections_deleted_by_hand_come_back_with_a_rebuild(
    broker: Broker, topology: Topology
) -> None:
    """An operator who deletes progress, views or indexes gets them back, and no letter twice."""
    await run_sagas(topology, broker, [1, NO_STOCK])
    await add_entry(broker, topology.keys.stream(0, "orders"), {b"not": b"ours"})
    right = await catch_up(topology, broker)
    for partition in range(topology.partitions):
        await broker.connection.call("DEL", topology.keys.tracker(partition))
    assert await catch_up(topology, broker) == right, "progress is gone: everything is projected once more"
    assert len(await letters(topology, broker)) == 1


async def test_a_server_that_is_down_is_waited_for(
    server_process: Callable[..., EngineProcess], caplog: pytest.LogCaptureFixture
) -> None:
    """A tracker outlives a restart of its server, misses nothing, and says so a few times only."""
    topology = topology_of("t", 2)
    server = server_process()
    async with Broker.open(server.url, topology.keys) as broker:
        choreo = Choreography(topology, broker)
        async with running(*workers(topology, broker), Tracker(topology, broker)):
            await choreo.start(Placed(), saga_id="before")
            await choreo.wait("before", timeout=20)
            with caplog.at_level(logging.WARNING, "choreo.tracker"):
                server.stop()
                server.start()
                await until(lambda: starts(choreo, "after"), "the server to take a saga")
                await choreo.wait("after", timeout=20)
        assert await catch_up(topology, broker) == await work_out(topology, broker)
    said = [record.getMessage() for record in caplog.records if record.name == "choreo.tracker"]
    assert len(said) <= 4, said


async def starts(choreo: Choreography, saga_id: str) -> bool:
    try:
        await choreo.start(Placed(), saga_id=saga_id)
    except BrokerUnavailable:
        return False
    return True
