"""Replies that get lost: what was asked is done, but nobody knows. It is asked again, and done once."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest
from fault_bank import Asked
from fault_proxy import Proxy, calls_of, filled_reads
from fault_stage import Stage

from choreo import Choreography
from choreo.broker.broker import Broker
from choreo.errors import SagaClosed

pytestmark = [pytest.mark.anyio, pytest.mark.processes]

#: Longer than any test: what runs again does so because of a lost reply.
LEASE = 120.0
SAGAS = [f"s{number}" for number in range(500)]


async def start_all(choreo: Choreography, ids: Sequence[str], event: Asked, *, twice: bool = False) -> None:
    """Start sagas, a few at once."""
    limit = anyio.CapacityLimiter(10)

    async def start(saga_id: str) -> None:
        async with limit:
            for _ in range(1 + twice):
                await choreo.start(event, saga_id=saga_id)

    async with anyio.create_task_group() as tasks:
        for saga_id in ids:
            tasks.start_soon(start, saga_id)


async def check_that_all_ran_once(bank: Stage, ids: Sequence[str]) -> None:
    """Every event is there once, and no handler ran again: what was decided was not decided anew."""
    for event_type in ("Asked", "Taken", "Noted"):
        assert await bank.emitted(event_type) == sorted(ids)
    assert await bank.doubled() == []
    assert await bank.letters() == []
    assert set(bank.diary.runs.values()) == {1}


async def test_of_commits(proxied_bank: Stage, proxy: Proxy) -> None:
    """Every third reply to commits is lost, over a thousand commits: each event is published once."""
    bank = proxied_bank
    await start_all(bank.choreo, SAGAS, Asked())
    loss = proxy.lose(calls_of("gate"), every=3)
    bank.start_bank(lease=LEASE, concurrency=20)
    await bank.until_ended(SAGAS)
    assert loss.lost > 20, loss
    await check_that_all_ran_once(bank, SAGAS)


async def test_of_starts(bank: Stage, proxy: Proxy) -> None:
    """Every third reply to a thousand starts is lost: each saga begins once."""
    loss = proxy.lose(calls_of("start"), every=3)
    async with Broker.open(proxy.url, bank.topology.keys) as broker:
        await start_all(Choreography(bank.topology, broker), SAGAS, Asked(), twice=True)
    assert loss.lost > 300, loss
    bank.start_bank(lease=LEASE)
    await bank.until_ended(SAGAS)
    await check_that_all_ran_once(bank, SAGAS)


async def test_of_reads(proxied_bank: Stage, proxy: Proxy) -> None:
    """Every other reply that brings something to handle is lost: it is handled at once all the same, and
    not when a lease is over."""
    bank = proxied_bank
    await start_all(bank.choreo, SAGAS[:100], Asked())
    loss = proxy.lose(filled_reads, every=2)
    bank.start_bank(lease=LEASE, concurrency=10)
    await bank.until_ended(SAGAS[:100])
    assert loss.lost > 5, loss
    await check_that_all_ran_once(bank, SAGAS[:100])


async def test_of_timers(proxied_bank: Stage, proxy: Proxy) -> None:
    """Every other reply to the moving of timers is lost: each attempt follows once."""
    bank, ids = proxied_bank, SAGAS[:50]
    loss = proxy.lose(calls_of("due"), every=2)
    bank.start_bank(lease=LEASE)
    bank.start_bank(lease=LEASE)
    await start_all(bank.choreo, ids, Asked(trouble=2))
    await bank.until_ended(ids)
    assert loss.lost > 2, loss
    assert await bank.emitted("Taken") == sorted(ids)
    assert await bank.doubled() == []
    assert len(await bank.journal("retrying")) == 2 * len(ids)
    began = [times for line, times in bank.diary.runs.items() if line.startswith("began tills/take")]
    assert began == [3] * len(ids)


async def test_of_orders_to_compensate(bank: Stage, proxy: Proxy) -> None:
    """The reply to every order is lost: it is carried out once, and sending it again is no error."""
    ids = SAGAS[:20]
    await start_all(bank.choreo, ids, Asked())
    first = bank.start_bank(role="slow", lease=LEASE)
    async with Broker.open(proxy.url, bank.topology.keys) as broker:
        client = Choreography(bank.topology, broker)
        for number, saga_id in enumerate(ids):
            # The second reply comes: an order whose every reply is lost never learns how it went.
            loss = proxy.lose(calls_of("compensate"), every=1)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.compensate, saga_id)
                while not loss.lost:  # noqa: ASYNC110 - it is not lost in this task
                    await anyio.sleep(0.005)
                proxy.losses.remove(loss)
            assert len(await bank.journal("ordered")) == number + 1
            with pytest.raises(SagaClosed):
                await client.compensate(saga_id)
    (bank.folder / "go-slow").touch()
    await bank.until_ended(ids)
    assert first.ended is None
    assert set((await bank.states(ids)).values()) == {"compensated"}
    assert await bank.doubled() == []
    assert await bank.emitted("Taken") == []
