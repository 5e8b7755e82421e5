"""What becomes of deliveries that nobody seems to hold: lost answers, dead workers, and their consumers."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio
import pytest
from retry_kit import HandClock, Placed, Reserved, Shipped, Stage, until
from retry_seat import Seat

from choreo import Choreography, Context, Participant
from choreo.broker.gate import Identity
from choreo.broker.groups import Delivery
from choreo.broker.leases import Held
from choreo.model.pause import Pause
from choreo.runtime.claims import Claims
from choreo.runtime.slots import Slots
from choreo.runtime.upkeep import Upkeep
from choreo.wire.limits import MAX_BATCH

pytestmark = pytest.mark.anyio

#: Seconds; no test sees the end of it.
LONG = 600.0
LEASE = 0.3


class Hands:
    """Takes deliveries in hand, and does nothing with them."""

    def __init__(self, slots: Slots) -> None:
        self.slots = slots
        self.taken: list[Delivery] = []

    async def __call__(self, found: Sequence[Delivery]) -> None:
        for delivery in found:
            self.slots.hold(delivery)
        self.taken.extend(found)


def upkeep_of(seat: Seat, slots: Slots, lease: float = LEASE) -> Upkeep:
    claims = Claims(seat.stage.broker.leases, seat.identity, slots, HandClock())
    return Upkeep(claims, dict.fromkeys(seat.streams, 0), lease, doubt=anyio.Event, paused=bool)


async def publish_many(seat: Seat, count: int, prefix: str) -> None:
    for number in range(count):
        await seat.publish(f"{prefix}{number}", f"{prefix}{number}")


async def make_overdue(seat: Seat, delivery: Delivery) -> None:
    await seat.stage.call(
        "XCLAIM", delivery.stream, "payments", seat.identity.consumer, 0, delivery.entry,
        "IDLE", 1_000_000, "JUSTID",
    )  # fmt: skip


# -- recovery ----------------------------------------------------------------------------------------


async def test_lost_ones_behind_many_live_ones(seat: Seat) -> None:
    """However many this worker holds itself, overdue or not: what lies behind them is found in one sweep."""
    slots = Slots(3 * MAX_BATCH)
    hands = Hands(slots)
    await publish_many(seat, MAX_BATCH + 50, "mine")
    for delivery in [*await seat.read(), *await seat.read()]:
        slots.hold(delivery)
        await make_overdue(seat, delivery)
    assert slots.in_hand == MAX_BATCH + 50
    other = await Seat.at(seat.stage, "two")
    await publish_many(other, 5, "lost")
    lost = await other.read()
    for delivery in lost:
        await make_overdue(other, delivery)
    await upkeep_of(seat, slots).sweep(hands)
    assert [each.entry for each in hands.taken] == [each.entry for each in lost]
    assert {each.deliveries for each in hands.taken} == {2}


async def test_no_more_is_taken_over_than_there_are_slots(seat: Seat) -> None:
    """Of four, events may have three. The rest waits for the next sweep, or for another worker."""
    slots = Slots(4)
    hands = Hands(slots)
    other = await Seat.at(seat.stage, "two")
    await publish_many(other, 10, "lost")
    for delivery in await other.read():
        await make_overdue(other, delivery)
    upkeep = upkeep_of(seat, slots)
    await upkeep.sweep(hands)
    assert len(hands.taken) == 3
    for delivery in list(hands.taken):
        slots.release(delivery)
    await upkeep.sweep(hands)
    assert len(hands.taken) == 6


async def test_the_lost_come_before_the_backlog(seat: Seat) -> None:
    """If no slot was free for them, the next ones are kept for them: reading would take every one."""
    slots = Slots(4)
    hands = Hands(slots)
    await publish_many(seat, 3, "mine")
    for delivery in (mine := await seat.read()):
        slots.hold(delivery)
    other = await Seat.at(seat.stage, "two")
    await publish_many(other, 2, "lost")
    for delivery in await other.read():
        await make_overdue(other, delivery)
    upkeep = upkeep_of(seat, slots)
    assert await upkeep.sweep(hands), "it is to sweep again soon"
    slots.release(mine[0])
    assert (slots.free(back=False), slots.free(back=False, lost=True)) == (0, 1)
    await upkeep.sweep(hands)
    assert len(hands.taken) == 1
    for delivery in mine[1:]:
        slots.release(delivery)
    assert not await upkeep.sweep(hands)
    assert (len(hands.taken), slots.free(back=False)) == (2, 1)


async def test_what_is_alive_is_left_alone(seat: Seat) -> None:
    """A lease that has not run out: no sweep touches it."""
    slots = Slots(4)
    hands = Hands(slots)
    other = await Seat.at(seat.stage, "two")
    await other.publish()
    await other.take()
    await upkeep_of(seat, slots, lease=LONG).sweep(hands)
    assert hands.taken == []


# -- answers that were lost --------------------------------------------------------------------------


async def test_ones_own_are_taken_in_hand_without_being_counted(seat: Seat) -> None:
    """Nobody died of them: they do not come closer to being poison, however often an answer is lost."""
    slots = Slots(4)
    hands = Hands(slots)
    await seat.publish()
    delivery = await seat.take()
    claims = Claims(seat.stage.broker.leases, seat.identity, slots, HandClock())
    for _ in range(3):
        await claims.take_in_hand(Held(delivery.stream, 0, [delivery.entry]), hands)
    assert hands.taken == [delivery] * 3
    ((_, _, count),) = await seat.stage.pending()
    assert count == 1


async def test_what_another_worker_has_taken_over_is_not_ones_own(seat: Seat) -> None:
    """Though it was once; and what is acknowledged is nobody's."""
    slots = Slots(4)
    hands = Hands(slots)
    await publish_many(seat, 2, "s")
    first, second = await seat.read()
    other = await Seat.at(seat.stage, "two")
    await other.claim(first)
    await seat.stage.call("XACK", second.stream, "payments", second.entry)
    claims = Claims(seat.stage.broker.leases, seat.identity, slots, HandClock())
    await claims.take_in_hand(Held(first.stream, 0, [first.entry, second.entry]), hands)
    assert hands.taken == []
    assert [each[1] for each in await seat.stage.pending()] == [first.entry]


