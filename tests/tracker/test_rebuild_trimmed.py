"""Rebuilding when the streams hold only part of what happened: the timelines hold the rest."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace

import pytest
from tracker_kit import (
    DECLINED,
    NO_STOCK,
    STUCK,
    Hand,
    OpenBroker,
    add_entry,
    catch_up,
    kill,
    look,
    run_to_rest,
)

from choreo.broker.broker import Broker
from choreo.broker.clock import wall_clock
from choreo.broker.retention import BEGINNING
from choreo.tracker.follower import Tracker
from choreo.tracker.housekeeping import Housekeeping
from choreo.wire.topology import Topology

pytestmark = pytest.mark.anyio

EVERY_END = [1, DECLINED, NO_STOCK, STUCK]


async def trim(topology: Topology, broker: Broker, keep: float) -> int:
    """Trim every stream to what is younger than ``keep`` (seconds). Returns how many entries went."""
    removed = 0
    housekeeping = Housekeeping(replace(topology, keep=keep), broker, wall_clock)
    for partition in range(topology.partitions):
        removed += (await housekeeping.trim(Hand(topology, broker, partition).projector)).removed
    return removed


@pytest.fixture
async def anyhow_trimmed(broker: Broker, topology: Topology) -> None:
    """Sagas of which some have nothing left in the streams, some a part, and some everything."""
    await run_to_rest(topology, broker, EVERY_END, "old")
    await catch_up(topology, broker)
    assert await trim(topology, broker, 0.0) > 0
    await run_to_rest(topology, broker, EVERY_END, "new")
    for partition, name in itertools.product(range(topology.partitions), ("orders", "stock")):
        await broker.groups.ensure([topology.keys.stream(partition, name)], "slow")
    await catch_up(topology, broker)
    assert await trim(topology, broker, 0.0) > 0


@pytest.mark.usefixtures("anyhow_trimmed")
async def test_a_rebuild_loses_nothing_that_was_trimmed(broker: Broker, topology: Topology) -> None:
    """Views, listings and timelines are byte for byte what they were before, twice in a row."""
    before = await look(topology, broker)
    assert len(before.views) == 8
    for _ in range(2):
        await Tracker(topology, broker).rebuild()
        assert await look(topology, broker) == before
    assert not any([await broker.projections.unmade(partition) for partition in range(topology.partitions)])


@pytest.mark.usefixtures("anyhow_trimmed")
async def test_views_of_trimmed_sagas_are_made_anew(broker: Broker, topology: Topology) -> None:
    """A view that was tampered with is right again, though no stream tells of its saga any more."""
    before = await look(topology, broker)
    keys, partition = topology.keys, topology.keys.partition("old0")
    await broker.connection.call("SET", keys.view(partition, "old0"), b"{}")
    await Tracker(topology, broker).rebuild()
    assert await look(topology, broker) == before


@pytest.mark.usefixtures("anyhow_trimmed")
async def test_a_rebuild_of_trimmed_streams_may_be_killed(
    open_broker: OpenBroker, broker: Broker, topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is killed, the next tracker makes the views of all sagas, the trimmed ones too."""
    monkeypatch.setattr("choreo.broker.projections._REMAKE", 1)
    monkeypatch.setattr("choreo.broker.projections._WIPE", 1)
    before = await look(topology, broker)
    halfway = 0
    for scripts in range(1, 24, 3):
        rebuilding = open_broker(topology)
        task = asyncio.create_task(Tracker(topology, rebuilding).rebuild())
        for _ in range(scripts):
            await rebuilding.connection.wait_for_change(1.0 if not task.done() else 0.0)
        await kill(task)
        halfway += await look(topology, broker) != before
        assert await catch_up(topology, broker) == before, f"killed after {scripts} scripts"
    assert halfway, "some rebuild was killed on its way"


@pytest.mark.usefixtures("anyhow_trimmed")
async def test_nothing_is_trimmed_during_a_rebuild(broker: Broker, topology: Topology) -> None:
    """From the wipe until an entry is projected again it stays, although every group has had it."""
    for partition in range(topology.partitions):
        streams = Hand(topology, broker, partition).projector.streams
        left = await broker.connection.call_many([("XLEN", each) for each in streams])
        prefixes = [topology.keys.view(partition, ""), topology.keys.trace(partition, "")]
        keys = topology.keys
        names = [keys.tracker(partition), keys.deadlines(partition), keys.unmade(partition), *streams]
        await broker.connection.run("wipe", names, ["begin", *prefixes, 1])
        housekeeping = Housekeeping(replace(topology, keep=0.0), broker, wall_clock)
        projector = Hand(topology, broker, partition).projector
        wiping = await housekeeping.trim(projector)
        assert (wiping.removed, wiping.horizon) == (0, BEGINNING)
        await broker.projections.wipe(partition, streams, begin=False)
        await broker.connection.call("XGROUP", "DESTROY", topology.keys.stream(partition, "orders"), "slow")
        await housekeeping.trim(projector)
        assert await broker.connection.call_many([("XLEN", each) for each in streams]) == left


async def test_a_late_fact_of_a_trimmed_saga(broker: Broker, topology: Topology) -> None:
    """A fact that comes between a wipe and the making of its saga's view is not lost, nor are the others."""
    await run_to_rest(topology, broker, [1])
    before = await catch_up(topology, broker)
    await trim(topology, broker, 0.0)
    partition = topology.keys.partition("s0")
    hand = Hand(topology, broker, partition)
    await broker.projections.wipe(partition, hand.projector.streams, begin=True)
    assert await broker.projections.unmade(partition) == ["s0"]
    fields = {"id": "late", "type": "Refunded", "subject": "s0", "data": "{}", "time": "1000"}
    await add_entry(
        broker, topology.keys.stream(partition, "money"), {k.encode(): v.encode() for k, v in fields.items()}
    )
    assert await hand.step(100)
    after = await catch_up(topology, broker)
    assert after.facts["s0"] > before.facts["s0"]
    assert await broker.projections.unmade(partition) == []
