"""Leases: what a worker holds is its own as long as it shows signs of life, and no longer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import anyio
import pytest
from retry_kit import PATIENCE, HandClock, Paid, Placed, Reserved, Shipped, Stage, elsewhere, until
from retry_seat import Seat

from choreo import Abort, Context, Participant
from choreo.broker.broker import Broker
from choreo.broker.groups import Delivery
from choreo.runtime.claims import Claims
from choreo.runtime.slots import Slots
from choreo.runtime.upkeep import Upkeep

pytestmark = pytest.mark.anyio

LEASE = 0.3


async def test_handlers_that_take_longer_than_the_lease(stage: Stage) -> None:
    """Heartbeats keep it: each runs once, though its own worker and another look for what was lost."""
    runs: list[str] = []
    payments, inventory = Participant("payments"), Participant("inventory")

    @payments.on(Placed)
    async def charge(placed: Placed) -> Paid:
        runs.append("async")
        await anyio.sleep(3 * LEASE)
        return Paid()

    @inventory.on(Placed)
    def reserve(placed: Placed) -> Reserved:
        runs.append("sync")
        time.sleep(3 * LEASE)
        return Reserved()

    async def both_are_done() -> bool:
        return bool(await stage.emitted("Paid") and await stage.emitted("Reserved"))

    async with stage.playing(payments, inventory, payments, inventory, lease=LEASE) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        await until(both_are_done, "both to be done")
        await until(stage.is_settled, "nothing to be in anybody's hands")
    assert sorted(runs) == ["async", "sync"]


async def test_what_waits_for_its_turn_keeps_its_lease(stage: Stage) -> None:
    """With one slot per worker and handlers of half a lease, nothing is delivered twice."""
    runs: list[str] = []
    payments = Participant("payments")

    @payments.on(Placed)
    async def charge(placed: Placed, ctx: Context) -> Shipped:
        runs.append(ctx.saga_id)
        await anyio.sleep(LEASE / 2)
        return Shipped()

    sagas = [f"s{number}" for number in range(6)]
    async with stage.playing(payments, payments, lease=LEASE, concurrency=1) as choreo:
        for saga in sagas:
            await choreo.start(Placed(), saga_id=saga)
        for saga in sagas:
            assert (await choreo.wait(saga, timeout=20)).status == "completed"
    assert sorted(runs) == sagas


async def test_a_worker_does_not_take_over_what_it_runs_itself(seat: Seat) -> None:
    """Though its lease has run out, what is in hand is late, not lost; what another one left is taken."""
    slots, taken, stopping = Slots(10), [], anyio.Event()

    async def dispatch(found: Sequence[Delivery]) -> None:
        taken.extend(delivery.entry for delivery in found)
        stopping.set()

    await seat.publish("s1", "mine")
    mine = await seat.take()
    slots.hold(mine)
    other = await Seat.at(seat.stage, "two")
    await other.publish("s2", "lost")
    lost = await other.take()
    for holder, delivery in ((seat, mine), (other, lost)):
        await seat.stage.call(
            "XCLAIM", delivery.stream, "payments", holder.identity.consumer, 0, delivery.entry,
            "IDLE", 1_000_000, "JUSTID",
        )  # fmt: skip
    claims = Claims(seat.stage.broker.leases, seat.identity, slots, HandClock())
    upkeep = Upkeep(claims, dict.fromkeys(seat.streams, 0), LEASE, doubt=anyio.Event, paused=bool)
    with anyio.fail_after(PATIENCE):
        await upkeep.recover(stopping, dispatch)
    assert taken == [lost.entry]


async def test_a_worker_that_died(stage: Stage) -> None:
    """Without a goodbye, its delivery is run by another one when the lease has run out."""
    runs: list[int] = []
    payments = Participant("payments")

    @payments.on(Placed)
    async def charge(placed: Placed, ctx: Context) -> Shipped:
        runs.append(ctx.attempt)
        if len(runs) == 1:
            await anyio.sleep_forever()
        return Shipped()

    async with stage.playing(payments, lease=LEASE) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        await until(lambda: runs, "the first worker to run it")
    async with stage.playing(payments, lease=LEASE) as choreo:
        assert (await choreo.wait("s1", timeout=20)).status == "completed"
    # The same attempt once more: nobody knows whether it took effect.
    assert runs == [1, 1]


# -- frozen workers ----------------------------------------------------------------------------------


async def wait_for(event: threading.Event, what: str) -> None:
    await until(event.is_set, what)


def returns() -> Shipped:
    return Shipped()


def fails() -> Shipped:
    raise OSError("no line")


def aborts() -> Shipped:
    raise Abort("card declined")


@pytest.mark.parametrize("outcome", [returns, fails, aborts])
async def test_a_frozen_worker_comes_too_late(
    real_stage: Stage, server_url: str, outcome: Callable[[], Shipped]
) -> None:
    """It could not renew its lease, and another one took over: whatever it decides then changes nothing."""
    runs: list[str] = []
    is_frozen, taken_over, may_commit = threading.Event(), threading.Event(), threading.Event()
    zombie_is_through = anyio.Event()
    frozen, heir = Participant("payments"), Participant("payments")

    @frozen.on(Placed)
    async def charge(placed: Placed, ctx: Context) -> Shipped:
        runs.append("frozen")
        is_frozen.set()
        taken_over.wait(PATIENCE)  # in the event loop: nothing else runs, not even heartbeats
        return outcome()

    @frozen.on(Paid)
    async def thank(paid: Paid) -> None:
        zombie_is_through.set()

    @heir.on(Placed)
    async def inherit(placed: Placed, ctx: Context) -> Shipped:
        runs.append("heir")
        taken_over.set()
        await wait_for(may_commit, "the zombie to be through")
        return Shipped()

    async def take_over() -> None:
        await wait_for(is_frozen, "the first worker to freeze")
        async with Broker.open(server_url, real_stage.topology.keys) as broker:
            await Stage(real_stage.topology, broker).worker(heir, lease=LEASE).run()

    # One slot: the zombie handles the next event only when its commit of the first was answered.
    async with real_stage.playing(frozen, lease=LEASE, concurrency=1) as choreo:
        with elsewhere(take_over):
            await choreo.start(Placed(), saga_id="s1")
            await wait_for(taken_over, "the other one to take over")
            money = real_stage.topology.keys.stream(0, "money")
            await real_stage.call(
                "XADD", money, "*", "id", "p", "type", "Paid", "subject", "s2", "data", "{}"
            )
            await until(zombie_is_through.is_set, "the zombie to be through")
            assert runs == ["frozen", "heir"]
            assert not [fact for fact in await real_stage.journal() if fact["subject"] == "s1"]
            assert not [event for event in await real_stage.emitted("Shipped") if event["subject"] == "s1"]
            assert await real_stage.due() == []
            may_commit.set()
            view = await choreo.wait("s1", timeout=20)
    assert (view.status, view.retries, view.done) == ("completed", 0, {"payments/inherit": 1})
    assert runs == ["frozen", "heir"]