#: Deliver everything new to a consumer, and lose the answer.
DELIVER = "redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'STREAMS', KEYS[1], '>') return 1"
ADD = "redis.call('XADD', KEYS[1], '*', unpack(ARGV, 3)) "


async def fail_reads(stage: Stage) -> int:
    """Let every read that waits at the server fail. Returns how many did."""
    failed = 0
    for line in (await stage.call("CLIENT", "LIST")).decode().splitlines():
        about = dict(pair.partition("=")[::2] for pair in line.split())
        if about["cmd"] in ("xreadgroup", "xread") and "b" in about["flags"]:
            failed += await stage.call("CLIENT", "UNBLOCK", about["id"], "ERROR")
    return failed


@pytest.mark.parametrize("concurrency", [1, 100])
async def test_a_read_whose_answer_is_lost(real_stage: Stage, concurrency: int) -> None:
    """What it delivered is run at once, as the same delivery, and not only when a lease has run out."""
    runs: list[str] = []
    payments = Participant("payments")

    @payments.on(Placed)
    async def charge(placed: Placed) -> Shipped:
        runs.append("charge")
        return Shipped()

    worker = real_stage.worker(payments, lease=LONG, concurrency=concurrency)
    async with real_stage.running(worker):
        key = real_stage.topology.keys.stream(0, "orders")
        event = ("id", "e1", "type", "Placed", "subject", "s1", "data", "{}")
        await until(lambda: fail_reads(real_stage), "a read that waits")
        # In one script, so that the worker's own read cannot be first.
        await real_stage.call(
            "EVAL", ADD + DELIVER, 1, key, "payments", worker.identity.consumer, *event
        )  # fmt: skip
        assert [count for _, _, count in await real_stage.pending()] == [1]
        await until(lambda: fail_reads(real_stage), "a read that waits")
        await until(lambda: real_stage.has_ended("s1"), "the saga to end")
        await until(real_stage.is_settled, "nothing to be in anybody's hands")
    assert runs == ["charge"]


