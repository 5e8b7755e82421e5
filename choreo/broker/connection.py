"""Connections to the server, and what its errors mean.

Retries of the client library are off: it would repeat commands whose reply was lost, and so write
twice. What may be repeated is repeated by the caller, who knows that it is idempotent.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
import socket
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, TypeAlias
from urllib.parse import urlsplit, urlunsplit

import anyio
from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from choreo.broker.packing import packing
from choreo.broker.turns import Turns
from choreo.errors import BrokerError, BrokerRefused, BrokerUnavailable, ConfigurationError, Unsendable

Argument: TypeAlias = str | bytes | int
Client: TypeAlias = "Redis"

#: Seconds until a command without an answer counts as lost.
COMMAND_TIMEOUT = 3.0
#: Seconds for which a read waits at the server for entries.
BLOCK = 1.0
#: Connections for commands that one process opens at most; further requests wait in line.
MAX_CONNECTIONS = 16

#: First words of errors that say "not now"; the same request may succeed later.
_TRANSIENT = frozenset({
    "ASK", "BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "MOVED", "NOGROUP", "NOREPLICAS",
    "NOSCRIPT", "OOM", "READONLY", "TRYAGAIN", "UNBLOCKED",
})  # fmt: skip
_TRANSIENT_CLASSES = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.BusyLoadingError,
    exceptions.OutOfMemoryError,
    exceptions.ReadOnlyError,
    exceptions.NoScriptError,
    exceptions.AskError,  # MOVED as well
    exceptions.TryAgainError,
    exceptions.ClusterDownError,  # MASTERDOWN as well
    OSError,
    AttributeError,  # the client leaks it when a connection drops while it is used
)
#: Errors after which a connection is not worth keeping.
_BROKEN_CLASSES = (
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    OSError,
)
_UNSENDABLE_CLASSES = (exceptions.DataError, UnicodeError)
_FINAL_CLASSES = (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError)


_PASSWORD = re.compile(r"((?:^|&)password=)[^&]*", re.IGNORECASE)


class NoGroup(BrokerUnavailable):
    """A stream or its consumer group is gone; making the group anew heals it."""


class WrongAddress(BrokerUnavailable):
    """There is no host of that name; waiting will not help."""


class NotPermitted(BrokerRefused):
    """The user as whom this process speaks to the server may not do this."""


@dataclass(frozen=True, slots=True)
class Script:
    """A script as the server knows it."""

    name: str
    text: str
    digest: str


#: The first line of a script that stands on others. Lua scripts on the server cannot import.
_USES = re.compile(r"-- uses: (.+)\n")


@cache
def load_script(name: str) -> Script:
    """The script ``scripts/<name>.lua``, behind those that its first line says it uses."""
    folder = files("choreo.broker") / "scripts"
    text = (folder / f"{name}.lua").read_text("utf-8")
    uses = _USES.match(text)
    parts = uses[1].split(", ") if uses else []
    text = "".join((folder / f"{part}.lua").read_text("utf-8") for part in parts) + text
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def public_url(url: str) -> str:
    """``url`` without its passwords, for messages and logs."""
    try:
        parts = urlsplit(url)
        password, user = parts.password, parts.username
    except ValueError:
        return "(a URL that cannot be read)"
    query = _PASSWORD.sub(r"\1***", parts.query)
    host = parts.netloc if password is None else f"{user or ''}:***@{parts.netloc.rpartition('@')[2]}"
    return urlunsplit(parts._replace(netloc=host, query=query))


def _text_of(error: BaseException) -> str:
    """What the server said. The client library leaves out the code of those errors that it knows."""
    text, code = str(error) or type(error).__name__, str(getattr(error, "status_code", None) or "")
    return text if text.startswith(code) or code == "ERR" else f"{code} {text}"


def translate(error: BaseException) -> Exception:
    """What a client library's error means, as one of choreo's own."""
    text = _text_of(error)
    if isinstance(error, _UNSENDABLE_CLASSES):
        return Unsendable(text)
    word = text.partition(" ")[0]
    if isinstance(error, exceptions.NoPermissionError) or word == "NOPERM":
        return NotPermitted(f"the server refused: {text}")
    if isinstance(error, _FINAL_CLASSES):
        return BrokerRefused(f"the server refused: {text}")
    if word == "NOGROUP":
        return NoGroup(text)
    if isinstance(error.__context__, socket.gaierror) and error.__context__.errno == socket.EAI_NONAME:
        return WrongAddress(text)
    if isinstance(error, _TRANSIENT_CLASSES) or word in _TRANSIENT:
        return BrokerUnavailable(text)
    return BrokerRefused(f"the server refused: {text}")


@contextmanager
def translated() -> Iterator[None]:
    """Raise choreo's errors instead of the client library's, and no cancellation less."""
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        yield
    except (exceptions.RedisError, OSError, AttributeError, UnicodeError) as error:
        _raise_if_cancelled(task, before)
        raise translate(error) from error
    _raise_if_cancelled(task, before)


def _raise_if_cancelled(task: asyncio.Task[Any] | None, before: int) -> None:
    # asyncio.wait_for of Python 3.11, which the client library uses, swallows a cancellation that comes
    # when it has just got what it waited for. Cancel scopes deliver theirs again by themselves.
    if task and task.cancelling() > before and anyio.current_effective_deadline() != -math.inf:
        raise asyncio.CancelledError


class Connection:
    """Commands and scripts on one server. Made by :meth:`open`, or around a client (fakeredis) in tests.

    ``blocking`` says whether the server can hold a read until entries come; fakeredis cannot. Then
    :meth:`wait_for_change` wakes readers when anything is written through this connection.
    """

    def __init__(self, commands: Client, reader: Client | None = None, *, url: str = "") -> None:
        self.url = public_url(url)
        #: The url with its password. Not for messages and logs.
        self.address = url
        self.blocking = reader is not None
        self._commands = _plain(commands)
        self._reader = _plain(reader) if reader else self._commands
        self._changed = anyio.Event()
        self._turns = Turns(MAX_CONNECTIONS, COMMAND_TIMEOUT)

    @classmethod
    def open(cls, url: str) -> Connection:
        """Connections to ``url``; none is made before the first command.

        Raises:
            ConfigurationError: if it is not a URL that redis clients understand.
        """
        options: dict[str, Any] = {"protocol": 2, "retry": Retry(NoBackoff(), 0), "retry_on_timeout": False}
        try:
            pool = BlockingConnectionPool.from_url(
                url, max_connections=MAX_CONNECTIONS, timeout=COMMAND_TIMEOUT,
                socket_timeout=COMMAND_TIMEOUT, socket_connect_timeout=COMMAND_TIMEOUT, **options,
            )
            reading = BlockingConnectionPool.from_url(
                url, max_connections=MAX_CONNECTIONS, timeout=COMMAND_TIMEOUT,
                socket_timeout=BLOCK + 2, socket_connect_timeout=COMMAND_TIMEOUT, **options,
            )
        except ValueError as error:
            raise ConfigurationError(f"{public_url(url)!r} is not a server's URL: {error}") from None
        for each in (pool, reading):
            each.connection_class = packing(each.connection_class)
        return cls(Redis(connection_pool=pool), Redis(connection_pool=reading), url=url)

    async def close(self) -> None:
        """Close every connection."""
        await self._commands.aclose(close_connection_pool=True)
        if self._reader is not self._commands:
            await self._reader.aclose(close_connection_pool=True)

    async def call(self, *command: Argument) -> Any:
        """One command.

        Raises:
            BrokerUnavailable: if the server cannot be reached or cannot serve now.
            BrokerRefused: if it will not do this.
        """
        async with self._turns:
            return await self._call(*command)

    async def _call(self, *command: Argument) -> Any:
        return await self._ask(self._commands.execute_command(*command))  # type: ignore[no-untyped-call]

    async def call_many(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Commands in one round trip. A command's own error stands in its place, translated."""
        if not commands:
            return []
        pipeline = self._commands.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        async with self._turns:
            answers = await self._ask_many(pipeline)
        return [translate(each) if isinstance(each, Exception) else each for each in answers]

    async def read(self, *command: Argument) -> Any:
        """One command that may wait at the server, on a connection kept for such."""
        return await self._ask(self._reader.execute_command(*command))  # type: ignore[no-untyped-call]

    async def run(
        self, name: str, keys: Sequence[str], arguments: Sequence[Argument], *, changes: bool = True
    ) -> Any:
        """One script. ``changes``: whether it writes what others wait for. Raises as :meth:`call` does."""
        (answer,) = await self.run_many(name, [(keys, arguments)], changes=changes)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def run_many(
        self, name: str, calls: Sequence[tuple[Sequence[str], Sequence[Argument]]], *, changes: bool = True
    ) -> list[Any]:
        """One script several times in one round trip. A call's own error stands in its place, translated."""
        script = load_script(name)
        # In one turn: if loading it waited in line, all in front would find that it is missing, too.
        async with self._turns:
            answers = await self._evaluate(script, calls)
            missing = [number for number, each in enumerate(answers) if _no_script(each)]
            if missing:
                await self._call("SCRIPT", "LOAD", script.text)
                again = await self._evaluate(script, [calls[number] for number in missing])
                for number, answer in zip(missing, again, strict=True):
                    answers[number] = answer
        if changes:
            self.announce_change()
        return [translate(each) if isinstance(each, Exception) else each for each in answers]

    async def _evaluate(
        self, script: Script, calls: Sequence[tuple[Sequence[str], Sequence[Argument]]]
    ) -> list[Any]:
        pipeline = self._commands.pipeline(transaction=False)
        for keys, arguments in calls:
            pipeline.execute_command(
                "EVALSHA", script.digest, len(keys), *keys, *arguments
            )
        return await self._ask_many(pipeline)

    async def _ask_many(self, pipeline: Any) -> list[Any]:
        answers = list(await self._ask(pipeline.execute(raise_on_error=False)))
        if any(isinstance(each, exceptions.ReadOnlyError) for each in answers):
            await self._drop_idle()
        return answers

    async def _drop_idle(self) -> None:
        """Close idle connections, because one is broken, or leads to a server that is no master any more:
        the others probably are as well, and each would cost its own timeout."""
        for client in (self._commands, self._reader):
            with suppress(exceptions.RedisError, OSError):
                await client.connection_pool.disconnect(inuse_connections=False)

    async def _ask(self, question: Awaitable[Any]) -> Any:
        try:
            with translated():
                answer = await question
        except BrokerError as error:
            if isinstance(error.__cause__, _BROKEN_CLASSES):
                await self._drop_idle()
            else:
                self._turns.note_answer()
            raise
        self._turns.note_answer()
        return answer

    def announce_change(self) -> None:
        """Wake whoever waits in :meth:`wait_for_change`."""
        self._changed.set()
        self._changed = anyio.Event()

    async def wait_for_change(self, seconds: float) -> None:
        """Wait until something was written through this connection, at most ``seconds``."""
        changed = self._changed
        with anyio.move_on_after(seconds):
            await changed.wait()


def _plain(client: Client) -> Client:
    """A client on the same connections that hands out answers as they came.

    The client library parses the answers of many commands into shapes that differ between its versions.
    What is no client of that library (a store in memory) is taken as it is.
    """
    if not hasattr(client, "connection_pool"):
        return client
    plain = Redis(connection_pool=client.connection_pool)
    plain.response_callbacks = {}
    return plain


def _no_script(answer: Any) -> bool:
    return isinstance(answer, exceptions.NoScriptError) or str(answer).startswith("NOSCRIPT")
