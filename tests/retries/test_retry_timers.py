"""Timers: parked until they are due, moved once, by whoever comes first."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import anyio
import pytest
import redis.asyncio
from retry_kit import (
    NEVER,
    NOW,
    HandClock,
    Placed,
    Shipped,
    Stage,
    quick,
    until,
)
from retry_seat import Seat

from choreo import Context, Participant, Retry
from choreo.broker.broker import Broker
from choreo.broker.connection import Connection
from choreo.wire.envelope import Envelope
from choreo.wire.inbox import Parked
from choreo.wire.limits import MAX_DUE
from choreo.wire.topology import Topology

pytestmark = pytest.mark.anyio


async def test_not_before_it_is_due(seat: Seat) -> None:
    """A millisecond too early nothing moves, and the answer says when the first one is due."""
    await seat.park(due=NOW + 1000)
    assert await seat.stage.move_due(NOW + 999) == (0, NOW + 1000)
    assert await seat.read() == []
    assert await seat.stage.move_due(NOW + 1000) == (1, None)


async def test_the_earliest_come_first(seat: Seat) -> None:
    """Timers are moved in the order in which they are due, whenever they were parked."""
    for number, due in enumerate((300, 100, 200)):
        await seat.park(f"s{number}", f"e{number}", due=NOW + due)
    assert await seat.stage.move_due(NOW + 200) == (2, NOW + 300)
    assert [seat.head(each).saga_id for each in await seat.read()] == ["s1", "s2"]


async def test_nothing_is_parked(stage: Stage) -> None:
    """Then nothing moves, and nothing is due."""
    assert await stage.move_due(NOW) == (0, None)


async def test_one_script_moves_a_bounded_number(real_stage: Stage) -> None:
    """The server is never busy for long: what is left follows with the next call."""
    await park_many(real_stage, MAX_DUE + 7)
    assert await real_stage.move_due(NOW) == (MAX_DUE, NOW)
    assert await real_stage.move_due(NOW) == (7, None)


async def park_many(stage: Stage, count: int, participant: str = "payments") -> list[str]:
    """Park the second attempt of so many sagas, all due at NOW. Returns the sagas' ids."""
    keys = stage.topology.keys
    sagas = [f"s{number}" for number in range(count)]
    commands = []
    for saga in sagas:
        timer = f"{participant}/charge:e-{saga} {saga}"
        event = Envelope(id=f"e-{saga}", type="Placed", subject=saga, data=b"{}", sagatype="order")
        payload = Parked(2, event=event.pack()).pack()
        commands.append(("HSET", keys.parked(0), timer, payload, f"s:{timer}", saga))
        commands.append(("ZADD", keys.timers(0), NOW, timer))
    for answer in await stage.broker.connection.call_many(commands):
        assert not isinstance(answer, Exception)
    return sagas


async def test_five_movers_at_once_move_each_timer_once(
    real_stage: Stage, real_client: redis.asyncio.Redis, server_url: str
) -> None:
    """Movers that race, and are cancelled in the middle of a call, neither double a timer nor lose one."""
    sagas = await park_many(real_stage, 2000)
    chance = random.Random(7)

    async def drain(broker: Broker) -> None:
        while (await broker.timers.move_due(NOW)).following is not None:
            pass

    async def move_and_be_cancelled() -> None:
        async with Broker.open(server_url, real_stage.topology.keys) as broker:
            while await real_stage.due():
                await broker.connection.call("PING")  # what is cancelled shall be a script, not a connect
                mover = asyncio.ensure_future(drain(broker))
                await asyncio.wait([mover], timeout=chance.uniform(0.001, 0.01))
                mover.cancel()
                await asyncio.wait([mover])
                assert mover.cancelled() or mover.exception() is None

    async with anyio.create_task_group() as movers:
        for _ in range(5):
            movers.start_soon(move_and_be_cancelled)
    moved = Counter(entry["subject"] for entry in await real_stage.entries("inbox:payments"))
    assert moved == Counter(sagas)
    assert await real_client.exists(real_stage.topology.keys.parked(0)) == 0


