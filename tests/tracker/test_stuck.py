"""Sagas that are stuck are found, and it is said what they wait for and whether anybody is about to do it."""

from __future__ import annotations

import dataclasses

import anyio
import pytest
from tracker_kit import DECLINED, OpenBroker, Placed, participants, run_sagas, until, workers

from choreo.broker.broker import Broker
from choreo.choreography import Choreography
from choreo.model.pause import Pause
from choreo.model.waits import Awaited, Stuck, Where
from choreo.tracker.follower import Tracker
from choreo.wire.cards import card_of, encode_card
from choreo.wire.topology import Topology

pytestmark = pytest.mark.anyio

HOUR = 3_600_000


@pytest.fixture
def choreo(topology: Topology, broker: Broker) -> Choreography:
    """A client for which it is an hour later than for the server."""
    return Choreography(topology, broker, clock=lambda: broker.clock() + HOUR)


async def join(topology: Topology, broker: Broker) -> None:
    """Let every participant be known, with its groups; none of them works."""
    keys = topology.keys
    await broker.meta.join()
    for participant in participants():
        name = participant.name
        await broker.meta.publish_contract(name, encode_card(card_of(participant)))
        heard = {topology.stream_of(each) for each in participant.reactions}
        for partition in range(topology.partitions):
            topics = [keys.stream(partition, topic) for topic in sorted(heard)]
            await broker.groups.ensure([keys.inbox(partition, name), *topics], name)


async def begin(choreo: Choreography, saga_id: str = "s1") -> None:
    """Begin a saga of which nothing is done, and let the tracker see it."""
    await Choreography(choreo.topology, choreo.broker).start(Placed(1), saga_id=saga_id)
    await Tracker(choreo.topology, choreo.broker).catch_up()


async def only(choreo: Choreography) -> Stuck:
    (found,) = await choreo.stuck()
    return found


def step(found: Stuck, handler: str) -> Awaited:
    (awaited,) = (each for each in found.waits if each.handler == handler)
    assert awaited.reading is not None
    return awaited


async def test_nobody_reads(topology: Topology, broker: Broker, choreo: Choreography) -> None:
    """A step that nobody has read yet is told so, with how much waits there and that no worker is there."""
    await join(topology, broker)
    await begin(choreo)
    charge = step(await only(choreo), "payments/charge")
    assert charge.what == "step"
    assert charge.reading.where is Where.UNREAD  # type: ignore[union-attr]
    assert charge.reading.seen_ms is None  # type: ignore[union-attr]
    assert charge.reading.lag == 1  # type: ignore[union-attr]


async def test_a_worker_holds_it(topology: Topology, broker: Broker, choreo: Choreography) -> None:
    """A delivery in a worker's hands is told with the worker and how often it was delivered."""
    await join(topology, broker)
    await begin(choreo)
    stream = topology.keys.stream(topology.keys.partition("s1"), "orders")
    await broker.connection.call("XREADGROUP", "GROUP", "payments", "w1", "STREAMS", stream, ">")
    reading = step(await only(choreo), "payments/charge").reading
    assert reading is not None
    assert (reading.where, reading.consumer, reading.deliveries) == (Where.HELD, "w1", 1)
    assert step(await only(choreo), "inventory/reserve").reading.where is Where.UNREAD  # type: ignore[union-attr]


async def test_it_was_acknowledged_by_hand(
    topology: Topology, broker: Broker, choreo: Choreography
) -> None:
    """A delivery that somebody acknowledged without an outcome is told as what nobody will do any more."""
    await join(topology, broker)
    await begin(choreo)
    stream = topology.keys.stream(topology.keys.partition("s1"), "orders")
    ((_, ((entry, _),)),) = await broker.connection.call(
        "XREADGROUP", "GROUP", "payments", "w1", "STREAMS", stream, ">"
    )
    await broker.connection.call("XACK", stream, "payments", entry)
    reading = step(await only(choreo), "payments/charge").reading
    assert reading is not None
    assert reading.where is Where.HANDLED


