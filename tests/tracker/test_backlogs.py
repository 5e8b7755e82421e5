"""Catching up: much that waits is projected in few bites, and every partition has its turn."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from tracker_kit import Hand, OpenBroker, catch_up, look, work_out

from choreo.broker.broker import Broker
from choreo.tracker.follower import Tracker
from choreo.wire.topology import SagaType, Topology

pytestmark = pytest.mark.anyio


def topology_of(namespace: str, partitions: int) -> Topology:
    saga = SagaType("s", frozenset({"Begun"}), frozenset({"Ended"}))
    return Topology(namespace, partitions, {"a": ("Begun",), "b": ("Ended",)}, {}, {"s": saga})


async def tell(topology: Topology, broker: Broker, events: Iterable[tuple[str, str, str]]) -> None:
    """Add events, each: type, saga id, event id."""
    keys, end = topology.keys, ("state", "completed", "seq", 1)
    await broker.connection.call_many([
        ("XADD", keys.stream(keys.partition(saga_id), topology.routes[kind]), "*", "id", event_id,
         "type", kind, "subject", saga_id, "time", 1 + number, "data", "{}",
         *(end if kind == "Ended" else ()))
        for number, (kind, saga_id, event_id) in enumerate(events)
    ])  # fmt: skip


async def test_every_partition_has_its_turn(open_broker: OpenBroker, namespace: str) -> None:
    """However many there are, and though most of them are empty."""
    topology = topology_of(namespace, 40)
    broker = open_broker(topology)
    await tell(topology, broker, [("Begun", f"s{number}", "e") for number in range(12)])
    expected = await work_out(topology, broker)
    assert len(expected.views) == 12
    assert await catch_up(topology, broker) == expected


async def test_a_partition_that_is_behind_is_read_in_large_bites(
    open_broker: OpenBroker, namespace: str
) -> None:
    """The other partitions' streams do not make them smaller."""
    topology = topology_of(namespace, 16)
    broker = open_broker(topology)
    ids = [each for each in map(str, range(20_000)) if topology.keys.partition(each) == 3][:1000]
    await tell(topology, broker, [("Begun", each, "e") for each in ids])
    tracker = Tracker(topology, broker)
    assert await tracker.catch_up() == 1000
    progress = await broker.projections.progress(3, [topology.keys.stream(3, "a")])
    assert progress.version <= 10
    assert await look(topology, broker) == await work_out(topology, broker)


async def test_what_arrives_later_is_projected_in_every_partition(
    open_broker: OpenBroker, namespace: str
) -> None:
    """Those that had caught up are read beside those that have not."""
    topology = topology_of(namespace, 16)
    broker = open_broker(topology)
    tracker = Tracker(topology, broker)
    for told in range(3):
        busy = [("Begun", f"{told}-{number}", "e") for number in range(2000)]
        await tell(topology, broker, [each for each in busy if topology.keys.partition(each[1]) < 2])
        await tell(topology, broker, [("Ended", f"{told}-{number}", "f") for number in range(40)])
        await tracker.catch_up()
        assert await look(topology, broker) == await work_out(topology, broker)


async def test_a_batch_may_hold_thousands(open_broker: OpenBroker, namespace: str) -> None:
    """Of sagas, and of facts of one saga: all of them are listed, and in their timelines."""
    topology = topology_of(namespace, 1)
    broker = open_broker(topology)
    many = [("Begun", f"s{number}", "e") for number in range(2100)]
    await tell(topology, broker, many + [("Begun", "hot", f"e{number}") for number in range(1100)])
    hand = Hand(topology, broker)
    assert await hand.step(5000)
    assert await look(topology, broker) == await work_out(topology, broker)
    await tell(topology, broker, [("Ended", saga_id, "f") for _, saga_id, _ in many])
    hand.forget()
    assert await hand.step(5000)
    assert not await hand.step(5000)
    assert await look(topology, broker) == await work_out(topology, broker)
