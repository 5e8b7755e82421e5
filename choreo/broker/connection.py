"""Connections to the server, and what its errors mean.

Retries of the client library are off: it would repeat commands whose reply was lost, and so write
twice. What may be repeated is repeated by the caller, who knows that it is idempotent.
"""

from __future__ import annotations

import hashlib
import re
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, TypeAlias
from urllib.parse import urlsplit, urlunsplit

import anyio
from redis import exceptions
from redis.asyncio import Redis

from choreo.broker.lanes import Guest, Lanes, Wire
from choreo.broker.packing import Command
from choreo.broker.turns import Turns
from choreo.errors import BrokerRefused, BrokerUnavailable, ConfigurationError, Unsendable

Argument: TypeAlias = str | bytes | int
#: A script's name, its keys and its arguments.
ScriptCall: TypeAlias = tuple[str, Sequence[str], Sequence[Argument]]

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
    OSError,
)
#: All that the client library raises, and leaks.
_CLIENTS_CLASSES = (exceptions.RedisError, OSError, AttributeError, UnicodeError)
_UNSENDABLE_CLASSES = (exceptions.DataError, UnicodeError)
_FINAL_CLASSES = (exceptions.AuthenticationError, exceptions.AuthorizationError, exceptions.NoPermissionError)


_PASSWORD = re.compile(r"((?:^|&)password=)[^&]*", re.IGNORECASE)


class NoGroup(BrokerUnavailable):
    """A stream or its consumer group is gone; making the group anew heals it."""


class CannotServe(BrokerUnavailable):
    """The server is there, and says that it cannot do this now."""


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
    if word in _TRANSIENT:
        return CannotServe(text)
    if isinstance(error, _TRANSIENT_CLASSES):
        return BrokerUnavailable(text)
    return BrokerRefused(f"the server refused: {text}")


class Connection:
    """Commands and scripts on one server. Made by :meth:`open`, or around a client (fakeredis) in tests.

    ``blocking`` says whether the server can hold a read until entries come; fakeredis cannot. Then
    :meth:`wait_for_change` wakes readers when anything is written through this connection.
    """

    def __init__(self, commands: Wire | Redis, reader: Wire | None = None, *, url: str = "") -> None:
        self.url = public_url(url)
        #: The url with its password. Not for messages and logs.
        self.address = url
        self.blocking = reader is not None
        self._commands: Wire = Guest(commands) if isinstance(commands, Redis) else commands
        self._reader = reader or self._commands
        self._changed: anyio.Event | None = None
        self._turns = Turns(MAX_CONNECTIONS, COMMAND_TIMEOUT)

    @classmethod
    def open(cls, url: str) -> Connection:
        """Connections to ``url``; none is made before the first command.

        Raises:
            ConfigurationError: if it is not a URL that redis clients understand.
        """
        try:
            return cls(Lanes(url, COMMAND_TIMEOUT), Lanes(url, BLOCK + 2), url=url)
        except ValueError as error:
            raise ConfigurationError(f"{public_url(url)!r} is not a server's URL: {error}") from None

    async def close(self) -> None:
        """Close every connection."""
        for wire in self._wires():
            await wire.close()

    def _wires(self) -> set[Wire]:
        return {self._commands, self._reader}

    @property
    def at_hand(self) -> bool:
        """Whether the next request leaves at once, and waits for nothing but its answers."""
        return self._turns.free and self._commands.at_hand

    async def call(self, *command: Argument) -> Any:
        """One command.

        Raises:
            BrokerUnavailable: if the server cannot be reached or cannot serve now.
            BrokerRefused: if it will not do this.
        """
        async with self._turns:
            return await self._ask_one(self._commands, command)

    async def call_many(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Commands in one round trip. A command's own error stands in its place, translated."""
        if not commands:
            return []
        async with self._turns:
            answers = await self._ask(self._commands, commands)
        return [translate(each) if isinstance(each, Exception) else each for each in answers]

    async def read(self, *command: Argument) -> Any:
        """One command that may wait at the server, on a connection kept for such."""
        return await self._ask_one(self._reader, command)

    async def run(
        self, name: str, keys: Sequence[str], arguments: Sequence[Argument], *, changes: bool = True
    ) -> Any:
        """One script. ``changes``: whether it writes what others wait for. Raises as :meth:`call` does."""
        (answer,) = await self.run_many([(name, keys, arguments)], changes=changes)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def run_many(self, calls: Sequence[ScriptCall], *, changes: bool = True) -> list[Any]:
        """Scripts in one round trip. A call's own error stands in its place, translated."""
        commands: list[Command] = [
            ("EVALSHA", load_script(name).digest, len(keys), *keys, *arguments)
            for name, keys, arguments in calls
        ]
        # In one turn: if loading it waited in line, all in front would find that it is missing, too.
        async with self._turns:
            answers = await self._ask(self._commands, commands)
            missing = [number for number, each in enumerate(answers) if _says(each, "NOSCRIPT")]
            if missing:
                for name in {calls[number][0] for number in missing}:
                    await self._ask_one(self._commands, ("SCRIPT", "LOAD", load_script(name).text))
                again = await self._ask(self._commands, [commands[number] for number in missing])
                for number, answer in zip(missing, again, strict=True):
                    answers[number] = answer
        if changes:
            self.announce_change()
        return [translate(each) if isinstance(each, Exception) else each for each in answers]

    async def _ask_one(self, wire: Wire, command: Command) -> Any:
        (answer,) = await self._ask(wire, [command])
        if isinstance(answer, Exception):
            raise translate(answer) from answer
        return answer

    async def _ask(self, wire: Wire, commands: Sequence[Command]) -> list[Any]:
        """The answers as the client library gives them, errors included.

        Raises choreo's errors instead of the client library's.
        """
        try:
            answers = await wire.exchange(commands)
        except _CLIENTS_CLASSES as error:
            if isinstance(error, _BROKEN_CLASSES):
                await self._drop_idle()
            else:
                self._turns.note_answer()
            raise translate(error) from error
        self._turns.note_answer()
        if any(_says(each, "READONLY") for each in answers):
            await self._drop_idle()
        return answers

    async def _drop_idle(self) -> None:
        """Close idle connections, because one is broken, or leads to a server that is no master any more:
        the others probably are as well, and each would cost its own timeout."""
        for wire in self._wires():
            with suppress(exceptions.RedisError, OSError):
                await wire.drop_idle()

    def announce_change(self) -> None:
        """Wake whoever waits in :meth:`wait_for_change`."""
        if self._changed:
            self._changed.set()
            self._changed = None

    async def wait_for_change(self, seconds: float) -> None:
        """Wait until something was written through this connection, at most ``seconds``."""
        changed = self._changed = self._changed or anyio.Event()
        with anyio.move_on_after(seconds):
            await changed.wait()


def _says(answer: Any, word: str) -> bool:
    """Whether an answer is an error of this kind."""
    return isinstance(answer, Exception) and _text_of(answer).startswith(word)
