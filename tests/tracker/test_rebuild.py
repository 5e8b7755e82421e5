"""Rebuilding: views thrown away and made anew are the same, whoever works beside and whatever is killed."""

from __future__ import annotations

import asyncio

import pytest
from tracker_kit import (
    BOOM,
    DECLINED,
    NO_STOCK,
    STUCK,
    Hand,
    OpenBroker,
    Placed,
    add_entry,
    catch_up,
    has_ended,
    kill,
    look,
    run_sagas,
    running,
    work_out,
    workers,
)

from choreo.broker.broker import Broker
from choreo.choreography import Choreography
from choreo.tracker import follower
from choreo.tracker.follower import Tracker
from choreo.tracker.projection import Projector
from choreo.wire.topology import SagaType, Topology

pytestmark = pytest.mark.anyio

EVERY_OUTCOME = [1, DECLINED, NO_STOCK, BOOM, STUCK]


async def test_a_rebuild_makes_the_same_views(broker: Broker, topology: Topology) -> None:
    """Views, listings and timelines made anew from the streams equal those made as the entries came."""
    choreo = Choreography(topology, broker)
    async with running(*workers(topology, broker), Tracker(topology, broker)):
        for number, amount in enumerate(EVERY_OUTCOME):
            await choreo.start(Placed(amount), saga_id=f"s{number}")
        for number, _ in enumerate(EVERY_OUTCOME):
            await choreo.wait(f"s{number}", timeout=20)
    grown = await catch_up(topology, broker)
    assert await Tracker(topology, broker).rebuild() > 0
    assert await look(topology, broker) == grown == await work_out(topology, broker)


async def test_a_rebuild_says_how_many_entries_there_were(broker: Broker, topology: Topology) -> None:
    """It counts what it has projected: everything that was ever written."""
    await run_sagas(topology, broker, [1, 1])
    entries = 0
    for partition in range(topology.partitions):
        for stream in Projector(topology, partition).streams:
            entries += await broker.connection.call("XLEN", stream)
    assert await Tracker(topology, broker).rebuild() == entries


async def test_a_rebuild_drops_what_the_streams_do_not_say(broker: Broker, topology: Topology) -> None:
    """A projection that was tampered with is right again after a rebuild."""
    ids = await run_sagas(topology, broker, EVERY_OUTCOME)
    right = await catch_up(topology, broker)
    keys, partition = topology.keys, topology.keys.partition(ids[0])
    await broker.connection.call("SET", keys.view(partition, ids[0]), b"{}")
    await broker.connection.call(
        "ZADD", keys.index(partition, "order", "completed"), 1, ids[1], 1, "never-was"
    )
    await broker.connection.call("DEL", keys.trace(partition, ids[0]))
    assert await look(topology, broker) != right
    await Tracker(topology, broker).rebuild()
    assert await look(topology, broker) == right


