"""Connections that carry one round trip at a time: nobody gets another's answer, and broken ones are replaced."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec

import anyio
import pytest
import redis.asyncio

from choreo.broker.connection import MAX_CONNECTIONS, Connection
from choreo.broker.engine import EngineProcess
from choreo.broker.lanes import Lanes
from choreo.errors import BrokerUnavailable, Unsendable

#: The event loops that are there.
LOOPS = [("asyncio", {"use_uvloop": choice}) for choice in (False, True) if not choice or find_spec("uvloop")]
pytestmark = pytest.mark.anyio

#: Seconds: what takes longer is a hang.
LONG = 20.0


@asynccontextmanager
async def connected(url: str, *, timeout: float = LONG, fresh: float = LONG) -> AsyncIterator[Connection]:
    connection = Connection(Lanes(url, timeout, fresh=fresh), Lanes(url, timeout, fresh=fresh), url=url)
    try:
        yield connection
    finally:
        await connection.close()


class EchoServer:
    """A server that answers a command with its last word, as soon as it is allowed to speak.

    ``heard`` has the last word of every command, beside the number of the connection that it came on.
    """

    def __init__(self) -> None:
        self.heard: list[tuple[int, bytes]] = []
        self.speaks = asyncio.Event()
        self.speaks.set()
        self.writers: list[asyncio.StreamWriter] = []
        self.ended = 0
        self._tasks: list[asyncio.Task[None] | None] = []

    @asynccontextmanager
    async def listening(self, options: str = "") -> AsyncIterator[str]:
        """Yields the server's url."""
        async with await asyncio.start_server(self._serve, "127.0.0.1", 0) as server:
            host, port = server.sockets[0].getsockname()
            yield f"redis://{options}{host}:{port}"
            self.speaks.set()
            await asyncio.gather(*[task for task in self._tasks if task])

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.append(asyncio.current_task())
        self.writers.append(writer)
        number = len(self.writers)
        with suppress(ConnectionError):
            while line := await reader.readline():
                words = [await reader.readline() for _ in range(2 * int(line[1:]))]
                self.heard.append((number, words[-1].strip()))
                await self.speaks.wait()
                writer.write(b"+" + words[-1])
                await writer.drain()
        self.ended += 1
        writer.close()

    async def until_heard(self, word: bytes) -> None:
        await until(lambda: word in [each for _, each in self.heard])

    def reset(self) -> None:
        """Cut every connection, as a machine that has lost its memory does."""
        for writer in self.writers:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(LONG):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in other tasks and processes
            await anyio.sleep(0.001)


# -- whose answer it is --------------------------------------------------------------------------------


async def test_a_cancelled_exchange_keeps_its_answer_to_itself() -> None:
    """Whoever asks next is not given what the server says to somebody who has gone."""
    server = EchoServer()
    async with server.listening() as url, connected(url) as connection:
        await connection.call("ECHO", "before")
        server.speaks.clear()
        gone = asyncio.create_task(connection.call_many([("ECHO", "a"), ("ECHO", "b")]))
        await server.until_heard(b"a")
        gone.cancel()
        await asyncio.wait([gone])
        server.speaks.set()
        assert await connection.call("ECHO", "mine") == b"mine"
        assert gone.cancelled()


async def test_cancelled_at_any_moment(server_url: str) -> None:
    """However far an exchange has come when it is cancelled, what follows gets its own answer."""
    async with connected(server_url) as connection:
        ended = 0
        for ticks in range(60):
            task = asyncio.create_task(connection.call_many([("ECHO", f"gone {ticks}")] * 3))
            for _ in range(ticks % 20):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            ended += not task.cancelled()
            assert await connection.call("ECHO", f"mine {ticks}") == f"mine {ticks}".encode()
        assert ended < 60


async def test_a_reply_that_comes_too_late() -> None:
    """An exchange that took too long is given up with its connection; the next one has another."""
    server = EchoServer()
    async with server.listening() as url, connected(url, timeout=0.2) as connection:
        await connection.call("ECHO", "before")
        server.speaks.clear()
        with pytest.raises(BrokerUnavailable, match=r"no answer within 0\.2 s"):
            await connection.call("ECHO", "late")
        server.speaks.set()
        assert await connection.call("ECHO", "after") == b"after"
        numbers = {word: number for number, word in server.heard}
        assert numbers[b"before"] == numbers[b"late"] != numbers[b"after"]


