"""A proxy between services and a server that loses replies, falls silent, cuts connections or refuses them."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

import anyio

from choreo.broker.connection import load_script

#: Whether a fault is to hit: given a command and the reply to it, as they travel.
Wanted: TypeAlias = Callable[[bytes, bytes], bool]


def calls_of(script: str) -> Wanted:
    """Calls of one of choreo's scripts."""
    digest = load_script(script).digest.encode()
    return lambda command, reply: b"EVALSHA" in command[:40] and digest in command[:100]


def filled_reads(command: bytes, reply: bytes) -> bool:
    """Reads of a participant that brought something."""
    reads = b"XREADGROUP" in command[:40] or calls_of("take")(command, reply)
    return reads and b"subject" in reply


@dataclass
class Loss:
    """Loses every ``every``-th reply to the commands that ``wanted`` picks. The server has done them."""

    wanted: Wanted
    every: int
    seen: int = 0
    lost: int = 0

    def hits(self, command: bytes, reply: bytes) -> bool:
        if not self.wanted(command, reply):
            return False
        self.seen += 1
        if self.seen % self.every:
            return False
        self.lost += 1
        return True


@dataclass(eq=False)
class _Link:
    """One client's connection, and the one to the server that belongs to it."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    asked: deque[bytes] = field(default_factory=deque)
    silent: bool = False

    def cut(self) -> None:
        """End it as a machine that has lost its memory does: with a reset."""
        for writer in (self.client, self.server):
            if (sock := writer.get_extra_info("socket")) and sock.family == socket.AF_INET:
                with suppress(OSError):  # its other end was faster
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()


class Proxy:
    """Listens on a port of this machine; :attr:`url` is what services are given instead of the server's."""

    def __init__(self, server_url: str) -> None:
        self._path = unquote(urlsplit(server_url).path)
        self._links: set[_Link] = set()
        self._listener: asyncio.Server | None = None
        self._served = 0
        self._port = 0
        self.losses: list[Loss] = []
        self.delay = 0.0
        """Seconds for which every reply is held back."""
        self.silent = False
        """Whether connections that are made are accepted and never answered."""
        self.connected = 0
        """How many connections were made so far."""

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._port}"

    @classmethod
    @asynccontextmanager
    async def before(cls, server_url: str) -> AsyncIterator[Proxy]:
        proxy = cls(server_url)
        await proxy.listen()
        yield proxy
        await proxy.refuse()

    async def listen(self) -> None:
        """Take connections, on the same port as ever."""
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        self._port = self._listener.sockets[0].getsockname()[1]

    async def refuse(self) -> None:
        """Cut all connections, and refuse new ones."""
        if self._listener:
            self._listener.close()
            while self._served:
                self.cut()
                await anyio.sleep(0.001)
            await self._listener.wait_closed()
            self._listener = None

    def cut(self) -> None:
        """Reset every connection."""
        for link in list(self._links):
            link.cut()

    def fall_silent(self) -> None:
        """From now on nothing passes: what is connected stays so and is never answered again, also not
        when new connections are (see :meth:`speak`)."""
        self.silent = True
        for link in self._links:
            link.silent = True

    def speak(self) -> None:
        """Serve connections that are made from now on."""
        self.silent = False

    def lose(self, wanted: Wanted, every: int) -> Loss:
        """Begin to lose replies."""
        loss = Loss(wanted, every)
        self.losses.append(loss)
        return loss

    def watch(self, wanted: Wanted) -> Loss:
        """Count commands, and lose none."""
        return self.lose(wanted, every=sys.maxsize)

    # -- passing on --------------------------------------------------------------------------------

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connected += 1
        self._served += 1
        try:
            await self._serve(reader, writer)
        finally:
            self._served -= 1

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answers, server = await asyncio.open_unix_connection(self._path)
        except OSError:
            writer.transport.abort()
            return
        link = _Link(writer, server, silent=self.silent)
        self._links.add(link)
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._pass_commands, link, reader)
                tasks.start_soon(self._pass_replies, link, answers)
        except* OSError:
            pass
        finally:
            self._links.discard(link)
            writer.transport.abort()
            server.transport.abort()

    async def _pass_commands(self, link: _Link, reader: asyncio.StreamReader) -> None:
        async for command in frames_of(reader):
            if not link.silent:
                link.asked.append(command)
                link.server.write(command)
                await link.server.drain()
        link.server.transport.abort()

    async def _pass_replies(self, link: _Link, reader: asyncio.StreamReader) -> None:
        async for reply in frames_of(reader):
            if self.delay:
                await anyio.sleep(self.delay)
            command = link.asked.popleft()
            if any(loss.hits(command, reply) for loss in self.losses):
                link.cut()
                return
            if not link.silent:
                link.client.write(reply)
                await link.client.drain()
        link.client.transport.abort()


async def frames_of(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The commands or replies of a connection, each as it travels, until the other side ends it."""
    buffer = b""
    while chunk := await reader.read(1 << 16):
        buffer += chunk
        at = 0
        for end in _ends(buffer):
            yield buffer[at:end]
            at = end
        buffer = buffer[at:]


def _ends(buffer: bytes) -> Iterator[int]:
    at = 0
    while (end := _end(buffer, at)) is not None:
        yield end
        at = end


def _end(buffer: bytes, at: int) -> int | None:
    """Where the value that begins at ``at`` ends; ``None`` if it is not all there."""
    line = buffer.find(b"\r\n", at)
    if line < 0:
        return None
    kind, end = buffer[at : at + 1], line + 2
    if kind not in b"$*":
        return end
    size = int(buffer[at + 1 : line])
    if kind == b"$":
        end += size + 2 if size >= 0 else 0
        return end if end <= len(buffer) else None
    for _ in range(size):
        inner = _end(buffer, end)
        if inner is None:
            return None
        end = inner
    return end
