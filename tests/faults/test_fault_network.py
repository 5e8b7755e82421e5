"""Networks that fall silent, cut connections, refuse them or are slow: services wait, and then go on."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TypeAlias

import anyio
import pytest
from fault_bank import Asked
from fault_proxy import Proxy
from fault_stage import Stage, until

pytestmark = [pytest.mark.anyio, pytest.mark.processes]

#: Longer than any test: nothing is handled again because somebody was not heard of.
LEASE = 120.0
IDS = [f"s{number}" for number in range(20)]

#: Brings a fault about, and waits until the services have met it.
Fault: TypeAlias = Callable[[Stage, Proxy], Awaitable[None]]


async def silence(bank: Stage, proxy: Proxy) -> None:
    """Nothing is answered, on connections old and new; the old ones stay dead for ever."""
    proxy.fall_silent()
    await until_they_wait(bank)
    proxy.speak()


async def refusal(bank: Stage, proxy: Proxy) -> None:
    """Nobody listens."""
    await proxy.refuse()
    await until_they_wait(bank)
    await proxy.listen()


async def resets(bank: Stage, proxy: Proxy) -> None:
    """Every connection is cut, again and again."""
    with anyio.move_on_after(20):
        while not they_wait(bank):
            proxy.cut()
            await anyio.sleep(0.02)
    assert they_wait(bank)


def they_wait(bank: Stage) -> bool:
    return all("has to wait" in service.said for service in bank.services)


async def until_they_wait(bank: Stage) -> None:
    await until(lambda: they_wait(bank), "every service to say that it waits")


@pytest.mark.parametrize("fault", [silence, refusal, resets])
async def test_services_go_on(proxied_bank: Stage, proxy: Proxy, fault: Fault) -> None:
    """What was started meanwhile is done when the fault has ended: no attempt was burned, nothing ran twice."""
    bank = proxied_bank
    service = bank.start_bank(lease=LEASE)
    bank.start("watch_bank")
    await bank.until_it_says(service, "all are ready")
    await bank.choreo.start(Asked(), saga_id="before")
    await bank.choreo.wait("before", timeout=30)
    connected = proxy.connected
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fault, bank, proxy)
        for saga_id in IDS:
            await bank.choreo.start(Asked(), saga_id=saga_id)
    ended = time.monotonic()
    await bank.until_ended(IDS, seconds=30)
    print(f"{fault.__name__}: participants went on after {time.monotonic() - ended:.1f} s", end="; ")
    for saga_id in IDS:
        assert (await bank.choreo.wait(saga_id, timeout=30)).status == "completed"
    print(f"all of it was projected after {time.monotonic() - ended:.1f} s")
    assert proxy.connected > connected
    assert await bank.journal("retrying") == []
    assert await bank.emitted("Noted") == sorted(["before", *IDS])
    assert await bank.doubled() == []
    assert set(bank.diary.runs.values()) == {1}


async def test_a_slow_network(proxied_bank: Stage, proxy: Proxy) -> None:
    """Replies that take a while change nothing."""
    bank = proxied_bank
    proxy.delay = 0.1
    bank.start_bank(lease=LEASE)
    for saga_id in IDS:
        await bank.choreo.start(Asked(), saga_id=saga_id)
    await bank.until_ended(IDS)
    assert await bank.emitted("Noted") == sorted(IDS)
    assert set(bank.diary.runs.values()) == {1}
