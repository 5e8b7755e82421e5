"""What the server's errors mean: wait and try again, or give up."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from redis import exceptions

from choreo.broker.connection import Connection, NoGroup, WrongAddress, translate
from choreo.errors import BrokerError, BrokerRefused, BrokerUnavailable, Unsendable

pytestmark = pytest.mark.anyio

TRANSIENT = [
    "ASK 3999 127.0.0.1:6381",
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "CLUSTERDOWN The cluster is down",
    "LOADING Redis is loading the dataset in memory",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
    "MOVED 3999 127.0.0.1:6381",
    "NOREPLICAS Not enough good replicas to write.",
    "NOSCRIPT No matching script. Please use EVAL.",
    "OOM command not allowed when used memory > 'maxmemory'.",
    "READONLY You can't write against a read only replica.",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "UNBLOCKED the stream key no longer exists",
    "ERR max number of clients reached",
]
FINAL = [
    "ERR unknown command 'XREADGROUP'",
    "NOAUTH Authentication required.",
    "NOPERM this user has no permissions to run the 'xadd' command",
    "WRONGPASS invalid username-password pair or user is disabled.",
    "WRONGTYPE Operation against a key holding the wrong kind of value",
]


@asynccontextmanager
async def refusing_server(error: str) -> AsyncIterator[str]:
    """A server that answers every command with the same error; yields its url."""

    clients = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        clients.append(asyncio.current_task())
        with suppress(ConnectionError):
            while line := await reader.readline():
                for _ in range(int(line[1:])):
                    length = await reader.readline()
                    await reader.readexactly(int(length[1:]) + 2)
                writer.write(f"-{error}\r\n".encode())
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await asyncio.gather(*clients)


async def ask(error: str) -> BrokerError:
    async with refusing_server(error) as url:
        connection = Connection.open(url)
        try:
            with pytest.raises(BrokerError) as caught:
                await connection.call("GET", "a")
        finally:
            await connection.close()
        return caught.value


@pytest.mark.parametrize("error", TRANSIENT, ids=lambda error: error.split()[0])
async def test_not_now(error: str) -> None:
    """The same request may succeed later. The message keeps the code: people search for it."""
    found = await ask(error)
    assert isinstance(found, BrokerUnavailable)
    assert error.removeprefix("ERR ") in str(found)


@pytest.mark.parametrize("error", FINAL, ids=lambda error: error.split()[0])
async def test_never(error: str) -> None:
    """Trying again would not help."""
    found = await ask(error)
    assert isinstance(found, BrokerRefused)
    assert error.removeprefix("ERR ") in str(found)


async def test_a_group_that_is_gone() -> None:
    """It can be made anew, so it has a type of its own."""
    assert isinstance(await ask("NOGROUP No such key 'a' or consumer group 'b'"), NoGroup)


def test_a_host_that_does_not_exist() -> None:
    """A wrong name is told from a server that is away, and from a name service that is."""

    def failed(code: int) -> Exception:
        try:
            try:
                raise socket.gaierror(code, "no such host")
            except OSError as error:
                raise exceptions.ConnectionError(f"Error {error}")  # noqa: B904 - as the client does
        except exceptions.ConnectionError as error:
            return translate(error)

    assert isinstance(failed(socket.EAI_NONAME), WrongAddress)
    assert type(failed(socket.EAI_AGAIN)) is BrokerUnavailable


def test_what_cannot_be_sent() -> None:
    """It is the request's own fault, whatever the server says."""
    assert isinstance(translate(exceptions.DataError("no such type")), Unsendable)