async def test_ten_thousand_timers_of_one_second_do_not_stall_others(real_stage: Stage) -> None:
    """A saga that begins when ten thousand retries have become due is through long before they all are."""
    sagas = await park_many(real_stage, 10_000)
    retried = []
    payments = Participant("payments")

    @payments.on(Placed)
    async def charge(placed: Placed, ctx: Context) -> Shipped:
        if ctx.attempt == 2:
            retried.append(ctx.saga_id)
        return Shipped()

    async with real_stage.playing(payments, clock=HandClock(), mover=False) as choreo:
        await until(lambda: retried, "the first of them to be tried again")
        await choreo.start(Placed(), saga_id="fresh")
        await until(lambda: real_stage.has_ended("fresh"), "the fresh saga to end")
        assert len(retried) < len(sagas) / 2


async def test_an_inbox_that_is_in_the_way_hinders_only_its_own_participant(seat: Seat) -> None:
    """A key of the wrong type where one inbox should be: the timers of all others are moved."""
    stage = seat.stage
    await park_many(stage, 1, participant="broken")
    await stage.call("SET", stage.topology.keys.inbox(0, "broken"), "in the way")
    await seat.park("s9", "e9", due=NOW)
    moved = await stage.broker.timers.move_due(NOW)
    assert [stage.topology.keys.inbox(0, "broken") in each for each in moved.obstacles] == [True]
    assert [seat.head(each).saga_id for each in await seat.read()] == ["s9"]
    assert len(await stage.due()) == 1
    await stage.call("DEL", stage.topology.keys.inbox(0, "broken"))
    assert (await stage.move_due(NOW))[0] == 1
    assert [entry["subject"] for entry in await stage.entries("inbox:broken")] == ["s0"]


@pytest.mark.parametrize("obstacle", ["timers", "parked"])
async def test_timers_that_cannot_be_read_in_one_partition(
    connect: object, redis_client: redis.asyncio.Redis, namespace: str, obstacle: str
) -> None:
    """A key of the wrong type is left as it is; the other partitions' timers are moved."""
    topology = Topology(namespace, 2, {"orders": ("Placed",)})
    broker = Broker(Connection(redis_client), topology.keys)
    keys = topology.keys
    timer = "payments/charge:e1 s1"
    for partition in (0, 1):
        await broker.connection.call("ZADD", keys.timers(partition), NOW, timer)
        await broker.connection.call("HSET", keys.parked(partition), timer, b"x", f"s:{timer}", "s1")
    await broker.connection.call("SET", getattr(keys, obstacle)(0), "in the way")
    moved = await broker.timers.move_due(NOW)
    assert moved.count == 1
    assert [getattr(keys, obstacle)(0) in each for each in moved.obstacles] == [True]
    assert await broker.connection.call("XLEN", keys.inbox(1, "payments")) == 1
    assert await broker.connection.call("GET", getattr(keys, obstacle)(0)) == b"in the way"


async def test_a_timer_without_its_payload_is_dropped(seat: Seat) -> None:
    """Somebody deleted what was parked: the leftover hinders no other timer."""
    stage = seat.stage
    await stage.call("ZADD", stage.topology.keys.timers(0), NOW, "payments/charge:gone s0")
    await seat.park("s1", "e1", due=NOW)
    assert (await stage.move_due(NOW))[1] is None
    assert [entry["subject"] for entry in await stage.entries("inbox:payments")] == ["s1"]


# -- with workers ------------------------------------------------------------------------------------


def failing(runs: list[int], retry: Retry, fails_until: int = 2) -> Participant:
    """A payments service whose step fails until a certain attempt."""
    payments = Participant("payments")

    @payments.on(Placed, retry=retry)
    async def charge(placed: Placed, ctx: Context) -> Shipped:
        runs.append(ctx.attempt)
        if ctx.attempt < fails_until:
            raise OSError("no line")
        return Shipped()

    return payments


async def test_a_worker_waits_for_the_clock(stage: Stage) -> None:
    """The next attempt runs when the clock says so, whatever real time passes: not a millisecond before."""
    runs: list[int] = []
    earlier: list[int] = []
    clock = HandClock()
    payments = failing(runs, Retry(attempts=3, first=60, factor=2, limit=3600, jitter=0), fails_until=3)
    inventory = Participant("inventory")

    @inventory.on(Placed, retry=Retry(attempts=9, first=59.999, factor=1, limit=60, jitter=0))
    async def reserve(placed: Placed, ctx: Context) -> None:
        earlier.append(ctx.attempt)
        if ctx.attempt < 2:
            raise OSError("no line")

    async with stage.playing(payments, inventory, clock=clock, mover=False) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        await until(lambda: _parked(stage, 2), "the second attempts to be parked")
        assert await stage.due() == [NOW + 59_999, NOW + 60_000]
        clock.advance(59.999)
        await until(lambda: earlier == [1, 2], "what is due a millisecond earlier")
        assert runs == [1]
        clock.advance(0.001)
        await until(lambda: runs == [1, 2], "the second attempt")
        await until(stage.due, "the third attempt to be parked")
        assert await stage.due() == [NOW + 180_000]
        clock.advance(120)
        assert (await choreo.wait("s1", timeout=20)).status == "completed"
    assert runs == [1, 2, 3]


