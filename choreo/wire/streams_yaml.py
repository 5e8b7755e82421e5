"""Reading streams.yaml: text to :class:`Topology`, or every fault at once with its line.

The shape of the file is checked by :mod:`choreo.wire.nodes`; here stands what it may say.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import yaml

from choreo.errors import ConfigurationError, Fault
from choreo.model.policy import Policy
from choreo.wire.limits import MAX_PARTITIONS
from choreo.wire.nodes import Entry, Reader, is_a, line_of, quote, suggest
from choreo.wire.policy_yaml import read_defaults
from choreo.wire.topology import DEFAULT_POLICY, SagaType, Topology

DEFAULT_PARTITIONS = 8
#: How ``streams.yaml`` and the command line name a participant in code.
IMPORT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*")

_SECTIONS = ("namespace", "partitions", "redis", "defaults", "streams", "participants", "sagas")
_SAGA_KEYS = ("starts_with", "completes_with", "aborts_with")
#: Words of a later version. Accepting them would promise what nobody keeps.
_LATER = ("deadline", "expects", "keep")


def load(path: Path | str) -> Topology:
    """Read the ``streams.yaml`` at ``path``.

    Raises:
        ConfigurationError: if it cannot be read or anything in it is wrong. ``faults`` has every
            fault, in the order of their lines.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        _refuse(path, "there is no such file; run this where your streams.yaml is, or give its path")
    except IsADirectoryError:
        _refuse(path, "this is a directory; give the path of the streams.yaml in it")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        _refuse(f"{path}:{line}", "this is not UTF-8; save the file with that encoding")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        _refuse(path, f"it cannot be read: {reason}; check the path and its permissions")
    return parse(text, path)


def parse(text: str, source: Path | None = None) -> Topology:
    """Read the text of a ``streams.yaml``; ``source`` is the file it came from.

    Raises:
        ConfigurationError: as for :func:`load`.
    """
    reader = Reader(str(source) if source else "<text>")
    root = reader.compose(text)
    topology = _Sections(reader, root, source).read()
    reader.stop_if_faulty()
    return topology


def _refuse(where: Path | str, what: str) -> NoReturn:
    raise ConfigurationError([Fault(str(where), what)]) from None


