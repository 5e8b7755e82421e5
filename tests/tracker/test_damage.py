"""Entries deleted before they were handled: the damage shows in the saga that they belonged to."""

from __future__ import annotations

import pytest
from tracker_kit import Hand, Placed, catch_up, letters, look, running, until

from choreo.broker.broker import Broker
from choreo.broker.clock import wall_clock
from choreo.broker.gate import Identity
from choreo.choreography import Choreography
from choreo.model.facts import Kind
from choreo.tracker.follower import Tracker
from choreo.tracker.housekeeping import Housekeeping
from choreo.wire.topology import Topology

pytestmark = pytest.mark.anyio


async def lose(topology: Topology, broker: Broker, saga_id: str, *, projected: bool = True) -> str:
    """Start a saga, have its first event read by a worker that dies, and delete it. Returns its entry."""
    await Choreography(topology, broker).start(Placed(), saga_id=saga_id)
    partition = topology.keys.partition(saga_id)
    stream = topology.keys.stream(partition, "orders")
    await broker.groups.ensure([stream], "payments")
    ((delivery,),) = [await broker.groups.read(Identity("payments", "dead"), [stream], 10, wait=False)]
    if projected:
        await catch_up(topology, broker)
    await broker.connection.call("XDEL", stream, delivery.entry)
    await mourn(topology, broker, partition, stream, delivery.entry)
    return delivery.entry


async def mourn(topology: Topology, broker: Broker, partition: int, stream: str, entry: str) -> None:
    keys = topology.keys
    names = [stream, keys.dead(partition), keys.letters(partition)]
    prefix = f"lost:{stream}:payments:"
    await broker.connection.run("claim", names, ["payments", "alive", 0, wall_clock(), prefix, entry])


async def tidy(topology: Topology, broker: Broker, saga_id: str) -> None:
    """A visit of a tracker that has cached nothing."""
    hand = Hand(topology, broker, topology.keys.partition(saga_id))
    progress = await broker.projections.progress(hand.projector.partition, hand.projector.streams)
    await Housekeeping(topology, broker, wall_clock).visit(hand.projector, progress)


async def test_a_lost_entry_shows_in_its_saga(broker: Broker, topology: Topology) -> None:
    """The view says what was lost and for whom, the trace has an incident, and the letter names the saga."""
    entry = await lose(topology, broker, "s1")
    for _ in range(2):
        await tidy(topology, broker, "s1")
    await catch_up(topology, broker)
    choreo = Choreography(topology, broker)
    view = await choreo.view("s1")
    stream = topology.keys.stream(topology.keys.partition("s1"), "orders")
    assert view.damaged == [f"Placed ({entry} of {stream}) was deleted before payments handled it"]
    assert (view.dead_letters, view.open_letters) == (1, 1)
    (incident,) = (await choreo.trace("s1")).incidents
    assert (incident.kind, incident.note) == (Kind.LOST, view.damaged[0])
    (letter,) = await letters(topology, broker)
    assert letter[b"subject"] == b"s1"
    assert letter[b"reason"] == b"entry-lost"
    assert letter[b"entry"] == entry.encode()


async def test_damage_survives_a_rebuild(broker: Broker, topology: Topology) -> None:
    """It is a fact of the journal, told once, however often anybody looks at the letter."""
    await lose(topology, broker, "s1")
    await tidy(topology, broker, "s1")
    before = await catch_up(topology, broker)
    await Tracker(topology, broker).rebuild()
    await tidy(topology, broker, "s1")
    after = await catch_up(topology, broker)
    assert after == before, "the timeline has the fact of the event itself, too"
    assert b"was deleted before payments handled it" in after.views["s1"]


async def test_a_tracker_at_work_tells_the_saga(broker: Broker, topology: Topology) -> None:
    """Nobody has to ask for it."""
    await lose(topology, broker, "s1")
    choreo = Choreography(topology, broker)

    async def is_damaged() -> bool:
        return bool((await choreo.view("s1")).damaged)

    async with running(Tracker(topology, broker)):
        await until(is_damaged, "the damage to show")


async def test_what_nobody_had_seen_belongs_to_nobody(broker: Broker, topology: Topology) -> None:
    """An entry that was deleted before the tracker read it: its letter stays, without a saga."""
    await lose(topology, broker, "s1", projected=False)
    await catch_up(topology, broker)
    await tidy(topology, broker, "s1")
    (letter,) = await letters(topology, broker)
    assert letter[b"reason"] == b"entry-lost"
    assert b"subject" not in letter
    assert (await look(topology, broker)).views == {}