async def test_a_rebuild_beside_a_tracker_at_work(
    open_broker: OpenBroker, topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rebuilding again and again while sagas run and another tracker projects them: the right views."""
    monkeypatch.setattr(follower, "_ENTRIES", 1)
    monkeypatch.setattr(follower, "_LEAST", 3)
    monkeypatch.setattr(follower, "_STANDBY", 0.02)
    broker, beside = open_broker(topology), open_broker(topology)
    choreo = Choreography(topology, broker)
    async with running(*workers(topology, broker), Tracker(topology, broker)):
        for turn in range(4):
            for number, amount in enumerate(EVERY_OUTCOME):
                await choreo.start(Placed(amount), saga_id=f"s{turn}-{number}")
            await Tracker(topology, beside).rebuild()
        for turn in range(4):
            for number, _ in enumerate(EVERY_OUTCOME):
                await choreo.wait(f"s{turn}-{number}", timeout=20)
    assert await catch_up(topology, broker) == await work_out(topology, broker)


async def test_a_rebuild_and_a_tracker_do_not_lose_each_others_facts(
    open_broker: OpenBroker, namespace: str
) -> None:
    """A tracker that writes while a rebuild has only come half-way does not make either forget a fact."""
    topology = Topology(namespace, 1, {"orders": ("Placed",), "money": ("Paid",)}, {}, {})
    broker = open_broker(topology)
    for number in range(2):
        await add_entry(broker, topology.keys.stream(0, "orders"), event(f"placed-{number}", "Placed"))
    await add_entry(broker, topology.keys.stream(0, "money"), event("paid-0", "Paid"))

    at_work = Hand(topology, broker)
    while await at_work.step(500):
        pass
    await broker.projections.wipe(0, at_work.projector.streams, begin=True)
    rebuilding = Hand(topology, broker)
    assert await rebuilding.write(await rebuilding.fold(1))
    half_way = await rebuilding.fold(1)
    await add_entry(broker, topology.keys.stream(0, "money"), event("paid-1", "Paid"))
    await at_work.write(await at_work.fold(9))
    await rebuilding.write(half_way)
    await Tracker(topology, broker).catch_up()
    assert await look(topology, broker) == await work_out(topology, broker)


def event(event_id: str, event_type: str, saga_id: str = "s1") -> dict[bytes, bytes]:
    fields = {"id": event_id, "type": event_type, "subject": saga_id, "data": "{}", "time": "1000"}
    return {name.encode(): value.encode() for name, value in fields.items()}


async def test_a_rebuild_that_is_killed_is_finished_by_the_next_tracker(
    open_broker: OpenBroker, topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever a rebuild is killed, the next tracker ends up with the right views."""
    monkeypatch.setattr(follower, "_ENTRIES", 1)
    monkeypatch.setattr(follower, "_LEAST", 5)
    broker = open_broker(topology)
    await run_sagas(topology, broker, EVERY_OUTCOME)
    right = await catch_up(topology, broker)
    for tenths in range(0, 100, 3):
        task = asyncio.create_task(Tracker(topology, open_broker(topology)).rebuild())
        await asyncio.sleep(tenths / 10_000)
        await kill(task)
        assert await catch_up(topology, broker) == right, f"killed after {tenths / 10} ms"


async def test_a_wipe_that_is_killed_is_finished_by_the_next_tracker(
    broker: Broker, topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rebuild that died while it was deleting: nobody writes before somebody has deleted the rest."""
    await run_sagas(topology, broker, [1] * 8)
    right = await catch_up(topology, broker)
    stale = Hand(topology, broker)
    await stale.fold(500)
    keys = topology.keys
    for partition in range(topology.partitions):
        prefixes = [keys.view(partition, ""), keys.trace(partition, "")]
        names = [keys.tracker(partition), keys.deadlines(partition), keys.unmade(partition)]
        assert await broker.connection.run("wipe", names, ["begin", *prefixes, 1]) in (1, -1)
    await add_entry(broker, keys.journal(0), {b"not": b"ours"})
    assert not await stale.write(await stale.fold(1)), "nothing is written while views are being deleted"
    assert await catch_up(topology, broker) == right


async def test_two_rebuilds_at_once_end_alike(
    open_broker: OpenBroker, topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several processes that rebuild at the same time end with the same views."""
    monkeypatch.setattr(follower, "_STANDBY", 0.02)
    broker = open_broker(topology)
    await run_sagas(topology, broker, EVERY_OUTCOME)
    right = await catch_up(topology, broker)
    await asyncio.gather(*(Tracker(topology, open_broker(topology)).rebuild() for _ in range(3)))
    assert await catch_up(topology, broker) == right


async def test_a_rebuild_does_not_touch_the_truth(broker: Broker, topology: Topology) -> None:
    """Records and streams are as before, dead letters are not written again, and sagas stay ended."""
    ids = await run_sagas(topology, broker, EVERY_OUTCOME)
    await add_entry(broker, topology.keys.stream(0, "orders"), {b"not": b"ours"})
    await catch_up(topology, broker)
    before = await lengths(topology, broker)
    await Tracker(topology, broker).rebuild()
    await Tracker(topology, broker).rebuild()
    assert await lengths(topology, broker) == before
    for saga_id in ids:
        assert await has_ended(broker, saga_id)


async def lengths(topology: Topology, broker: Broker) -> dict[str, int]:
    """How long every stream is, dead letters included."""
    found = {}
    for partition in range(topology.partitions):
        for stream in (*Projector(topology, partition).streams, topology.keys.dead(partition)):
            found[stream] = await broker.connection.call("XLEN", stream)
    return found


async def test_a_saga_may_change_its_type_when_its_start_is_known(
    open_broker: OpenBroker, namespace: str
) -> None:
    """A saga first seen by a later event is listed anew, once, when its first event arrives."""
    order = SagaType("order", frozenset({"Placed"}), frozenset())
    topology = Topology(namespace, 1, {"orders": ("Placed",), "money": ("Paid",)}, {}, {"order": order})
    broker = open_broker(topology)
    await add_entry(broker, topology.keys.stream(0, "money"), event("paid", "Paid"))
    assert set((await catch_up(topology, broker)).listings) == {":running"}
    await add_entry(broker, topology.keys.stream(0, "orders"), event("placed", "Placed"))
    found = await catch_up(topology, broker)
    assert found.listings == {"order:running": [("s1", 1000)]}
    assert found == await work_out(topology, broker)


async def test_the_tracker_waits_for_no_participant(broker: Broker, topology: Topology) -> None:
    """Views come although no participant's code runs in the process: the tracker needs only the topology."""
    await Choreography(topology, broker).start(Placed(), saga_id="lonely")
    found = await catch_up(topology, broker)
    assert found.listings["order:running"][0][0] == "lonely"
