"""Joining a namespace: a process that does not fit is refused before it reads anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import redis.asyncio

from choreo.broker.broker import Broker
from choreo.broker.connection import Connection
from choreo.errors import LayoutMismatch, UnsupportedServer
from choreo.model.pause import Pause
from choreo.wire.keys import Keys

pytestmark = pytest.mark.anyio


def broker_of(client: redis.asyncio.Redis, namespace: str, partitions: int) -> Broker:
    return Broker(Connection(client), Keys(namespace, partitions))


async def test_the_first_process_marks_the_namespace(redis_client: redis.asyncio.Redis, namespace: str) -> None:
    """A new namespace is laid out as the first process says; another like it joins."""
    await broker_of(redis_client, namespace, 4).meta.join()
    await broker_of(redis_client, namespace, 4).meta.join()
    assert await redis_client.hgetall(f"{namespace}:meta") == {b"layout": b"2", b"partitions": b"4"}


async def test_another_number_of_partitions_is_refused(
    redis_client: redis.asyncio.Redis, namespace: str
) -> None:
    """Sagas would be split; the message names both numbers, and nothing is changed."""
    await broker_of(redis_client, namespace, 4).meta.join()
    with pytest.raises(LayoutMismatch, match="has partitions 4, this process has 8"):
        await broker_of(redis_client, namespace, 8).meta.join()
    assert await redis_client.hget(f"{namespace}:meta", "partitions") == b"4"


async def test_another_layout_is_refused(redis_client: redis.asyncio.Redis, namespace: str) -> None:
    """A namespace that another version of choreo laid out is not touched."""
    await redis_client.hset(f"{namespace}:meta", mapping={"layout": "99", "partitions": "4"})
    with pytest.raises(LayoutMismatch, match="has layout 99, this process has 2"):
        await broker_of(redis_client, namespace, 4).meta.join()


@asynccontextmanager
async def server_of_version(version: str) -> AsyncIterator[str]:
    """A server that only says which version it is; yields its url."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            words = [await read_word(reader) for _ in range(int(line[1:]))]
            if words[0].upper() == b"INFO":
                text = f"# Server\r\nredis_version:{version}\r\n".encode()
                writer.write(b"$%d\r\n%s\r\n" % (len(text), text))
            else:
                writer.write(b"+OK\r\n")
            await writer.drain()
        writer.close()

    async def read_word(reader: asyncio.StreamReader) -> bytes:
        length = int((await reader.readline())[1:])
        return (await reader.readexactly(length + 2))[:-2]

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("version", ["5.0.14", "6.0.16", "6.1.240"])
async def test_too_old_a_server_is_refused(version: str) -> None:
    """Below 6.2 commands are missing; the message says which version it is and which is needed."""
    async with server_of_version(version) as url, Broker.open(url, Keys("n", 1)) as broker:
        with pytest.raises(UnsupportedServer, match=f"is version {version}; choreo needs Redis 6.2"):
            await broker.meta.join()


async def test_the_oldest_server_that_will_do() -> None:
    """6.2.0 is accepted."""
    async with server_of_version("6.2.0") as url, Broker.open(url, Keys("n", 1)) as broker:
        await broker.meta.check_server()


async def test_a_participant_is_paused_and_resumed(redis_client: redis.asyncio.Redis, namespace: str) -> None:
    """Who paused it first is kept, whoever else asks; it works again when anybody resumes it."""
    meta = broker_of(redis_client, namespace, 1).meta
    first, second = Pause("ann", 1_000, "the bank is down"), Pause("bob", 2_000)
    assert await meta.pause("payments", first) == first
    assert await meta.pause("payments", first) == first
    assert await meta.pause("payments", second) == first
    assert await meta.paused() == {"payments": first}
    assert await meta.resume("payments")
    assert not await meta.resume("payments")
    assert await meta.paused() == {}


async def test_what_is_no_pause_is_left_out(redis_client: redis.asyncio.Redis, namespace: str) -> None:
    """What another program has written there pauses nobody, and stops nobody from looking."""
    meta = broker_of(redis_client, namespace, 1).meta
    await redis_client.hset(f"{namespace}:paused", mapping={"payments": "yes", b"\xff": "{}"})
    assert await meta.paused() == {}
