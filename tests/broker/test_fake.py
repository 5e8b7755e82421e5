"""The store in memory answers as a server does, also where it takes a shorter way than through fakeredis."""

from __future__ import annotations

from typing import Any

import pytest
import redis.asyncio

from choreo.broker.connection import Connection
from choreo.broker.fake import FakeStore
from choreo.broker.fake_connection import FakeConnection
from choreo.errors import BrokerError, BrokerUnavailable

pytestmark = pytest.mark.anyio

NEW = ("XREADGROUP", "GROUP", "g", "c", "COUNT", 10, "STREAMS", "s", "t", ">", ">")


async def answers(connection: Connection, namespace: str, commands: list[tuple[Any, ...]]) -> list[Any]:
    """What each command is answered, or the type of its error. Keys are words of one letter."""
    found: list[Any] = []
    for command in commands:
        words = [f"{namespace}:{each}" if each in ("s", "t", "u", "h") else each for each in command]
        try:
            found.append(await connection.call(*words))
        except BrokerError as error:
            found.append(type(error))
    return found


@pytest.fixture
def store() -> FakeStore:
    return FakeStore(lambda: 1_767_225_600_000)


@pytest.mark.parametrize(
    "commands",
    [
        [NEW, ("XGROUP", "CREATE", "s", "g", "0", "MKSTREAM"), NEW],
        [("SET", "t", "no stream"), ("XGROUP", "CREATE", "s", "g", "0", "MKSTREAM"), NEW],
        [
            ("XGROUP", "CREATE", "s", "g", "0", "MKSTREAM"), ("XGROUP", "CREATE", "t", "g", "0", "MKSTREAM"),
            NEW, ("XADD", "s", "1-1", "a", "1"), ("XADD", "s", "2-1", "a", "2", "b", "3"), ("XADD", "t", "3-1", "", ""),
            ("XREADGROUP", "GROUP", "g", "c", "COUNT", 1, "STREAMS", "s", "t", ">", ">"), NEW, NEW,
            ("XLEN", "s"), ("XREADGROUP", "GROUP", "g", "c", "COUNT", 9, "STREAMS", "s", "0"),
            ("XDEL", "s", "1-1"), ("XADD", "s", "4-0", "a", "4"), NEW,
        ],
        [
            ("XADD", "s", "1-1", "a", "1"), ("XADD", "s", "2-1", "a", "2"), ("XADD", "t", "3-1", "b", "3"),
            ("XREAD", "COUNT", 9, "STREAMS", "s", "t", "0-0", "0-0"), ("XREAD", "COUNT", 1, "STREAMS", "s", "0-0"),
            ("XREAD", "COUNT", 9, "STREAMS", "s", "t", "1-1", "3-1"), ("XREAD", "COUNT", 9, "STREAMS", "s", "1"),
            ("XREAD", "COUNT", 9, "STREAMS", "s", "t", "2-1", "3-1"), ("XREAD", "COUNT", 9, "STREAMS", "s", "$"),
            ("XREAD", "COUNT", 9, "STREAMS", "u", "0-0"), ("XREAD", "COUNT", 9, "STREAMS", "s", "u", "0-0", "0-0"),
            ("XREAD", "STREAMS", "s", "1-1"), ("XREAD", "COUNT", 9, "STREAMS", "s"),
        ],
        [
            ("HSET", "h", "a", "1"), ("HMGET", "h", "a", "b"), ("HGET", "h", "b"), ("HGET", "u", "a"), ("HGET", "h"),
            ("TYPE", "h"), ("TYPE", "u"), ("ZADD", "s", "1.5", "x"), ("ZRANGE", "s", 0, -1, "WITHSCORES"),
            ("HGET", "s", "a"), ("NONSENSE", "h"), ("XGROUP", "CREATE", "u", "g", "0"),
        ],
    ],
    ids=["no group", "no stream", "groups", "reads", "others"],
)  # fmt: skip
async def test_it_answers_as_a_server(
    store: FakeStore, real_client: redis.asyncio.Redis, namespace: str, commands: list[tuple[Any, ...]]
) -> None:
    """The same commands have the same answers, and errors of the same kind."""
    theirs = await answers(Connection(real_client), namespace, commands)
    mine = await answers(FakeConnection(store), namespace, commands)
    assert [(command, answer or None) for command, answer in zip(commands, mine, strict=True)] == [
        (command, answer or None) for command, answer in zip(commands, theirs, strict=True)
    ]


async def test_scripts_see_what_a_server_shows_them(
    store: FakeStore, real_client: redis.asyncio.Redis, namespace: str
) -> None:
    """Hashes that are there, that lack a field, and that are missing; keys of each type."""
    script = """
    redis.call('HSET', KEYS[1], 'a', '1')
    local function said(...)
      local answer = redis.pcall(...)
      return type(answer) == 'table' and (answer.ok or answer.err and 'error') or tostring(answer)
    end
    return {
      said('HGET', KEYS[1], 'a'), said('HGET', KEYS[1], 'b'), said('HGET', KEYS[2], 'a'),
      tostring(redis.call('HMGET', KEYS[2], 'a', 'b')[2]), tostring(redis.call('HMGET', KEYS[1], 'a', 'b')[2]),
      redis.call('HMGET', KEYS[1], 'a', 'b')[1], said('TYPE', KEYS[1]), said('TYPE', KEYS[2]),
      said('XLEN', KEYS[1]), said('HGET', KEYS[1]), said('NONSENSE')
    }"""
    keys = [f"{namespace}:{each}" for each in "hu"]
    found = []
    for connection in (FakeConnection(store), Connection(real_client)):
        digest = await connection.call("SCRIPT", "LOAD", script)
        found.append(await connection.call("EVALSHA", digest, 2, *keys))
    assert found[0] == found[1]


async def test_a_reader_is_woken_by_what_is_new_for_it(store: FakeStore) -> None:
    """By entries of its streams, and when its own group is changed; not by what concerns another group."""
    connection = FakeConnection(store)
    for group in ("g", "other"):
        await connection.call("XGROUP", "CREATE", "s", group, "0", "MKSTREAM")
    await connection.call("XREADGROUP", "GROUP", "g", "c", "COUNT", 10, "STREAMS", "s", ">")
    (reader,) = connection._readers.values()
    for command, news in (
        (("XGROUP", "SETID", "s", "other", "0"), False), (("XADD", "t", "*", "a", "1"), False),
        (("XADD", "s", "*", "a", "1"), True), (("XGROUP", "DESTROY", "s", "g"), True),
    ):  # fmt: skip
        reader.news = False
        await connection.call(*command)
        assert reader.news is news, command


async def test_a_script_that_is_not_known(store: FakeStore) -> None:
    """It is refused as a server does, so that the caller sends it."""
    with pytest.raises(BrokerUnavailable, match="NOSCRIPT"):
        await FakeConnection(store).call("EVALSHA", "0" * 40, 0)


async def test_it_says_its_version(store: FakeStore) -> None:
    """As far as a process that joins asks for it."""
    assert b"redis_version:" in await FakeConnection(store).call("INFO", "server")
