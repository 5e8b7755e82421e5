"""A worker never has more in hand than it can run, serves every stream, and keeps room for the way back."""

from __future__ import annotations

import threading
from collections.abc import Callable

import anyio
import pytest
import redis.asyncio
from retry_kit import PATIENCE, Paid, Placed, Refunded, Stage, topology_of, until

from choreo import Choreography, Context, Participant
from choreo.broker.broker import Broker
from choreo.broker.connection import Connection
from choreo.broker.groups import Delivery
from choreo.runtime.slots import Slots

pytestmark = pytest.mark.anyio


@pytest.fixture
def stage_of(
    redis_client: redis.asyncio.Redis, store_url: str, namespace: str
) -> Callable[[int], Stage]:
    """Makes a stage with so many partitions, on every store."""
    fake = store_url.startswith("fake")
    connection = Connection(redis_client) if fake else Connection.open(store_url)
    return lambda partitions: Stage(
        topology_of(namespace, partitions), Broker(connection, topology_of(namespace, partitions).keys)
    )


#: Sums up what is pending, of all streams at one moment.
PENDING = """
local sum = 0
for _, key in ipairs(KEYS) do sum = sum + redis.call('XPENDING', key, 'payments')[1] end
return sum
"""


async def in_hand(stage: Stage) -> int:
    """What the server has given to workers of the participant and not got back."""
    keys = stage.topology.keys
    streams = [
        key
        for partition in range(stage.topology.partitions)
        for key in (
            keys.stream(partition, "orders"), keys.stream(partition, "money"), keys.inbox(partition, "payments")
        )
    ]  # fmt: skip
    return int(await stage.call("EVAL", PENDING, len(streams), *streams))


@pytest.mark.parametrize("concurrency", [1, 3, 7, 40])
async def test_never_more_than_there_are_slots(stage_of: Callable[[int], Stage], concurrency: int) -> None:
    """With 4 partitions and 3 topics one read counts per stream; what a worker takes is counted in all."""
    stage = stage_of(4)
    running: list[int] = [0]
    most = [0]
    runs: list[str] = []
    held: list[int] = []
    payments = Participant("payments")

    async def work(ctx: Context) -> None:
        running[0] += 1
        most[0] = max(most[0], running[0])
        runs.append(ctx.event_id)
        if len(runs) % 5 == 0:
            held.append(await in_hand(stage))
        await anyio.sleep(0.001)
        running[0] -= 1

    @payments.on(Placed)
    async def charge(placed: Placed, ctx: Context) -> None:
        await work(ctx)

    @payments.on(Paid)
    async def thank(paid: Paid, ctx: Context) -> None:
        await work(ctx)

    for number in range(90):
        kind, topic = (("Placed", "orders"), ("Paid", "money"), ("Reserved", "stock"))[number % 3]
        key = stage.topology.keys.stream(stage.topology.keys.partition(f"s{number}"), topic)
        fields = ("id", f"e{number}", "type", kind, "subject", f"s{number}", "data", "{}")
        await stage.call("XADD", key, "*", *fields)
    async with stage.running(stage.worker(payments, concurrency=concurrency)):
        await until(lambda: len(runs) == 60, "all of them to be run")
        await until(stage.is_settled, "nothing to be in anybody's hands")
    assert len(set(runs)) == 60
    assert 1 <= most[0] <= concurrency
    assert max(held) <= concurrency
    await stage.broker.connection.close()


async def test_every_stream_has_its_turn(stage_of: Callable[[int], Stage]) -> None:
    """With one slot, a stream with a backlog does not keep the others waiting."""
    stage = stage_of(2)
    runs: list[int] = []
    payments = Participant("payments")

    @payments.on(Placed)
    async def charge(placed: Placed, ctx: Context) -> None:
        runs.append(stage.topology.keys.partition(ctx.saga_id))

    sagas = [f"s{number}" for number in range(100)]
    for partition, count in ((0, 30), (1, 3)):
        for saga in [each for each in sagas if stage.topology.keys.partition(each) == partition][:count]:
            await Choreography(stage.topology, stage.broker).start(Placed(), saga_id=saga)
    async with stage.running(stage.worker(payments, concurrency=1)):
        await until(lambda: len(runs) == 33, "all of them to be run")
    assert runs.index(1) < 5
    assert [number for number, partition in enumerate(runs) if partition == 1][-1] < 12
    await stage.broker.connection.close()


@pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
async def test_undos_do_not_wait_behind_events(stage: Stage, sync: bool) -> None:
    """Every slot for events is taken by a handler that hangs, and more events wait: the undo runs."""
    undone: list[str] = []
    hanging: list[str] = []
    release = anyio.Event()
    payments = Participant("payments")

    @payments.on(Placed)
    async def charge(placed: Placed, ctx: Context) -> Paid | None:
        if placed.amount:
            return Paid()
        hanging.append(ctx.saga_id)
        await release.wait()
        return None

    if sync:

        @charge.undo
        def refund(placed: Placed, paid: Paid | None, ctx: Context) -> Refunded:
            undone.append(ctx.saga_id)
            return Refunded()
    else:

        @charge.undo
        async def refund(placed: Placed, paid: Paid | None, ctx: Context) -> Refunded:
            undone.append(ctx.saga_id)
            return Refunded()

    async with stage.playing(payments, concurrency=4, threads=1) as choreo:
        await choreo.start(Placed(1), saga_id="paid")
        await until(lambda: stage.emitted("Paid"), "the first one to be paid")
        for number in range(20):
            await choreo.start(Placed(0), saga_id=f"h{number}")
        await until(lambda: len(hanging) == 3, "the slots for events to be full")
        await choreo.compensate("paid")
        await until(lambda: undone, "the undo")
        assert len(hanging) == 3
        release.set()
        assert (await choreo.wait("paid", timeout=PATIENCE)).status == "compensated"


async def test_undos_have_threads_of_their_own(stage: Stage) -> None:
    """All threads for steps are taken: an undo that is no coroutine runs nevertheless."""
    undone: list[str] = []
    hanging: list[str] = []
    release = threading.Event()
    payments = Participant("payments")

    @payments.on(Placed)
    def charge(placed: Placed, ctx: Context) -> Paid | None:
        if placed.amount:
            return Paid()
        hanging.append(ctx.saga_id)
        release.wait(PATIENCE)
        return None

    @charge.undo
    def refund(placed: Placed, paid: Paid | None, ctx: Context) -> None:
        undone.append(ctx.saga_id)

    try:
        async with stage.playing(payments, threads=1) as choreo:
            await choreo.start(Placed(1), saga_id="paid")
            await until(lambda: stage.emitted("Paid"), "the first one to be paid")
            for number in range(3):
                await choreo.start(Placed(0), saga_id=f"h{number}")
            await until(lambda: hanging, "the thread to be taken")
            await choreo.compensate("paid")
            await until(lambda: undone, "the undo")
            release.set()
    finally:
        release.set()
    assert len(hanging) <= 3


# -- counting ----------------------------------------------------------------------------------------


def delivery(stream: str, number: int) -> Delivery:
    return Delivery(stream, f"{number}-0", 1, {})


@pytest.mark.parametrize(("limit", "topics"), [(1, 1), (2, 1), (9, 7), (10, 8), (100, 75)])
def test_how_many_topics_may_have(limit: int, topics: int) -> None:
    """A quarter of the slots, at least one of two, is kept for inboxes."""
    slots = Slots(limit, ["inbox"])
    assert (slots.free(back=True), slots.free(back=False)) == (topics, topics)
    for number in range(topics):
        slots.hold(delivery("topic", number))
    assert (slots.free(back=True), slots.free(back=False)) == (limit - topics, 0)


def test_how_many_inboxes_may_have() -> None:
    """All but as many, which are kept for topics."""
    slots = Slots(4, ["inbox"])
    for number in range(3):
        slots.hold(delivery("inbox", number))
    assert (slots.free(back=True), slots.free(back=False)) == (0, 1)
    slots.release(delivery("inbox", 9))  # it never was in hand
    assert slots.free(back=True) == 0


def test_what_is_booked_is_not_free() -> None:
    """Two readers that ask the server at the same time cannot get more than there are slots together."""
    slots = Slots(10, ["inbox"])
    with slots.booking(6, back=False):
        assert (slots.free(back=True), slots.free(back=False)) == (4, 2)
        with slots.booking(4, back=True):
            assert (slots.free(back=True), slots.free(back=False)) == (0, 0)
    assert (slots.free(back=True), slots.free(back=False)) == (8, 8)


@pytest.mark.parametrize("limit", [1, 2, 10, 100])
def test_waiting_leaves_room_for_others(limit: int) -> None:
    """While both readers wait at the server for something to come, what they have booked fits together."""
    slots = Slots(limit, ["inbox"])
    with slots.booking(slots.idle_share(back=False), back=False):
        assert slots.free(back=True) >= slots.idle_share(back=True)
