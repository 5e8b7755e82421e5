"""Services that are told to stop and are started anew, as in every deployment."""

from __future__ import annotations

import random
import signal

import anyio
import pytest
from fault_bank import Asked
from fault_stage import Stage, until

from tests.conftest import SERVERS
from tests.shop_load import PARTICIPANTS

pytestmark = [pytest.mark.anyio, pytest.mark.processes]

#: Longer than any test: what a worker leaves behind must not wait for it.
LEASE = 120.0
RESTARTS = 100 // len(SERVERS)


async def test_a_hundred_rolling_restarts(stage: Stage) -> None:
    """What is under way is finished or handed over; no handler runs twice, and no order waits for a lease."""
    chance = random.Random(7)
    crew = {name: stage.start_shop(name, lease=LEASE, dawdle=0.02) for name in PARTICIPANTS}
    placed = 0

    async def place() -> None:
        nonlocal placed
        while True:
            # Cut off in between, an order would be placed that nobody knows of.
            with anyio.CancelScope(shield=True):
                await stage.place_orders([placed])
                placed += 1
            await anyio.sleep(0.05)

    stopped = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(place)
        for _ in range(RESTARTS):
            name = chance.choice(PARTICIPANTS)
            await stage.until_it_says(crew[name], "all are ready")
            stopped.append(crew[name])
            crew[name].send(signal.SIGTERM)
            crew[name] = stage.start_shop(name, lease=LEASE, dawdle=0.02)
        tasks.cancel_scope.cancel()
    await stage.until_orders_end(range(placed))
    await stage.check_orders(range(placed))
    for service in stopped:
        await until(lambda service=service: service.ended is not None, "a stopped service to end")
        assert service.ended == 0, service.said
    assert set(stage.diary.runs.values()) == {1}
    assert stage.diary.broken_off == 0


async def test_what_does_not_end_in_time_is_handed_over_at_once(bank: Stage) -> None:
    """A handler that outlives the grace is begun by somebody else, and not only when a lease is over."""
    leaver = bank.start_bank(role="leaver", lease=LEASE, grace=0.2)
    await bank.choreo.start(Asked(), saga_id="s1")
    await until(lambda: bank.diary.broken_off, "the handler to run")
    bank.start_bank(lease=LEASE)
    leaver.send(signal.SIGTERM)
    await until(lambda: leaver.ended is not None, "the leaver to end")
    assert leaver.ended == 0
    await bank.until_ended(["s1"])
    assert await bank.emitted("Taken") == ["s1"]