async def test_a_connection_that_ends_between_two_answers() -> None:
    """Half of the answers are none: nobody knows what became of the other commands."""

    async def half(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            words = [await reader.readline() for _ in range(2 * int(line[1:]))]
            writer.write(b"+" + words[-1])
            if words[-1] == b"first\r\n":
                break
        writer.close()
        ended.set()

    ended = asyncio.Event()
    async with await asyncio.start_server(half, "127.0.0.1", 0) as server:
        async with connected(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}") as connection:
            with pytest.raises(BrokerUnavailable):
                await connection.call_many([("ECHO", "first"), ("ECHO", "second")])
        await ended.wait()


async def test_answers_that_nobody_asked_for() -> None:
    """A proxy that says goodbye, in one breath with an answer or later: whoever asks next does not get that."""
    server = EchoServer()
    async with server.listening() as url, connected(url) as connection:
        assert await connection.call("ECHO", "before") == b"before"
        server.writers[0].write(b"-ERR going away\r\n")
        await until(lambda: server.ended == 1)
        assert await connection.call("ECHO", "again") == b"again"
        server.speaks.clear()
        asking = asyncio.create_task(connection.call("ECHO", "mine"))
        await server.until_heard(b"mine")
        server.writers[1].write(b"+mine\r\n-ERR going")
        assert await asking == b"mine"
        server.speaks.set()
        assert await connection.call("ECHO", "after") == b"after"
        assert len(server.writers) == 3


async def test_nothing_is_answered_at_once(server_url: str) -> None:
    """Who asks nothing needs no server for it."""
    async with connected(server_url) as connection:
        assert await connection.run_many([]) == []


async def test_many_at_once(server_url: str, real_client: redis.asyncio.Redis, namespace: str) -> None:
    """Five hundred requests share the connections of one process, and each gets its own answer."""
    async with connected(f"{server_url}?client_name={namespace}") as connection:

        async def echo(word: str) -> bytes:
            answer: bytes = await connection.call("ECHO", word)
            return answer

        words = [f"word {number}" for number in range(500)]
        assert await asyncio.gather(*[echo(word) for word in words]) == [word.encode() for word in words]
        clients = [each for each in await real_client.client_list() if each["name"] == namespace]
        assert 0 < len(clients) <= MAX_CONNECTIONS


async def test_errors_stand_in_their_places(server_url: str, namespace: str) -> None:
    """What the server refuses does not disturb what was sent before it and behind it."""
    async with connected(server_url) as connection:
        commands: Sequence[Sequence[str]] = [("ECHO", "a"), ("NO-SUCH-COMMAND",), ("ECHO", "b")]
        first, error, last = await connection.call_many(commands)
        assert (first, last) == (b"a", b"b")
        assert isinstance(error, Exception)
        assert await connection.call("ECHO", "c") == b"c"


async def test_what_cannot_be_sent_costs_no_connection() -> None:
    """It is refused before anything is written."""
    server = EchoServer()
    async with server.listening() as url, connected(url) as connection:
        await connection.call("ECHO", "before")
        with pytest.raises(Unsendable):
            await connection.call("ECHO", "\ud800")
        await connection.call("ECHO", "after")
    assert len(server.writers) == 1


# -- connections that are broken -----------------------------------------------------------------------


async def test_an_idle_connection_that_the_server_has_closed(
    server_url: str, real_client: redis.asyncio.Redis, namespace: str
) -> None:
    """The server's setting `timeout`, or an operator: it is replaced, and nobody notices."""
    async with connected(f"{server_url}?client_name={namespace}", fresh=0.0) as connection:
        for ask in (connection.call, connection.read):
            own = await ask("CLIENT", "ID")
            await real_client.client_kill_filter(_id=own)
            assert await ask("CLIENT", "ID") > own
        assert len([each for each in await real_client.client_list() if each["name"] == namespace]) == 2


@pytest.mark.parametrize("anyio_backend", LOOPS)
async def test_an_idle_connection_that_was_reset(anyio_backend: object) -> None:
    """With either event loop it is replaced, and nobody notices, however lately it was used."""
    server = EchoServer()
    async with server.listening() as url, connected(url) as connection:
        await connection.call("ECHO", "before")
        server.reset()
        await until(lambda: server.ended == 1)
        assert await connection.call("ECHO", "after") == b"after"


async def test_a_server_that_was_restarted(server_process: Callable[..., EngineProcess]) -> None:
    """On the same socket: what was connected to the old one is of no use, and that costs one error at most."""
    server = server_process()
    async with connected(server.url) as busy, connected(server.url, fresh=0.0) as idle:
        for connection in (busy, idle):
            await asyncio.gather(*[connection.call("PING") for _ in range(MAX_CONNECTIONS)])
        server.stop()
        server.start()
        assert await idle.call("PING") == b"PONG"
        with suppress(BrokerUnavailable):
            await busy.call("PING")
        assert await busy.call("PING") == b"PONG"


async def test_a_server_that_is_away(server_process: Callable[..., EngineProcess]) -> None:
    """Each request says so, until it is back."""
    server = server_process()
    async with connected(server.url) as connection:
        await connection.call("PING")
        server.stop()
        for _ in range(3):
            with pytest.raises(BrokerUnavailable):
                await connection.call("PING")
        server.start()
        assert await connection.call("PING") == b"PONG"


async def test_a_server_that_hangs(server_process: Callable[..., EngineProcess]) -> None:
    """Also when the commands are more than the way to it can hold: sending has the same deadline."""
    server = server_process()
    async with connected(server.url, timeout=0.5) as connection:
        await connection.call("PING")
        os.kill(server.pid or 0, signal.SIGSTOP)
        try:
            for command in (("PING",), ("ECHO", b"x" * 10_000_000)):
                with pytest.raises(BrokerUnavailable, match="no answer"):
                    await connection.call(*command)
        finally:
            os.kill(server.pid or 0, signal.SIGCONT)
        with anyio.fail_after(LONG):
            assert await connection.call("PING") == b"PONG"


async def test_a_server_that_has_gone_mute_while_nobody_spoke_to_it() -> None:
    """It is asked once, with one deadline, and not a second time over a new connection."""
    server = EchoServer()
    async with server.listening() as url, connected(url, timeout=0.2, fresh=0.0) as connection:
        await connection.call("ECHO", "before")
        server.speaks.clear()
        with pytest.raises(BrokerUnavailable, match="no answer"):
            await connection.call("ECHO", "lost")
        assert len(server.writers) == 1


async def test_answers_that_came_while_the_process_was_away(server_url: str) -> None:
    """It was paused for longer than an answer may take: what lies there unread counts."""
    async with connected(server_url, timeout=0.2) as connection:
        await connection.call("PING")
        asking = asyncio.create_task(connection.call("BLPOP", "nothing", "0.05"))
        await asyncio.sleep(0)
        time.sleep(0.5)  # noqa: ASYNC251 - as if it had been stopped: nothing of the event loop runs
        assert await asking is None


async def test_a_server_that_lets_nobody_in() -> None:
    """It takes connections and does not answer to the password: that has the same deadline, too."""
    server = EchoServer()
    server.speaks.clear()
    async with server.listening(":secret@") as url, connected(url, timeout=0.2) as connection:
        with pytest.raises(BrokerUnavailable, match="no answer"):
            await connection.call("PING")
        await until(lambda: bool(server.heard))
        assert server.heard[0] == (1, b"secret")


async def test_a_master_that_is_one_no_more(server_process: Callable[..., EngineProcess]) -> None:
    """Whoever is told that it may not write leaves that server: all that is idle is closed."""
    server = server_process()
    async with (
        redis.asyncio.Redis.from_url(server.url, protocol=2) as admin,
        connected(f"{server.url}?client_name=ours") as connection,
    ):
        await asyncio.gather(*[connection.call("PING") for _ in range(5)])
        await connection.read("PING")
        await admin.replicaof("127.0.0.1", "1")
        with pytest.raises(BrokerUnavailable, match="read only"):
            await connection.call("SET", "a", "b")

        with anyio.fail_after(LONG):
            while "ours" in [each["name"] for each in await admin.client_list()]:
                pass


# -- the end -------------------------------------------------------------------------------------------


async def test_closing_ends_what_is_under_way() -> None:
    """Nobody waits on a connection that is closed, and none is left open."""
    server = EchoServer()
    async with server.listening() as url, connected(url) as connection:
        await connection.call("ECHO", "before")
        server.speaks.clear()
        task = asyncio.create_task(connection.call("ECHO", "under way"))
        await server.until_heard(b"under way")
        await connection.close()
        with pytest.raises(BrokerUnavailable):
            await task
    assert server.ended == len(server.writers) == 1