async def test_what_is_in_hand_is_not_lost(real_stage: Stage) -> None:
    """Reads fail again and again while a handler runs: it is not run beside itself."""
    runs: list[str] = []
    finish = anyio.Event()
    payments = Participant("payments")

    @payments.on(Placed)
    async def charge(placed: Placed) -> Shipped:
        runs.append("charge")
        await finish.wait()
        return Shipped()

    async with real_stage.running(real_stage.worker(payments, lease=LONG)):
        await Choreography(real_stage.topology, real_stage.broker).start(Placed(), saga_id="s1")
        await until(lambda: runs, "it to run")
        for _ in range(5):
            await until(lambda: fail_reads(real_stage), "a read that waits")
        finish.set()
        await until(lambda: real_stage.has_ended("s1"), "the saga to end")
    assert runs == ["charge"]


# -- consumers that are gone -------------------------------------------------------------------------


async def consumers(stage: Stage) -> set[str]:
    key = stage.topology.keys.stream(0, "orders")
    found = await stage.call("XINFO", "CONSUMERS", key, "payments")
    return {dict(zip(flat[::2], flat[1::2], strict=True))[b"name"].decode() for flat in found}


async def test_consumers_that_are_gone_are_removed(seat: Seat) -> None:
    """Those that hold nothing; never one with something pending, nor oneself."""
    key = seat.streams[0]
    for name in ("one", "gone", "dead"):
        await seat.stage.call("XGROUP", "CREATECONSUMER", key, "payments", name)
    dead = await Seat.at(seat.stage, "dead")
    await dead.publish()
    await dead.take()
    assert await consumers(seat.stage) == {"one", "gone", "dead"}
    assert await seat.stage.broker.leases.tidy(seat.identity, seat.streams, 3_600_000) == 0
    for _ in range(100):
        await seat.stage.broker.leases.tidy(seat.identity, seat.streams, -1)
    assert await consumers(seat.stage) == {"one", "dead"}
    assert len(await seat.stage.pending()) == 1


async def test_a_worker_that_was_removed_comes_back(real_stage: Stage) -> None:
    """It was only idle for too long: its next read finds what has come meanwhile."""
    payments = Participant("payments")

    @payments.on(Placed)
    async def charge(placed: Placed) -> Shipped:
        return Shipped()

    choreo = Choreography(real_stage.topology, real_stage.broker)
    async with real_stage.running(real_stage.worker(payments)):
        for saga in ("s1", "s2", "s3"):
            await choreo.start(Placed(), saga_id=saga)
            await until(lambda saga=saga: real_stage.has_ended(saga), f"{saga} to end")  # type: ignore[misc]
            await until(real_stage.is_settled, "nothing to be in anybody's hands")
            keys = [real_stage.topology.keys.stream(0, "orders")]
            await real_stage.broker.leases.tidy(Identity("payments", "janitor"), keys, -1)
            assert await consumers(real_stage) == set()


# -- a pause -----------------------------------------------------------------------------------------


