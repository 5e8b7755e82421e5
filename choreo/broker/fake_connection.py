"""Connections to a store in memory: called without a socket between, and woken by what is new.

What a connection is asked is one Python call; nothing is awaited but what faults put in between.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import RedisError

from choreo.broker.connection import Argument, Connection
from choreo.broker.fake import FakeStore


class Link:
    """What lies between a client and the store. This one does nothing; faults are made of others."""

    async def request(self, commands: Sequence[Sequence[Argument]]) -> None:
        """Called before commands are executed; what it raises, the client gets instead of answers."""


class _Wire:
    """Carries commands to the store."""

    def __init__(
        self, store: FakeStore, link: Link, watch: Callable[[Iterable[bytes], bytes | None], None]
    ) -> None:
        self._store = store
        self._link = link
        self._watch = watch

    at_hand = False

    async def exchange(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Every command's answer, or its error."""
        await self._link.request(commands)
        return [self._execute(command) for command in commands]

    def _execute(self, command: Sequence[Argument]) -> Any:
        if command[0] in ("XREAD", "XREADGROUP"):
            at = command.index("STREAMS") + 1
            group = str(command[2]).encode() if command[0] == "XREADGROUP" else None
            self._watch([str(each).encode() for each in command[at : at + (len(command) - at) // 2]], group)
        try:
            return self._store.execute(command)
        except RedisError as error:
            return error

    async def drop_idle(self) -> None:
        """Nothing: there are no connections."""

    async def close(self) -> None:
        """Nothing: there are no connections."""


@dataclass
class _Reader:
    """A task that reads, and what it reads. ``news``: something has come since it read last."""

    streams: set[bytes] = field(default_factory=set)
    group: bytes | None = None
    news: bool = False
    woken: asyncio.Future[None] | None = None

    def wake(self) -> None:
        self.news = True
        if self.woken is not None and not self.woken.done():
            self.woken.set_result(None)

    async def wait(self, seconds: float) -> None:
        """Wait until there is news, at most so many seconds."""
        if not self.news:
            loop = asyncio.get_running_loop()
            self.woken = loop.create_future()
            timer = loop.call_later(seconds, self.wake)
            try:
                await self.woken
            finally:
                timer.cancel()
                self.woken = None
        self.news = False


class FakeConnection(Connection):
    """One process's connection to a :class:`FakeStore`.

    It does not hold a read at the store, but :meth:`wait_for_change` wakes a reader when one of the
    streams that it has read gets something new, and after ``look`` seconds at the latest.
    """

    def __init__(self, store: FakeStore, link: Link | None = None, look: float = 30.0) -> None:
        self._store = store
        self._look = look
        self._readers: dict[asyncio.Task[Any], _Reader] = {}
        super().__init__(_Wire(store, link or Link(), self._watch))
        store.watch(self.on_news)

    async def close(self) -> None:
        """Take no notice of the store any more."""
        self._store.unwatch(self.on_news)

    def _me(self) -> _Reader:
        task = asyncio.current_task()
        assert task is not None
        if task not in self._readers:
            living = {each: reader for each, reader in self._readers.items() if not each.done()}
            self._readers = living | {task: _Reader()}
        return self._readers[task]

    def _watch(self, streams: Iterable[bytes], group: bytes | None) -> None:
        reader = self._me()
        reader.streams.update(streams)
        reader.group = group
        reader.news = False

    def on_news(self, stream: bytes, group: bytes | None) -> None:
        """A stream is about to get something new, for ``group`` alone if there is one."""
        for reader in self._readers.values():
            if stream in reader.streams and group in (None, reader.group):
                reader.wake()

    def announce_change(self) -> None:
        """Nothing: the store tells of its changes itself."""

    def wake(self) -> None:
        """Let everybody who waits for a change look again."""
        for reader in self._readers.values():
            reader.wake()

    async def wait_for_change(self, seconds: float) -> None:
        """Wait until something new may be read. ``seconds`` would be for polling, and that is not needed."""
        await self._me().wait(self._look)