async def test_a_restart_loses_no_retry(stage: Stage) -> None:
    """All workers die while retries are parked; the next ones go on with the attempt that was to come."""
    runs: list[int] = []
    clock = HandClock()
    sagas = [f"s{number}" for number in range(10)]
    async with stage.playing(failing(runs, NEVER), clock=clock, mover=False) as choreo:
        for saga in sagas:
            await choreo.start(Placed(), saga_id=saga)
        await until(lambda: _parked(stage, len(sagas)), "every retry to be parked")
    assert await stage.pending() == []
    clock.advance(3600)
    async with stage.playing(failing(runs, NEVER), clock=clock, mover=False) as choreo:
        views = [await choreo.wait(saga, timeout=20) for saga in sagas]
    assert [(view.status, view.retries) for view in views] == [("completed", 1)] * 10
    assert sorted(runs) == [1] * 10 + [2] * 10


async def _parked(stage: Stage, count: int) -> bool:
    return len(await stage.due()) == count


async def test_any_participants_worker_moves_the_timers_of_all(stage: Stage) -> None:
    """The inbox of a service that is down is filled by whoever is up; it finds its retry when it is back."""
    runs: list[int] = []
    clock = HandClock()
    orders = Participant("orders")

    @orders.on(Shipped)
    async def mark(shipped: Shipped) -> None: ...

    async with stage.playing(failing(runs, NEVER), clock=clock, mover=False) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        await until(stage.due, "the retry to be parked")
    clock.advance(3600)
    async with stage.playing(orders, clock=clock, mover=False):
        await until(lambda: _parked(stage, 0), "the timer to be moved")
    assert len(await stage.entries("inbox:payments")) == 1
    assert runs == [1]
    async with stage.playing(failing(runs, NEVER), clock=clock, mover=False) as choreo:
        assert (await choreo.wait("s1", timeout=20)).status == "completed"
    assert runs == [1, 2]


async def test_several_workers_of_one_service_share_the_retries(stage: Stage) -> None:
    """However many look for due timers, each attempt runs once."""
    runs: list[tuple[str, int]] = []
    payments = Participant("payments")

    @payments.on(Placed, retry=quick(3))
    async def charge(placed: Placed, ctx: Context) -> Shipped:
        runs.append((ctx.saga_id, ctx.attempt))
        if ctx.attempt < 3:
            raise OSError("no line")
        return Shipped()

    sagas = [f"s{number}" for number in range(20)]
    async with stage.playing(*[payments] * 5, mover=False) as choreo:
        for saga in sagas:
            await choreo.start(Placed(), saga_id=saga)
        for saga in sagas:
            await choreo.wait(saga, timeout=20)
    assert Counter(runs) == Counter((saga, attempt) for saga in sagas for attempt in (1, 2, 3))


async def test_garbage_in_the_inbox_hinders_nothing(stage: Stage) -> None:
    """Entries that no worker wrote are logged and acknowledged; the retry behind them runs."""
    runs: list[int] = []
    clock = HandClock()
    async with stage.playing(failing(runs, NEVER), clock=clock, mover=False) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        await until(stage.due, "the retry to be parked")
        inbox = stage.topology.keys.inbox(0, "payments")
        envelope = ("id", "retry", "type", "choreo.retry", "subject", "s1", "data")
        for data in (
            b"",
            b"\xff\xfe",
            b"{}",
            b"\xc1",
            Parked(2, event=b"\xff").pack(),
            b"\x93\x02\xa0\xc4\x00",
        ):
            await stage.call("XADD", inbox, "*", *envelope, data)
        await stage.call("XADD", inbox, "*", "what", "ever")
        clock.advance(3600)
        assert (await choreo.wait("s1", timeout=20)).status == "completed"
        await until(stage.is_settled, "the inbox to be empty")
    assert runs == [1, 2]
