"""A server in memory, for tests: fakeredis under a clock of its own, called without a socket between.

A command is one Python call: nothing is awaited, so what runs on such a store runs in an order that does
not depend on the machine. Scripts are compiled once per process and not once per call, which makes the
commit gate a hundred times faster than through fakeredis alone.

This is the one module that touches what fakeredis keeps to itself: the object that stands for a client's
connection, and the module ``time`` that it looks at.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any
from weakref import WeakKeyDictionary

import anyio
from redis import Redis
from redis.exceptions import RedisError

from choreo.broker.clock import Clock
from choreo.broker.connection import Argument, Connection, load_script
from choreo.errors import ConfigurationError

try:
    import lupa.lua51 as lua  # type: ignore[import-untyped]
    from fakeredis import FakeServer
    from fakeredis._core import CommandItem
    from fakeredis._helpers import SimpleError
    from fakeredis._socket._fakesocket import FakeSocket
    from fakeredis.model import Hash
except ImportError as error:
    raise ConfigurationError(
        f"choreo.testing needs fakeredis with Lua, 2.40 or newer: pip install 'choreo[testing]' ({error})"
    ) from error

#: Commands whose second word belongs to their name.
_TWO_WORDS = frozenset({"client", "config", "object", "script", "xgroup", "xinfo"})


class _Time(threading.local):
    """What fakeredis takes for the module ``time``: while a store is at work, its clock is the time."""

    clock: Clock | None = None

    def time(self) -> float:
        # A fraction of a millisecond more, for fakeredis cuts off what a product of floats falls short of.
        return time.time() if self.clock is None else (self.clock() + 0.25) / 1000

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


_time = _Time()


def _take_over_time() -> None:
    """Let fakeredis look at our clock, in whichever of its modules it looks at one."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "fakeredis" and getattr(module, "time", None) is time:
            module.time = _time  # type: ignore[attr-defined]


_take_over_time()


class _Scripts(threading.local):
    """Compiled scripts of this thread, and the socket for which one of them runs."""

    def __init__(self) -> None:
        self.socket: Any = None
        self.runtime = lua.LuaRuntime(encoding=None, unpack_returned_tuples=True)
        self._compiled: dict[bytes, Any] = {}
        self._words: dict[bytes, Any] = {}
        self._set_input = self.runtime.eval(b"function(keys, argv) KEYS = keys ARGV = argv end")
        prepare = self.runtime.eval(b"function(call, pcall) redis = { call = call, pcall = pcall } end")
        prepare(self._call, self._pcall)

    def run(self, socket: Any, script: bytes, keys: Sequence[bytes], arguments: Sequence[bytes]) -> Any:
        """Run a script for ``socket``, and return what it returned, still as Lua has it."""
        compiled = self._compiled.get(script)
        if compiled is None:
            compiled = self._compiled[script] = self.runtime.eval(b"function() " + script + b"\nend")
        self.socket = socket
        self._set_input(self.runtime.table_from(keys), self.runtime.table_from(arguments))
        try:
            return compiled()
        except lua.LuaError as error:
            raise SimpleError(f"ERR Error running script: {error}") from error

    def status(self, word: bytes) -> Any:
        """An answer of one word, as scripts get it."""
        if word not in self._words:
            self._words[word] = self.runtime.table_from({b"ok": word})
        return self._words[word]

    def _call(self, *command: Any) -> Any:
        return self.socket.call_from_script(self.runtime, command)

    def _pcall(self, *command: Any) -> Any:
        try:
            return self._call(*command)
        except Exception as error:
            said = error.value if isinstance(error, SimpleError) else str(error)
            return self.runtime.table_from({b"err": said.encode()})


_scripts = _Scripts()


@cache
def _known_scripts() -> dict[bytes, bytes]:
    """Digest -> script, for each of choreo's own: they need not be sent to a store before they are used."""
    folder = files("choreo.broker") / "scripts"
    names = [each.name.removesuffix(".lua") for each in folder.iterdir() if each.name.endswith(".lua")]
    scripts = [load_script(name) for name in names]
    return {script.digest.encode(): script.text.encode() for script in scripts}


class _Socket(FakeSocket):
    """A client's connection to fakeredis that is handed commands as they are, and keeps the one answer."""

    def __init__(self, store: FakeStore, server: FakeServer) -> None:
        super().__init__(server, 0, client_class=Redis)
        self._store = store

    def execute(self, name: str, arguments: list[bytes], now: float) -> Any:
        """The answer to one command; an error is raised as the client library would."""
        if name == "evalsha":
            with self._server.lock:
                return self._answer(self._evaluate(arguments))
        if name in _TWO_WORDS and arguments:
            name, arguments = f"{name} {arguments[0].decode().lower()}", arguments[1:]
        self._db.time = now
        try:
            function, signature = self._name_to_func(name)
            signature.check_arity(arguments, self.version)
            with self._server.lock:
                result = self._run_command(function, signature, arguments, False)
        except SimpleError as error:
            result = error
        return self._answer(result)

    def _answer(self, result: Any) -> Any:
        answer = self._decode_result(result)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _evaluate(self, arguments: Sequence[bytes]) -> Any:
        """Run a script that the server knows, given as EVALSHA is given it."""
        script = self._server.script_cache.get(arguments[0])
        if script is None:
            return SimpleError("NOSCRIPT No matching script. Please use EVAL.")
        last_key = 2 + int(arguments[1])
        self._script_resp = 2
        try:
            result = _scripts.run(self, script, arguments[2:last_key], arguments[last_key:])
            return self._convert_lua_result(result, nested=False)
        except SimpleError as error:
            return error
        finally:
            self._script_resp = None

    def call_from_script(self, runtime: Any, command: Sequence[Any]) -> Any:
        words = [each if type(each) is bytes else f"{each:.17g}".encode() for each in command]
        name, arguments = words[0].decode().lower(), words[1:]
        quick = self._look(name, arguments)
        if quick is not None:
            return quick
        if name in _TWO_WORDS:
            name, arguments = f"{name} {arguments[0].decode().lower()}", arguments[1:]
        self._store.note(name, arguments)
        function, signature = self._name_to_func(name)
        result = self._run_command(function, signature, arguments, True)
        return result if type(result) in (bytes, int) else self._convert_redis_result(runtime, result)


    def _look(self, name: str, arguments: list[bytes]) -> Any:
        """The answer to what scripts ask most often, without the ceremony; ``None`` for anything else."""
        if name not in ("type", "hlen", "hget", "hmget"):
            return None
        item = self._db.get(arguments[0])
        if name == "type":
            return _scripts.status(self.type_cmd(CommandItem(arguments[0], self._db, item=item)).value)
        if item is None or not isinstance(item.value, Hash):
            return None
        if name == "hlen":
            return len(item.value)
        found = [value if (value := item.value.get(each)) is not None else False for each in arguments[1:]]
        return found[0] if name == "hget" else _scripts.runtime.table_from(found)


