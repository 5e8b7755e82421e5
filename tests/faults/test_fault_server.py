"""Servers that refuse to write, die, forget their scripts, their groups or all that they knew."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TypeAlias

import anyio
import anyio.to_thread
import pytest
import redis.asyncio
from conftest import OwnBank, OwnShop
from fault_bank import Asked
from fault_stage import Stage, until
from redis.exceptions import RedisError

from choreo.broker.engine import EngineProcess
from choreo.errors import BrokerError, SagaNotFound
from tests.shop_load import PARTICIPANTS, order_id

pytestmark = [pytest.mark.anyio, pytest.mark.processes]

#: Longer than any test: what runs again does so because of the fault.
LEASE = 120.0
IDS = [f"s{number}" for number in range(20)]
#: Begins and ends a time in which the server refuses to write.
Refusal: TypeAlias = Callable[[EngineProcess, redis.asyncio.Redis], AsyncIterator[None]]


async def out_of_memory(server: EngineProcess, client: redis.asyncio.Redis) -> AsyncIterator[None]:
    await client.config_set("maxmemory", "1")
    yield
    await client.config_set("maxmemory", "0")


async def read_only(server: EngineProcess, client: redis.asyncio.Redis) -> AsyncIterator[None]:
    # A replica of nobody: it keeps what it has.
    await client.execute_command("REPLICAOF", "127.0.0.1", "1")
    yield
    await client.execute_command("REPLICAOF", "NO", "ONE")


async def too_few_replicas(server: EngineProcess, client: redis.asyncio.Redis) -> AsyncIterator[None]:
    await client.config_set("min-replicas-to-write", "1")
    yield
    await client.config_set("min-replicas-to-write", "0")


async def cannot_save(server: EngineProcess, client: redis.asyncio.Redis) -> AsyncIterator[None]:
    in_the_way = server.folder / "data" / "dump.rdb"
    in_the_way.mkdir()
    await client.config_set("save", "3600 1")
    await client.bgsave()

    async def failed() -> bool:
        return (await client.info("persistence"))["rdb_last_bgsave_status"] == "err"

    await until(failed, "the server to fail to save")
    yield
    await client.config_set("save", "")
    in_the_way.rmdir()


async def busy(server: EngineProcess, client: redis.asyncio.Redis) -> AsyncIterator[None]:
    await client.config_set("busy-reply-threshold" if await _is_new(client) else "lua-time-limit", "50")
    async with redis.asyncio.Redis.from_url(server.url, socket_timeout=None) as other, anyio.create_task_group() as tasks:

        async def loop() -> None:
            with suppress(RedisError):
                await other.eval("while true do end", 0)

        tasks.start_soon(loop)
        await until(partial(_answers, client, "BUSY"), "the server to be busy")
        yield
        await client.script_kill()


async def _is_new(client: redis.asyncio.Redis) -> bool:
    return int((await client.info("server"))["redis_version"].partition(".")[0]) >= 7


async def _answers(client: redis.asyncio.Redis, word: str) -> bool:
    try:
        await client.ping()
    except RedisError as error:
        return word in str(error)
    return False


@pytest.mark.parametrize("refusal", [out_of_memory, read_only, too_few_replicas, cannot_save, busy])
async def test_a_server_that_refuses(own_bank: OwnBank, refusal: Refusal) -> None:
    """Workers wait, burn no attempt and run nothing twice; when it serves again they go on by themselves."""
    bank, server = own_bank
    service = bank.start_bank(role="patient", lease=LEASE)
    tracker = bank.start("watch_bank")
    for saga_id in IDS:
        await bank.choreo.start(Asked(), saga_id=saga_id)
    await until(lambda: bank.diary.broken_off == len(IDS), "every handler to run")
    async with (
        redis.asyncio.Redis.from_url(server.url, socket_timeout=10) as client,
        asynccontextmanager(refusal)(server, client),
    ):
        (bank.folder / "go-patient").touch()
        await bank.until_it_says(service, "has to wait")
    for saga_id in IDS:
        assert (await bank.choreo.wait(saga_id, timeout=60)).status == "completed"
    await bank.until_ended(IDS)
    assert service.ended is None
    assert tracker.ended is None
    assert await bank.emitted("Noted") == sorted(IDS)
    assert await bank.doubled() == []
    assert await bank.journal("retrying") == []
    assert set(bank.diary.runs.values()) == {1}


async def sees(bank: Stage, saga_id: str) -> bool:
    """Whether the tracker has projected a saga."""
    with suppress(SagaNotFound):
        await bank.choreo.view(saga_id)
        return True
    return False


async def test_a_server_that_forgets_everything(own_bank: OwnBank) -> None:
    """Workers live on and serve new sagas; the old ones are gone, and everybody is told so."""
    bank, _ = own_bank
    service = bank.start_bank(role="late", lease=LEASE)
    tracker = bank.start("watch_bank")
    for saga_id in IDS:
        await bank.choreo.start(Asked(), saga_id=saga_id)
    await until(lambda: bank.diary.broken_off == len(IDS), "every handler to run")
    await until(partial(sees, bank, IDS[0]), "the tracker to see a saga")
    await bank.broker.connection.call("FLUSHALL")
    (bank.folder / "go-late").touch()
    new = [f"new-{number}" for number in range(10)]
    for saga_id in new:
        await bank.choreo.start(Asked(), saga_id=saga_id)
    for saga_id in new:
        assert (await bank.choreo.wait(saga_id, timeout=60)).status == "completed"
    await bank.until_ended(new)
    assert service.ended is None
    assert tracker.ended is None
    assert await bank.emitted("Taken") == sorted(new)
    for saga_id in IDS:
        assert await bank.state(saga_id) is None
        with pytest.raises(SagaNotFound):
            await bank.choreo.view(saga_id)


# -- under load --------------------------------------------------------------------------------------

ORDERS = range(100)


async def disturbed(
    shop: Stage, disturb: Callable[[], Awaitable[None]], *, most: int, pause: float
) -> int:
    """Place orders and let them run, while ``disturb`` is called every ``pause`` seconds or so, at ``most``
    so many times. Returns how often it was while orders were under way."""
    for name in PARTICIPANTS:
        shop.start_shop(name, lease=1.0, concurrency=10)
    shop.start("track")
    for service in shop.services:
        await shop.until_it_says(service, "all are ready")
    times = 0
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(shop.place_orders, ORDERS)
        while times < most and not await _all_ended(shop):
            await disturb()
            times += 1
            await anyio.sleep(pause)
    await shop.until_orders_end(ORDERS)
    await shop.check_orders(ORDERS)
    for number in ORDERS:
        await shop.choreo.wait(order_id(number), timeout=30)
    for service in shop.services:
        assert service.ended is None, service.said
    return times


async def _all_ended(shop: Stage) -> bool:
    with suppress(BrokerError):
        states = await shop.states(map(order_id, ORDERS))
        return all(state is not None and state.ended for state in states.values())
    return False


async def test_scripts_forgotten_all_the_time(stage: Stage) -> None:
    """A server that forgets its scripts again and again costs no order anything."""

    async def forget() -> None:
        await stage.broker.connection.call("SCRIPT", "FLUSH")

    assert await disturbed(stage, forget, most=1000, pause=0.005) > 10


async def test_groups_destroyed_and_set_back(stage: Stage) -> None:
    """Whatever is delivered again because of it is not handled to any effect again."""
    chance = random.Random(1)

    async def harm() -> None:
        stream, group = chance.choice(stage.listeners)
        how = ("DESTROY", stream, group) if chance.random() < 0.5 else ("SETID", stream, group, "0")
        await stage.broker.connection.call_many([("XGROUP", *how)])

    assert await disturbed(stage, harm, most=50, pause=0.02) > 10


async def test_a_server_that_is_killed(own_shop: OwnShop) -> None:
    """With an append-only file nothing is lost when the server is killed and started again under load."""
    shop, server = own_shop

    async def kill() -> None:
        os.kill(server.pid, signal.SIGKILL)
        await anyio.to_thread.run_sync(server.stop)
        await anyio.to_thread.run_sync(server.start)

    assert await disturbed(shop, kill, most=4, pause=0.2) > 1