class _Sections:
    """The sections of the file, read in an order that lets later ones refer to earlier ones."""

    def __init__(self, reader: Reader, root: yaml.Node, source: Path | None) -> None:
        self.reader = reader
        self.root = root
        self.source = source
        self.entries = reader.mapping(root, "the file", "namespace: shop")
        reader.known(self.entries, _SECTIONS, "the file")
        self.lines: dict[str, int] = {}

    def read(self) -> Topology:
        streams = self._streams()
        return Topology(
            namespace=self._namespace(),
            partitions=self._partitions(),
            streams=streams,
            participants=self._participants(),
            sagas=self._sagas({event for events in streams.values() for event in events}),
            defaults=self._defaults(),
            redis=self._redis(),
            source=self.source,
            lines=self.lines,
        )

    def _required(self, key: str, example: str) -> yaml.Node | None:
        if key in self.entries:
            return self.entries[key].value
        if is_a(self.root, "map"):
            self.reader.fault(self.root, f"`{key}` is missing; add it, for example `{example}`")
        return None

    def _namespace(self) -> str:
        node = self._required("namespace", "namespace: shop")
        return (node and self.reader.name(node, "namespace")) or ""

    def _partitions(self) -> int:
        if "partitions" not in self.entries:
            return DEFAULT_PARTITIONS
        node = self.entries["partitions"].value
        value = str(node.value) if is_a(node, "int") else ""
        if re.fullmatch("[1-9][0-9]{0,5}", value) and int(value) <= MAX_PARTITIONS:
            return int(value)
        self.reader.fault(node, f"`partitions` must be a whole number from 1 to {MAX_PARTITIONS:,}")
        return DEFAULT_PARTITIONS

    def _defaults(self) -> Policy:
        if "defaults" not in self.entries:
            return DEFAULT_POLICY
        return read_defaults(self.reader, self.entries["defaults"].value, DEFAULT_POLICY)

    def _redis(self) -> str | None:
        if "redis" not in self.entries:
            return None
        node = self.entries["redis"].value
        if is_a(node, "str") and _is_server_url(node.value):
            return str(node.value)
        # The value may hold a password: no part of it is shown.
        self.reader.fault(
            node, "`redis` must be a URL: `redis://host:6379/0`, `rediss://host:6379/0` or `unix:///path/to.sock`"
        )
        return None

    def _streams(self) -> dict[str, tuple[str, ...]]:
        example = "streams: {orders: {events: [OrderPlaced]}}"
        node = self._required("streams", example)
        if node is None:
            return {}
        entries = self.reader.mapping(node, "`streams`", example)
        if is_a(node, "map") and not node.value:
            self.reader.fault(node, f"`streams` has no streams; add one, for example `{example}`")
        carriers: dict[str, tuple[str, int]] = {}
        streams = {}
        for entry in entries.values():
            self.reader.name(entry.node, "stream name")
            self.lines[f"stream:{entry.name}"] = line_of(entry.node)
            events = self._stream_events(entry)
            streams[entry.name] = tuple(events)
            for event, node in events.items():
                self._carry(entry.name, event, node, carriers)
        return streams

    def _stream_events(self, entry: Entry) -> dict[str, yaml.Node]:
        reader, label = self.reader, f"stream {quote(entry.name)}"
        keys = reader.mapping(entry.value, label, "{events: [OrderPlaced]}")
        reader.known(keys, ("events",), label)
        if "events" not in keys:
            if is_a(entry.value, "map"):
                reader.fault(entry.node, f"{label} carries nothing; add `events: [OrderPlaced]`")
            return {}
        value = keys["events"].value
        if is_a(value, "seq") and not value.value:
            reader.fault(value, f"`events` of {label} is empty; list the event types that it carries")
        return reader.events(value, f"`events` of {label}")

    def _carry(self, stream: str, event: str, node: yaml.Node, carriers: dict[str, tuple[str, int]]) -> None:
        if event in carriers:
            other, line = carriers[event]
            self.reader.fault(
                node, f"{event} is carried by stream {quote(stream)} here and by {quote(other)} in line"
                f" {line}; an event type belongs to one stream"
            )
            return
        carriers[event] = (stream, line_of(node))
        self.lines[f"event:{event}"] = line_of(node)

    def _optional(self, key: str, example: str) -> dict[str, Entry]:
        if key not in self.entries:
            return {}
        entry = self.entries[key]
        if is_a(entry.value, "null"):
            self.reader.fault(entry.node, f"`{key}` is empty; fill it in, `{example}`, or leave it out")
            return {}
        return self.reader.mapping(entry.value, f"`{key}`", example)

    def _participants(self) -> dict[str, str]:
        found = {}
        for entry in self._optional("participants", "payments: participants.payments:payments").values():
            self.reader.name(entry.node, "participant name")
            self.lines[f"participant:{entry.name}"] = line_of(entry.node)
            spec = self.reader.text(entry.value, f"participant {quote(entry.name)}")
            if spec is not None and not is_import(spec):
                self.reader.fault(
                    entry.value, f"participant {quote(entry.name)} is {quote(spec)}; write where it is in the"
                    " code as `package.module:attribute`"
                )
            found[entry.name] = spec or ""
        return found

    def _sagas(self, carried: set[str]) -> dict[str, SagaType]:
        example = "order: {starts_with: OrderPlaced, completes_with: [OrderShipped]}"
        starts: dict[str, tuple[str, int]] = {}
        sagas = {}
        for entry in self._optional("sagas", example).values():
            self.reader.name(entry.node, "saga name")
            self.lines[f"saga:{entry.name}"] = line_of(entry.node)
            saga = _Saga(self.reader, entry)
            saga.check_ends()
            saga.check_carried(carried)
            saga.check_starts(starts)
            sagas[entry.name] = saga.build()
        return sagas


