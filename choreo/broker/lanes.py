"""Lanes: connections to a server, each of which carries one round trip at a time.

The client library connects and authenticates. Then the lane takes over the transport: questions and
answers pass between it and the event loop without a task, a stream or a buffer between. The library's
own pools, pipelines, streams and timeouts take more time than the round trip itself.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, cast

import anyio
from redis import exceptions
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from choreo.broker.packing import Command, pack
from choreo.broker.unpacking import MISSING, make_unpacker

#: Any answer shows that a connection is good; this is a command that choreo needs to be allowed anyway.
_TRIAL = pack(("TIME",))

#: Seconds to read what has come while this process could not.
_UNREAD = 0.1


class Wire(Protocol):
    """What carries commands to a server, and its answers back."""

    @property
    def at_hand(self) -> bool:
        """Whether the next exchange sends its commands at once, and waits for nothing but the answers."""

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


class _Lane(asyncio.Protocol):
    """One connection: what the client library has connected and authenticated is taken from it."""

    def __init__(self, connection: Any, timeout: float) -> None:
        #: The client library's. It is kept, because it closes the transport when it is collected.
        self._writer: asyncio.StreamWriter = connection._writer
        self._transport = cast("asyncio.Transport", self._writer.transport)
        connection._reader = connection._writer = None
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._unpacker = make_unpacker()
        self._answers: list[Any] = []
        self._count = 0
        self._asked: asyncio.Future[list[Any]] | None = None
        self._deadline = math.inf
        self._watch: asyncio.TimerHandle | None = None
        self.ended: asyncio.Future[None] = self._loop.create_future()
        self._transport.set_protocol(self)

    @property
    def closed(self) -> bool:
        """Whether it is of no use any more."""
        return self._transport.is_closing()

    def ask(self, question: bytes, count: int) -> asyncio.Future[list[Any]]:
        """Send a question, to which there will be ``count`` answers. What arrives of them puts off the
        deadline: who answers, however slowly, is not away.

        If the answers do not come, or nobody waits for them any more, the lane must be closed: what would
        still arrive on it would be taken for the answer to somebody else's question.
        """
        self._answers, self._count = [], count
        self._asked = asked = self._loop.create_future()
        if self.closed:
            self.fail(exceptions.ConnectionError("the server has closed the connection"))
            return asked
        self._deadline = self._loop.time() + self._timeout
        if self._watch is None:
            self._watch = self._loop.call_later(self._timeout, self._look)
        self._transport.write(question)
        return asked

    def data_received(self, data: bytes) -> None:
        """The event loop has read something."""
        asked = self._asked
        if asked is None or asked.done():
            self._transport.abort()  # nobody has asked for this, and the next one must not get it
            return
        try:
            self._unpacker.feed(data)
            while len(self._answers) < self._count and (answer := self._unpacker.gets()) is not MISSING:
                self._answers.append(answer)
        except exceptions.RedisError as error:
            self.fail(error)
            return
        self._deadline = self._loop.time() + self._timeout
        if len(self._answers) == self._count:
            asked.set_result(self._answers)
            self._answers, self._asked = [], None
            if self._unpacker.has_data():
                self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """The connection has ended."""
        why = error or "the server has closed it"
        self.fail(exceptions.ConnectionError(f"the connection has ended: {why}"))
        if not self.ended.done():
            self.ended.set_result(None)

    def fail(self, error: Exception) -> None:
        """There will be no answers."""
        if self._asked and not self._asked.done():
            self._asked.set_exception(error)

    def _look(self) -> None:
        """Is an answer overdue? One timer does for many questions."""
        left = self._deadline - self._loop.time()
        self._watch = None
        if self._asked is None or self._asked.done():
            return
        if left < -_UNREAD:  # this process was busy or paused: answers may lie there unread
            left = _UNREAD
            self._deadline = self._loop.time() + left
        if left > 0:
            self._watch = self._loop.call_later(left, self._look)
        else:
            self.fail(exceptions.TimeoutError(f"no answer within {self._timeout:g} s"))

    def close(self) -> None:
        """Close the connection. If somebody still waits for answers, there will be none."""
        if self._watch:
            self._watch.cancel()
        self.fail(exceptions.ConnectionError("the connection was closed"))
        self._transport.abort()


class Lanes:
    """A :class:`Wire` to the server at ``url``. It has as many connections as there are exchanges at once.

    ``timeout``: seconds until a connection is made, and until something of the answers arrives, unless the
    url says otherwise.
    ``fresh``: seconds after which an idle connection is tried before it is used: it may lead nowhere, and
    nobody have said so.
    """

    def __init__(self, url: str, timeout: float, *, fresh: float = 1.0) -> None:
        self._pool: Any = ConnectionPool.from_url(
            url, socket_timeout=timeout, socket_connect_timeout=timeout, protocol=2,
            retry=Retry(NoBackoff(), 0), retry_on_timeout=False,
        )  # fmt: skip
        options = self._pool.connection_kwargs
        #: One deadline for all of connecting; the library would make one for each thing that it waits for.
        self._timeout: float = options["socket_timeout"]
        options["socket_timeout"] = None
        self._fresh = fresh
        self._open: set[_Lane] = set()
        #: The one that was used last comes last, and is used next; with the moment when it was.
        self._idle: list[tuple[_Lane, float]] = []

    @property
    def at_hand(self) -> bool:
        """See :meth:`Wire.at_hand`."""
        while self._idle and self._idle[-1][0].closed:
            self._discard(self._idle.pop()[0])
        return bool(self._idle) and time.monotonic() - self._idle[-1][1] < self._fresh

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """See :meth:`Wire.exchange`."""
        if not commands:
            return []
        question = b"".join([pack(tuple(command)) for command in commands])
        lane = self._idle.pop()[0] if self.at_hand else await self._find()
        answers = await self._ask(lane, question, len(commands))
        if lane in self._open:
            self._idle.append((lane, time.monotonic()))
        return answers

    async def _find(self) -> _Lane:
        """An idle lane that leads somewhere, or a new one."""
        if self._idle:
            lane, _ = self._idle.pop()
            try:
                await self._ask(lane, _TRIAL, 1)
            except (exceptions.ConnectionError, OSError):
                await self.drop_idle()
            else:
                return lane
        return await self._connect()

    async def _ask(self, lane: _Lane, question: bytes, count: int) -> list[Any]:
        try:
            return await lane.ask(question, count)
        except BaseException:
            self._discard(lane)
            raise

    async def _connect(self) -> _Lane:
        connection = self._pool.make_connection()
        try:
            with _no_cancellation_lost():
                async with asyncio.timeout(self._timeout):
                    await connection.connect()
        except TimeoutError as error:
            await connection.disconnect(nowait=True)
            raise exceptions.TimeoutError(f"no answer within {self._timeout:g} s") from error
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        lane = _Lane(connection, self._timeout)
        self._open.add(lane)
        return lane

    def _discard(self, lane: _Lane) -> None:
        self._open.discard(lane)
        lane.close()

    async def drop_idle(self) -> None:
        """See :meth:`Wire.drop_idle`."""
        idle, self._idle = self._idle, []
        for lane, _ in idle:
            self._discard(lane)

    async def close(self) -> None:
        """Close every connection. Exchanges that are under way fail."""
        lanes, self._open, self._idle = self._open, set(), []
        for lane in lanes:
            lane.close()
        await asyncio.gather(*[lane.ended for lane in lanes])


class Guest:
    """A :class:`Wire` around a client that somebody else has made, such as fakeredis."""

    at_hand = False

    def __init__(self, client: Redis) -> None:
        # The library parses the answers to many commands into shapes that differ between its versions.
        self._client: Any = Redis(connection_pool=client.connection_pool)
        self._client.response_callbacks = {}

    async def exchange(self, commands: Sequence[Command]) -> list[Any]:
        """See :meth:`Wire.exchange`."""
        pipeline = self._client.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        with _no_cancellation_lost():
            return list(await pipeline.execute(raise_on_error=False))

    async def drop_idle(self) -> None:
        """See :meth:`Wire.drop_idle`."""
        await self._client.connection_pool.disconnect(inuse_connections=False)

    async def close(self) -> None:
        """See :meth:`Wire.close`."""
        await self._client.aclose(close_connection_pool=True)


@contextmanager
def _no_cancellation_lost() -> Iterator[None]:
    """Around calls of the client library. It may use asyncio.wait_for, which in Python 3.11 swallows a
    cancellation that comes when it has just got what it waited for."""
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        yield
    finally:
        # Cancel scopes deliver theirs again by themselves.
        if task and task.cancelling() > before and anyio.current_effective_deadline() != -math.inf:
            raise asyncio.CancelledError