@dataclass
class Shop:
    """Payments, which an operator pauses, and an inventory that shows how far others would be."""

    charged: list[str] = field(default_factory=list)
    reserved: list[str] = field(default_factory=list)
    finish: anyio.Event = field(default_factory=anyio.Event)

    def payments(self) -> Participant:
        payments = Participant("payments")

        @payments.on(Placed)
        async def charge(placed: Placed, ctx: Context) -> Shipped:
            self.charged.append(ctx.saga_id)
            await self.finish.wait()
            return Shipped()

        return payments

    def inventory(self) -> Participant:
        inventory = Participant("inventory")

        @inventory.on(Placed)
        async def reserve(placed: Placed, ctx: Context) -> None:
            self.reserved.append(ctx.saga_id)

        return inventory

    async def waits(self, choreo: Choreography, saga_id: str) -> bool:
        """Whether an event that comes now is taken by inventory alone."""
        await choreo.start(Placed(), saga_id=saga_id)
        await until(lambda: saga_id in self.reserved, "inventory to have it")
        return saga_id not in self.charged


async def test_a_participant_that_is_paused(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """It takes nothing new and finishes what it has in hand; resumed, it goes on. Both are logged once."""
    shop = Shop()

    def said(words: str) -> int:
        return sum(words in message for message in caplog.messages)

    async with stage.playing(shop.payments(), shop.inventory(), lease=LEASE) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        await until(lambda: shop.charged, "the first to be in hand")
        await stage.broker.meta.pause("payments", Pause(who="ada", at=1, note="too hot"))
        await until(lambda: said("paused by ada (too hot)"), "the worker to notice")
        shop.finish.set()
        await until(lambda: stage.has_ended("s1"), "what was in hand to be finished")
        names = map(str, itertools.count())
        # A read may have been waiting at the server when the pause came.
        while not all([await shop.waits(choreo, f"while paused {next(names)}") for _ in range(5)]):
            pass
        other = await Seat.at(stage, "dead")
        for delivery in await other.read():
            await make_overdue(other, delivery)
        charged = list(shop.charged)
        assert await shop.waits(choreo, "one more")
        assert shop.charged == charged
        await stage.broker.meta.resume("payments")
        await until(lambda: set(shop.reserved) == set(shop.charged), "everything to be taken")
    assert len(shop.charged) == len(shop.reserved)
    assert (said("paused by"), said("resumed")) == (1, 1)


async def test_a_worker_that_starts_while_paused(stage: Stage) -> None:
    """It knows before its first read."""
    shop = Shop()
    await stage.broker.meta.pause("payments", Pause(who="ada", at=1))
    choreo = Choreography(stage.topology, stage.broker)
    async with stage.running(stage.worker(shop.payments()), stage.worker(shop.inventory())):
        assert all([await shop.waits(choreo, f"s{number}") for number in range(10)])
        shop.finish.set()
        await stage.broker.meta.resume("payments")
        await until(lambda: stage.has_ended("s9"), "the sagas to end")


# -- keys in the way ---------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 100])
async def test_a_stream_that_is_none_any_more(
    real_stage: Stage, caplog: pytest.LogCaptureFixture, concurrency: int
) -> None:
    """Somebody put something else in its place: the log names the key, and all other streams are read."""
    runs: list[str] = []
    payments = Participant("payments")

    @payments.on(Placed)
    async def charge(placed: Placed, ctx: Context) -> Shipped:
        runs.append(ctx.saga_id)
        return Shipped()

    @payments.on(Reserved)
    async def note(reserved: Reserved) -> None:
        runs.append("note")

    stock = real_stage.topology.keys.stream(0, "stock")
    choreo = Choreography(real_stage.topology, real_stage.broker)
    async with real_stage.running(real_stage.worker(payments, concurrency=concurrency)):
        await real_stage.call("SET", stock, "in the way")
        for number in range(5):
            await choreo.start(Placed(), saga_id=f"s{number}")
            await until(lambda saga=f"s{number}": real_stage.has_ended(saga), "the saga to end")  # type: ignore[misc]
        await until(lambda: any(stock in message for message in caplog.messages), "the log to name the key")
        await real_stage.call("DEL", stock)
        await real_stage.call("XADD", stock, "*", "id", "r", "type", "Reserved", "subject", "s9", "data", "{}")
        await until(lambda: "note" in runs, "the stream to be read again")
    assert sum(stock in message and "no stream" in message for message in caplog.messages) <= 1