class _Saga:
    """One entry of ``sagas``."""

    def __init__(self, reader: Reader, entry: Entry) -> None:
        self.reader = reader
        self.entry = entry
        self.label = f"saga {quote(entry.name)}"
        keys = reader.mapping(entry.value, self.label, "{starts_with: ..., completes_with: [...]}")
        for word in [word for word in _LATER if word in keys]:
            reader.fault(
                keys.pop(word).node, f"this version does not enforce `{word}` yet, so it must not be there;"
                " take it out"
            )
        reader.known(keys, _SAGA_KEYS, self.label)
        self.starts = self._events(keys, "starts_with", or_one=True)
        self.completes_when_all = False
        self.completes = self._completes(keys)
        self.aborts = self._events(keys, "aborts_with", required=False)

    def _events(
        self, keys: Mapping[str, Entry], key: str, *, or_one: bool = False, required: bool = True
    ) -> dict[str, yaml.Node]:
        if key in keys:
            value = keys[key].value
            if required and is_a(value, "seq") and not value.value:
                self.reader.fault(value, f"`{key}` of {self.label} is empty; list at least one event type")
            return self.reader.events(value, f"`{key}` of {self.label}", or_one=or_one)
        if required and is_a(self.entry.value, "map"):
            example = "OrderPlaced" if or_one else "[OrderShipped]"
            self.reader.fault(self.entry.node, f"{self.label} has no `{key}`; add `{key}: {example}` or so")
        return {}

    def _completes(self, keys: Mapping[str, Entry]) -> dict[str, yaml.Node]:
        key = "completes_with"
        if key in keys and is_a(keys[key].value, "map"):
            label = f"`{key}` of {self.label}"
            keys = self.reader.mapping(keys[key].value, label, "{all: [OrderShipped, OrderBilled]}")
            self.reader.known(keys, ("all",), label)
            self.completes_when_all, key = True, "all"
        return self._events(keys, key)

    def check_ends(self) -> None:
        for event in sorted(self.completes.keys() & self.aborts.keys()):
            line = line_of(self.completes[event])
            self.reader.fault(
                self.aborts[event], f"{event} aborts {self.label} here and completes it in line {line};"
                " it can do only one of them"
            )
        for event in sorted(self.starts.keys() & (self.completes.keys() | self.aborts.keys())):
            node = self.completes.get(event) or self.aborts[event]
            self.reader.fault(node, f"{event} starts {self.label}, so it cannot end it; name a later event")

    def check_carried(self, carried: set[str]) -> None:
        # Without any stream that fault stands already; one more for each event would hide it.
        for event, node in [*self.starts.items(), *self.completes.items(), *self.aborts.items()]:
            if carried and event not in carried:
                right = suggest(event, carried) or "; add it to `events` of the stream that should carry it"
                self.reader.fault(node, f"no stream carries {event}, which {self.label} names{right}")

    def check_starts(self, starts: dict[str, tuple[str, int]]) -> None:
        for event, node in self.starts.items():
            if event in starts:
                other, line = starts[event]
                self.reader.fault(
                    node, f"{event} starts {self.label} here and saga {quote(other)} in line {line};"
                    " an event type starts one kind of saga"
                )
            else:
                starts[event] = (self.entry.name, line_of(node))

    def build(self) -> SagaType:
        return SagaType(
            name=self.entry.name,
            starts_with=frozenset(self.starts),
            completes_with=frozenset(self.completes),
            completes_when_all=self.completes_when_all,
            aborts_with=frozenset(self.aborts),
            line=line_of(self.entry.node),
        )


def is_import(spec: str) -> bool:
    """Whether ``spec`` has the form ``package.module:attribute``."""
    return bool(IMPORT.fullmatch(spec)) and not any(map(keyword.iskeyword, re.split("[.:]", spec)))


def _is_server_url(text: str) -> bool:
    if not text.isprintable() or " " in text:
        return False
    try:
        url = urlsplit(text)
        _ = url.port
    except ValueError:
        return False
    if text.startswith("unix://"):
        return len(url.path) > 1
    return text.startswith(("redis://", "rediss://")) and re.fullmatch("(/[0-9]*)?", url.path) is not None
