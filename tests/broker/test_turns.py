"""Many requests at once: some are under way, the others wait in line."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import anyio
import pytest
import redis.asyncio

from choreo.broker.connection import MAX_CONNECTIONS, Connection
from choreo.broker.turns import Turns
from choreo.errors import BrokerUnavailable

pytestmark = pytest.mark.anyio


class Visitors:
    """Tasks that want a turn each; every one keeps it until told to go."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.under_way: list[int] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.leave: list[asyncio.Event] = []

    async def come(self, count: int) -> None:
        """So many more, in order."""
        for _ in range(count):
            self.leave.append(asyncio.Event())
            self.tasks.append(asyncio.create_task(self._visit(len(self.tasks))))
        await self.settle()

    async def _visit(self, number: int) -> None:
        async with self.turns:
            self.under_way.append(number)
            await self.leave[number].wait()

    async def go(self, number: int) -> None:
        self.leave[number].set()
        await self.settle()

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def end(self) -> list[BaseException | None]:
        """What became of each when all may go."""
        for event in self.leave:
            event.set()
        return await asyncio.gather(*self.tasks, return_exceptions=True)


async def test_turns_come_in_order() -> None:
    """Whoever asked first is served first; nobody who comes later passes by."""
    visitors = Visitors(Turns(2, 60))
    await visitors.come(4)
    assert visitors.under_way == [0, 1]
    await visitors.go(1)
    await visitors.come(1)
    assert visitors.under_way == [0, 1, 2]
    await visitors.go(0)
    assert visitors.under_way == [0, 1, 2, 3]
    assert await visitors.end() == [None] * 5
    assert visitors.under_way == [0, 1, 2, 3, 4]


async def test_a_turn_of_somebody_cancelled_is_passed_on() -> None:
    """While waiting, and in the very moment when the turn comes: no turn gets lost."""
    visitors = Visitors(Turns(1, 60))
    await visitors.come(4)
    visitors.tasks[1].cancel()
    await visitors.settle()
    visitors.leave[0].set()
    await asyncio.wait(visitors.tasks[:1])
    visitors.tasks[2].cancel()  # its turn has come or is about to
    await visitors.end()
    assert visitors.tasks[1].cancelled()
    assert 3 in visitors.under_way
    await visitors.come(1)
    assert visitors.under_way[-1] == 4
    await visitors.end()


async def test_a_long_line_is_no_outage() -> None:
    """As long as answers come, everybody waits, for much longer than one answer may take."""
    turns = Turns(1, patience=1.0)
    visitors = Visitors(turns)
    await visitors.come(2)
    with anyio.move_on_after(2.5):
        while True:
            turns.note_answer()
            await anyio.sleep(0.05)
    assert not visitors.tasks[1].done()
    assert await visitors.end() == [None, None]


async def test_nobody_waits_for_a_server_that_is_silent() -> None:
    """All who wait give up together. When it is back, turns are there as before."""
    visitors = Visitors(Turns(1, patience=0.1))
    await visitors.come(4)
    await asyncio.wait(visitors.tasks[1:])
    await visitors.go(0)
    await visitors.come(1)
    assert visitors.under_way == [0, 4]
    ends = await visitors.end()
    assert [type(end) for end in ends] == [type(None), *[BrokerUnavailable] * 3, type(None)]


async def test_requests_in_line_open_no_connections() -> None:
    """A hundred requests at once: the server never sees more than the connections of one process."""
    waiting = 0
    most = 0
    full = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal waiting, most
        with suppress(ConnectionError):
            while line := await reader.readline():
                words = [await reader.readline() for _ in range(2 * int(line[1:]))]
                if b"PING\r\n" in words:
                    waiting += 1
                    most = max(most, waiting)
                    if waiting == MAX_CONNECTIONS:
                        full.set()
                    await full.wait()
                    waiting -= 1
                writer.write(b"+OK\r\n")
                await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        connection = Connection.open(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        try:
            answers = await asyncio.gather(*[connection.call("PING") for _ in range(100)])
        finally:
            await connection.close()
    assert answers == [b"OK"] * 100
    assert most == MAX_CONNECTIONS


async def test_a_missing_script_is_loaded_by_those_who_met_it(
    server_url: str, real_client: redis.asyncio.Redis, namespace: str
) -> None:
    """Of a thousand callers at once whose script the server does not know, only the first few notice."""
    connection = Connection.open(server_url)
    start = f"{namespace}:"
    try:
        await real_client.script_flush()
        before = await loads(real_client)
        keys = [f"{start}tracker", f"{start}deadlines"]
        calls = [connection.run("due", keys, [0, start, 1]) for _ in range(1000)]
        assert await asyncio.gather(*calls) == [[0, b"", b""]] * 1000
        assert 0 < await loads(real_client) - before <= MAX_CONNECTIONS
    finally:
        await connection.close()


async def loads(client: redis.asyncio.Redis) -> int:
    stats = await client.info("commandstats")
    return sum(found["calls"] for name, found in stats.items() if name.startswith("cmdstat_script"))
