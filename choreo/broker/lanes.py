"""Lanes: connections to a server, each of which carries one round trip at a time.

The client library connects, authenticates and parses. Who has which connection, for how long, and when
one is not fit for use any more is decided here: the library's own pools, pipelines and timeouts take
more time than the round trip itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Protocol

from redis import exceptions
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from choreo.broker.packing import Command, pack

#: Any answer shows that a connection is good; this is a command that choreo needs to be allowed anyway.
_TRIAL = pack(("TIME",))


class Wire(Protocol):
    """What carries commands to a server, and its answers back."""

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """Each command's answer; an error that the server answers with stands in its place.

        Raises:
            RedisError, OSError: if it is not known what became of the commands.
            DataError, UnicodeError: if one of them cannot be sent; none is.
        """

    async def drop_idle(self) -> None:
        """Close connections that nobody uses now."""

    async def close(self) -> None:
        """Close every connection."""


class Lanes:
    """A :class:`Wire` to the server at ``url``. It has as many connections as there are exchanges at once.

    ``timeout``: seconds until the first answer, connecting included, and until each further one, unless the
    url says otherwise.
    ``fresh``: seconds after which an idle connection is tried before it is used, for the server may have
    closed it.
    """

    def __init__(self, url: str, timeout: float, *, fresh: float = 1.0) -> None:
        self._pool: Any = ConnectionPool.from_url(
            url, socket_timeout=timeout, socket_connect_timeout=timeout, protocol=2,
            retry=Retry(NoBackoff(), 0), retry_on_timeout=False,
        )  # fmt: skip
        options = self._pool.connection_kwargs
        #: One deadline for all of an exchange; the library would make one for each thing that it waits for.
        self._timeout: float = options["socket_timeout"]
        options["socket_timeout"] = None
        self._fresh = fresh
        self._open: set[Any] = set()
        #: The one that was used last comes last, and is used next; with the moment when it was.
        self._idle: list[tuple[Any, float]] = []

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """See :meth:`Wire.exchange`."""
        question = b"".join([pack(tuple(command)) for command in commands])
        try:
            async with asyncio.timeout(self._timeout) as deadline:
                lane = await self._take()
                answers = await self._ask(lane, question, len(commands), deadline)
        except TimeoutError as error:
            raise exceptions.TimeoutError(f"no answer within {self._timeout:g} s") from error
        if lane in self._open:
            self._idle.append((lane, time.monotonic()))
        return answers

    async def _take(self) -> Any:
        if self._idle:
            lane, used = self._idle.pop()
            if time.monotonic() - used < self._fresh or await self._is_alive(lane):
                return lane
            await self.drop_idle()
        lane = self._pool.make_connection()
        self._open.add(lane)
        try:
            await lane.connect()
        except BaseException:
            await self._discard(lane)
            raise
        return lane

    async def _is_alive(self, lane: Any) -> bool:
        try:
            await self._ask(lane, _TRIAL, 1)
        except (exceptions.ConnectionError, OSError):
            return False
        return True

    async def _ask(
        self, lane: Any, question: bytes, count: int, deadline: asyncio.Timeout | None = None
    ) -> list[Any]:
        """Send a question, and read ``count`` answers. If anything comes between, the lane is closed: what
        would still arrive on it would be taken for the answer to somebody else's question.

        Each answer puts off the deadline: who answers, however slowly, is not away.
        """
        answers = []
        try:
            await self._send(lane, question)
            for _ in range(count):
                try:
                    answers.append(await lane.read_response())
                except exceptions.ResponseError as error:
                    answers.append(error)
                if deadline is not None and len(answers) < count:
                    deadline.reschedule(asyncio.get_running_loop().time() + self._timeout)
        except BaseException:
            await self._discard(lane)
            raise
        return answers

    async def _send(self, lane: Any, question: bytes) -> None:
        try:
            await lane.send_packed_command(question, check_health=False)
        except RuntimeError as error:  # so says uvloop of a connection that was reset while idle
            raise exceptions.ConnectionError(str(error)) from error

    async def _discard(self, lane: Any) -> None:
        self._open.discard(lane)
        await lane.disconnect(nowait=True)

    async def drop_idle(self) -> None:
        """See :meth:`Wire.drop_idle`."""
        idle, self._idle = self._idle, []
        for lane, _ in idle:
            await self._discard(lane)

    async def close(self) -> None:
        """Close every connection. Exchanges that are under way fail."""
        lanes, self._open, self._idle = self._open, set(), []
        await asyncio.gather(*[lane.disconnect() for lane in lanes])


class Guest:
    """A :class:`Wire` around a client that somebody else has made, such as fakeredis."""

    def __init__(self, client: Redis) -> None:
        # The library parses the answers to many commands into shapes that differ between its versions.
        self._client: Any = Redis(connection_pool=client.connection_pool)
        self._client.response_callbacks = {}

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """See :meth:`Wire.exchange`."""
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        return list(await pipeline.execute(raise_on_error=False))

    async def drop_idle(self) -> None:
        """See :meth:`Wire.drop_idle`."""
        await self._client.connection_pool.disconnect(inuse_connections=False)

    async def close(self) -> None:
        """See :meth:`Wire.close`."""
        await self._client.aclose(close_connection_pool=True)