class FakeStore:
    """The data of one server. ``clock`` is its time, in milliseconds since the epoch."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        server = FakeServer()
        server.script_cache = dict(_known_scripts())
        self._socket = _Socket(self, server)
        self._watchers: list[Callable[[bytes], None]] = []
        self.added: list[tuple[bytes, list[bytes]]] = []
        """Every entry that was added, whatever became of it: its stream's key, and its fields."""

    def watch(self, watcher: Callable[[bytes], None]) -> None:
        """Have ``watcher`` called with the key of each stream that gets something new to read."""
        self._watchers.append(watcher)

    def unwatch(self, watcher: Callable[[bytes], None]) -> None:
        """The reverse of :meth:`watch`."""
        if watcher in self._watchers:
            self._watchers.remove(watcher)

    def note(self, name: str, arguments: Sequence[bytes]) -> None:
        """A command is about to run: tell whoever waits for what it may bring."""
        if name == "xadd":
            key = arguments[0]
            self.added.append((key, list(arguments[arguments.index(b"*") + 1 :])))
        elif name.startswith("xgroup"):
            key = arguments[0] if " " in name else arguments[1]
        else:
            return
        for watcher in self._watchers:
            watcher(key)

    def execute(self, command: Sequence[Argument]) -> Any:
        """The answer to one command, as a client on RESP2 gets it.

        Raises:
            RedisError: if the command fails.
        """
        name = str(command[0]).lower()
        arguments = [each if isinstance(each, bytes) else str(each).encode() for each in command[1:]]
        _time.clock, before = self._clock, _time.clock
        try:
            self.note(name, arguments)
            return self._socket.execute(name, arguments, self._clock() / 1000)
        finally:
            _time.clock = before


class Link:
    """What lies between a client and the store. This one does nothing; faults are made of others."""

    async def request(self, commands: Sequence[Sequence[Argument]]) -> None:
        """Called before commands are executed; what it raises, the client gets instead of answers."""


class _Wire:
    """Carries commands to the store."""

    def __init__(self, store: FakeStore, link: Link, watch: Callable[[Iterable[bytes]], None]) -> None:
        self._store = store
        self._link = link
        self._watch = watch

    async def exchange(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Every command's answer, or its error."""
        await self._link.request(commands)
        return [self._execute(command) for command in commands]

    def _execute(self, command: Sequence[Argument]) -> Any:
        name = str(command[0]).upper()
        if name in ("XREAD", "XREADGROUP"):
            at = command.index("STREAMS") + 1
            streams = command[at : at + (len(command) - at) // 2]
            self._watch(each.encode() if isinstance(each, str) else bytes(each) for each in streams)
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
    news: bool = False
    changed: anyio.Event | None = None

    def wake(self) -> None:
        self.news = True
        if self.changed is not None:
            self.changed.set()


class FakeConnection(Connection):
    """One process's connection to a :class:`FakeStore`.

    It does not hold a read at the store, but :meth:`wait_for_change` wakes a reader when one of the
    streams that it has read gets something new, and after ``look`` seconds at the latest.
    """

    def __init__(self, store: FakeStore, link: Link | None = None, look: float = 30.0) -> None:
        self._store = store
        self._look = look
        self._readers: WeakKeyDictionary[asyncio.Task[Any], _Reader] = WeakKeyDictionary()
        super().__init__(_Wire(store, link or Link(), self._watch))
        store.watch(self.on_news)

    async def close(self) -> None:
        """Take no notice of the store any more."""
        self._store.unwatch(self.on_news)

    def _me(self) -> _Reader:
        task = asyncio.current_task()
        assert task is not None
        if task not in self._readers:
            self._readers[task] = _Reader()
        return self._readers[task]

    def _watch(self, streams: Iterable[bytes]) -> None:
        reader = self._me()
        reader.streams.update(streams)
        reader.news = False

    def on_news(self, stream: bytes) -> None:
        """A stream is about to get something new."""
        for reader in list(self._readers.values()):
            if stream in reader.streams:
                reader.wake()

    def announce_change(self) -> None:
        """Nothing: the store tells of its changes itself."""

    def wake(self) -> None:
        """Let everybody who waits for a change look again."""
        for reader in list(self._readers.values()):
            reader.wake()

    async def wait_for_change(self, seconds: float) -> None:
        """Wait until something new may be read. ``seconds`` would be for polling, and that is not needed."""
        reader = self._me()
        if not reader.news:
            reader.changed = anyio.Event()
            with anyio.move_on_after(self._look):
                await reader.changed.wait()
            reader.changed = None
        reader.news = False
