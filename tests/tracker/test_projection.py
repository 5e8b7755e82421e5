"""Projecting: the same facts make the same views, however they arrive and whoever projects them."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stories import TYPES, Story, entry_of, stories
from tracker_kit import BOOM, DECLINED, NO_STOCK, STUCK, Hand, OpenBroker, catch_up, look, run_sagas, work_out

from choreo.broker.broker import Broker
from choreo.model.facts import Kind, decode_view, encode_view, project
from choreo.tracker.follower import Tracker
from choreo.wire.topology import SagaType, Topology

pytestmark = pytest.mark.anyio

_numbers = itertools.count()


def story_topology(namespace: str) -> Topology:
    """One that carries the events which stories tell of."""
    order = SagaType("order", frozenset({"Placed"}), frozenset({"Shipped"}), False, frozenset({"Declined"}))
    return Topology(namespace, 1, {"orders": ("Placed",), "rest": (*TYPES, "Refunded")}, {}, {"order": order})


def commands(topology: Topology, saga_id: str, story: Story) -> list[list[bytes | str]]:
    """The XADDs that tell a story."""
    found = []
    for fact in story.facts:
        if fact.kind is not Kind.REFUSED:
            name = topology.routes.get(fact.type, "") if fact.kind is Kind.EVENT else ""
            stream = topology.keys.stream(0, name) if name else topology.keys.journal(0)
            flat = [part for pair in entry_of(fact, saga_id).items() for part in pair]
            found.append(["XADD", stream, "*", *flat])
    return found


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(st.lists(stories(), min_size=1, max_size=3), st.integers(0).map(random.Random), st.integers(1, 9))
async def test_facts_project_alike_however_they_arrive(
    open_broker: OpenBroker, namespace: str, told: Sequence[Story], chance: random.Random, count: int
) -> None:
    """Entries shuffled, repeated, split over many batches, the cache dropped in between: the same views."""
    topology = story_topology(namespace)
    broker = open_broker(topology)
    sagas = {f"saga-{next(_numbers)}": story for story in told}
    entries = [each for saga_id, story in sagas.items() for each in commands(topology, saga_id, story)]
    entries += chance.sample(entries, len(entries) // 3)
    chance.shuffle(entries)
    hand = Hand(topology, broker)
    while entries:
        portion, entries = entries[: count * 2], entries[count * 2 :]
        await broker.connection.call_many(portion)
        while await hand.step(count):
            if chance.random() < 0.3:
                hand.forget()
    expected = [
        encode_view(
            project(saga_id, {fact.id: fact for fact in story.facts if fact.kind is not Kind.REFUSED})
        )
        for saga_id, story in sagas.items()
    ]
    assert await broker.projections.views(list(sagas)) == expected


async def test_views_are_what_the_streams_say(broker: Broker, topology: Topology) -> None:
    """Sagas of every outcome, run for real: views, listings and timelines are those of their facts."""
    ids = await run_sagas(topology, broker, [1, DECLINED, NO_STOCK, BOOM, STUCK, 1, 1])
    found = await catch_up(topology, broker)
    assert found == await work_out(topology, broker)
    assert set(found.views) == set(ids)
    assert {name: len(rows) for name, rows in found.listings.items()} == {
        "order:completed": 3, "order:compensated": 3, "order:failed": 1,
    }  # fmt: skip


async def test_projecting_again_changes_nothing(broker: Broker, topology: Topology) -> None:
    """A tracker that starts where another has stopped finds nothing to do."""
    await run_sagas(topology, broker, [1, NO_STOCK])
    before = await catch_up(topology, broker)
    assert await Tracker(topology, broker).catch_up() == 0
    assert await look(topology, broker) == before


async def test_every_saga_is_listed_once_while_it_goes_on(open_broker: OpenBroker, namespace: str) -> None:
    """Whatever has been projected so far, each saga stands in one listing: that of its type and state."""
    topology = story_topology(namespace)
    broker = open_broker(topology)
    story = Story()
    placed = story.begin()
    (paid,) = story.step(placed, "payments/charge", ["Paid"], undoable=True)
    story.abort(paid, "shipping/send")
    story.undo(story.asked[0], "refund")
    hand = Hand(topology, broker)
    listed = []
    for command in reversed(commands(topology, "saga-x", story)):
        await broker.connection.call_many([command])
        assert await hand.step(1)
        found = await look(topology, broker)
        listed.append(list(found.listings))
        assert found == await work_out(topology, broker)
        hand.forget()
    assert listed[-1] == ["order:compensated"]


async def test_a_batch_is_written_once(broker: Broker, topology: Topology) -> None:
    """Of two trackers that have read the same, one writes; the other is told that it is behind."""
    await run_sagas(topology, broker, [1, NO_STOCK, 1])
    for partition in range(topology.partitions):
        first, second = Hand(topology, broker, partition), Hand(topology, broker, partition)
        one, other = await first.fold(500), await second.fold(500)
        assert await first.write(one)
        assert not await second.write(other)
    assert await look(topology, broker) == await work_out(topology, broker)


async def test_a_batch_may_hold_thousands_of_facts_of_one_saga(server_url: str, namespace: str) -> None:
    """A saga that spread over many streams before a tracker came is projected in one batch."""
    types = {f"topic-{number}": (f"Ticked{number}",) for number in range(20)}
    topology = Topology(namespace, 1, types, {}, {})
    async with Broker.open(server_url, topology.keys) as broker:
        await broker.connection.call_many([
            ("XADD", topology.keys.stream(0, name), "*", "id", f"{name}-{number}", "type", event,
             "subject", "s1", "data", "{}", "time", "1000")
            for name, (event,) in types.items() for number in range(500)
        ])  # fmt: skip
        assert (await catch_up(topology, broker)) == await work_out(topology, broker)
        (packed,) = await broker.projections.views(["s1"])
        assert packed is not None
        assert decode_view(packed).events == 10_000
