"""A server in memory, for tests: fakeredis under a clock of its own, called without a socket between.

A command is one Python call: nothing is awaited, so what runs on such a store runs in an order that does
not depend on the machine. Scripts are compiled once per process and not once per call, which makes the
commit gate a hundred times faster than through fakeredis alone. What is asked all the time (has a stream
anything new, what is in a hash) is asked of fakeredis's streams and hashes without the ceremony around.

This is the one module that touches what fakeredis keeps to itself: the object that stands for a client's
connection, what it keeps its data in, and the module ``time`` that it looks at.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, TypeAlias, cast

from redis import Redis

from choreo.broker.clock import Clock
from choreo.broker.connection import Argument, load_script
from choreo.errors import ConfigurationError

try:
    import lupa.lua51 as lua  # type: ignore[import-untyped]
    from fakeredis import FakeServer, _msgs
    from fakeredis._core import CommandItem
    from fakeredis._helpers import SimpleError
    from fakeredis._socket._fakesocket import FakeSocket
    from fakeredis._socket._resp import convert_to_resp2
    from fakeredis.model import Hash, StreamEntryKey, XStream
except ImportError as error:
    raise ConfigurationError(
        f"choreo.testing needs fakeredis with Lua, 2.40 or newer: pip install 'choreo[testing]' ({error})"
    ) from error

#: Commands whose second word belongs to their name.
_TWO_WORDS = frozenset({"client", "config", "object", "script", "xgroup", "xinfo"})
#: Is called with the key of a stream, and with the name of a group if it is new for that group alone.
Watcher: TypeAlias = Callable[[bytes, bytes | None], None]
#: Types of answers that are the same whoever gets them.
_PLAIN = frozenset({bytes, int})


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
        self._db.time = now
        with self._server.lock:
            if name == "evalsha":
                return self._answer(self._evaluate(arguments))
            result = _SHORT_WAYS[name](self, arguments) if name in _SHORT_WAYS else NotImplemented
            if result is NotImplemented:
                try:
                    result = self._run(name, arguments)
                except SimpleError as error:
                    result = error
        return self._answer(result)

    def _answer(self, result: Any) -> Any:
        answer = self._decode_result(result)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _run(self, name: str, arguments: Sequence[bytes], *, from_script: bool = False) -> Any:
        """Run a command as fakeredis does, but tell nobody of changed keys: there is nobody to tell.

        Raises:
            SimpleError: if there is no such command. Any other error is returned.
        """
        if name in _TWO_WORDS and arguments:
            name, arguments = f"{name} {arguments[0].decode().lower()}", arguments[1:]
        function, signature = self._name_to_func(name)
        items: Sequence[CommandItem] = ()
        try:
            applied = signature.apply(arguments, self._db, self.version)
            if from_script and _msgs.FLAG_NO_SCRIPT in signature.flags:
                raise SimpleError(_msgs.COMMAND_IN_SCRIPT_MSG)
            if len(applied) == 1:
                return applied[0]
            values, items = applied
            result = cast(Callable[..., Any], function)(*values)
            if type(result) not in _PLAIN and _msgs.FLAG_SKIP_CONVERT_TO_RESP2 not in signature.flags:
                result = convert_to_resp2(result)
        except SimpleError as error:
            result = error
        for item in items:
            item.writeback(remove_empty_val=_msgs.FLAG_LEAVE_EMPTY_VAL not in signature.flags)
        return result

    # -- scripts -----------------------------------------------------------------------------------

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
        """The answer to a command of a script, as Lua has it."""
        name = _name_of(command[0])
        arguments = [each if type(each) is bytes else f"{each:.17g}".encode() for each in command[1:]]
        if name in _LOOKS:
            quick = _LOOKS[name](self, arguments)
            if quick is not None:
                return quick
        self._store.note(name, arguments)
        result = self._run(name, arguments, from_script=True)
        return result if type(result) in _PLAIN else self._convert_redis_result(runtime, result)

    # -- what is asked most often, without the ceremony --------------------------------------------

    def _look_type(self, arguments: list[bytes]) -> Any:
        """The answer to TYPE, as Lua has it."""
        item = self._db.get(arguments[0])
        kind = type(None if item is None else item.value)
        if kind not in _KINDS:
            _KINDS[kind] = self.type_cmd(CommandItem(arguments[0], self._db, item=item)).value
        return _scripts.status(_KINDS[kind])

    def _look_one(self, arguments: list[bytes]) -> Any:
        """The answer to HGET, as Lua has it; ``None`` where it is an error."""
        found = self._values(arguments)
        return found[0] if found is not None and len(found) == 1 else None

    def _look_many(self, arguments: list[bytes]) -> Any:
        """The answer to HMGET, as Lua has it; ``None`` where it is an error."""
        found = self._values(arguments)
        return _scripts.runtime.table_from(found) if found else None

    def _values(self, arguments: list[bytes]) -> list[Any] | None:
        item = self._db.get(arguments[0])
        if item is None:
            return [False] * (len(arguments) - 1)
        if not isinstance(item.value, Hash):
            return None
        values = [item.value.get(each) for each in arguments[1:]]
        return [False if each is None else each for each in values]

    def _tell(self, arguments: list[bytes]) -> Any:
        """The answer to INFO, which fakeredis does not have: the version that it follows."""
        return f"redis_version:{'.'.join(map(str, self.version))}\r\n".encode()

    def _read_group(self, arguments: list[bytes]) -> Any:
        """The answer to ``XREADGROUP GROUP g c COUNT n STREAMS s.. >..``."""
        keys, positions = _halves(arguments[6:])
        if arguments[3:6:2] != [b"COUNT", b"STREAMS"] or set(positions) != {b">"}:
            return NotImplemented
        groups = []
        for key in keys:
            item = self._db.get(key)
            if item is not None and not isinstance(item.value, XStream):
                return SimpleError(_msgs.WRONGTYPE_MSG)
            group = item.value.group_get(arguments[1]) if item is not None else None
            if group is None:
                names = key.decode(), arguments[1].decode()
                return SimpleError(_msgs.XREADGROUP_KEY_OR_GROUP_NOT_FOUND_MSG.format(*names))
            groups.append(group)
        consumer, count = arguments[2], int(arguments[4])
        read = [group.group_read(consumer, b">", count, False) for group in groups]
        return [[key, entries] for key, entries in zip(keys, read, strict=True) if entries] or None

    def _read_behind(self, arguments: list[bytes]) -> Any:
        """The answer to ``XREAD COUNT n STREAMS s.. id..``, if all of these are streams."""
        keys, positions = _halves(arguments[3:])
        if arguments[0:3:2] != [b"COUNT", b"STREAMS"] or b"$" in positions or len(keys) < len(positions):
            return NotImplemented
        items = [item for key in keys if (item := self._db.get(key)) is not None]
        if len(items) < len(keys) or not all(isinstance(item.value, XStream) for item in items):
            return NotImplemented
        found, count = [], int(arguments[1])
        for key, item, position in zip(keys, items, positions, strict=True):
            entries = item.value.stream_read(StreamEntryKey.parse_str(position), count)
            if entries:
                found.append([key, [item.value.format_record(each) for each in entries]])
        return found or None


@cache
def _name_of(word: bytes) -> str:
    return word.decode().lower()


def _halves(arguments: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    middle = len(arguments) // 2
    return arguments[:middle], arguments[middle:]


#: Commands that take a shorter way than through fakeredis, and what scripts look at by one.
_SHORT_WAYS = {"info": _Socket._tell, "xread": _Socket._read_behind, "xreadgroup": _Socket._read_group}
#: Type of what fakeredis keeps -> what TYPE says of it.
_KINDS: dict[type, bytes] = {}
_LOOKS = {"type": _Socket._look_type, "hget": _Socket._look_one, "hmget": _Socket._look_many}


class FakeStore:
    """The data of one server. ``clock`` is its time, in milliseconds since the epoch."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        server = FakeServer()
        server.script_cache = dict(_known_scripts())
        self._socket = _Socket(self, server)
        self._watchers: list[Watcher] = []
        self.added: list[tuple[bytes, list[bytes]]] = []
        """Every entry that was added, whatever became of it: its stream's key, and its fields."""

    def watch(self, watcher: Watcher) -> None:
        """Have ``watcher`` called for each stream that gets something new to read."""
        self._watchers.append(watcher)

    def unwatch(self, watcher: Watcher) -> None:
        """The reverse of :meth:`watch`."""
        if watcher in self._watchers:
            self._watchers.remove(watcher)

    def note(self, name: str, arguments: Sequence[bytes]) -> None:
        """A command is about to run: tell whoever waits for what it may bring."""
        group = None
        if name == "xadd":
            key, at = arguments[0], arguments.index(b"*") if b"*" in arguments else 1
            self.added.append((key, list(arguments[at + 1 :])))
        elif name == "xgroup":
            _, key, group, *_ = arguments
        else:
            return
        for watcher in self._watchers:
            watcher(key, group)

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