@pytest.mark.parametrize("passed", [False, True])
async def test_it_was_deleted_before_anybody_read_it(
    topology: Topology, broker: Broker, choreo: Choreography, passed: bool
) -> None:
    """An entry that somebody deleted is told as what nobody will handle, also when its group is past it."""
    await join(topology, broker)
    await begin(choreo)
    stream = topology.keys.stream(topology.keys.partition("s1"), "orders")
    ((entry, _),) = await broker.connection.call("XRANGE", stream, "-", "+")
    await broker.connection.call("XDEL", stream, entry)
    if passed:
        await broker.connection.call("XGROUP", "SETID", stream, "payments", "$")
    reading = step(await only(choreo), "payments/charge").reading
    assert reading is not None
    assert reading.where is Where.GONE


async def test_the_group_is_gone(topology: Topology, broker: Broker, choreo: Choreography) -> None:
    """A participant without its group is told."""
    await join(topology, broker)
    await begin(choreo)
    stream = topology.keys.stream(topology.keys.partition("s1"), "orders")
    await broker.connection.call("XGROUP", "DESTROY", stream, "payments")
    assert step(await only(choreo), "payments/charge").reading.where is Where.GROUPLESS  # type: ignore[union-attr]


async def test_a_paused_participant(topology: Topology, broker: Broker, choreo: Choreography) -> None:
    """Who paused the participant is told."""
    await join(topology, broker)
    await begin(choreo)
    await broker.meta.pause("payments", Pause("ann", 7))
    reading = step(await only(choreo), "payments/charge").reading
    assert reading is not None
    assert (reading.paused_by, reading.paused_at) == ("ann", 7)


async def test_an_undo_that_nobody_does(topology: Topology, broker: Broker, choreo: Choreography) -> None:
    """An undo that was asked for and lies in the inbox is told, as is the worker who takes it."""
    await join(topology, broker)
    now = Choreography(topology, broker)
    await now.start(Placed(1), saga_id="s1")
    payments = workers(topology, broker)[0]
    stream = topology.keys.stream(topology.keys.partition("s1"), "money")
    async with anyio.create_task_group() as tasks:
        await tasks.start(payments.run)
        await until(lambda: broker.connection.call("XLEN", stream), "the payment")
        tasks.cancel_scope.cancel()
    await now.compensate("s1")
    await Tracker(topology, broker).catch_up()
    refund = step(await only(choreo), "payments/charge")
    assert refund.what == "undo"
    assert refund.reading.where is Where.UNREAD  # type: ignore[union-attr]
    inbox = topology.keys.inbox(topology.keys.partition("s1"), "payments")
    await broker.connection.call("XREADGROUP", "GROUP", "payments", "w9", "STREAMS", inbox, ">")
    reading = step(await only(choreo), "payments/charge").reading
    assert reading is not None
    assert (reading.where, reading.consumer) == (Where.HELD, "w9")


async def test_only_what_is_stuck_is_found(
    topology: Topology, broker: Broker, choreo: Choreography
) -> None:
    """Sagas that have ended, moved lately or are of another type are left out; the limit holds."""
    await run_sagas(topology, broker, [1, DECLINED])
    for name in ("a", "b", "c"):
        await begin(choreo, name)
    assert {each.saga.id for each in await choreo.stuck()} == {"a", "b", "c"}
    assert len(await choreo.stuck(limit=2)) == 2
    assert len(await choreo.stuck(saga_type="order")) == 3
    assert await choreo.stuck(saga_type="other") == []
    assert await choreo.stuck(longest=2 * HOUR / 1000) == []


async def test_the_cost_does_not_grow_with_ended_sagas(
    open_broker: OpenBroker, topology: Topology
) -> None:
    """What is asked of the server follows from the sagas that are open."""
    one = dataclasses.replace(topology, partitions=1)
    broker = open_broker(one)
    await run_sagas(one, broker, [1] * 5)
    await Tracker(one, broker).catch_up()
    assert await Choreography(one, broker).stuck(longest=0) == []
