"""Reading streams.yaml: text to :class:`Topology`, or every fault at once with its line.

The shape of the file is checked by :mod:`choreo.wire.nodes`; here stands what it may say.
"""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import yaml

from choreo.errors import ConfigurationError, Fault
from choreo.model.event import OWN_EVENTS
from choreo.wire.limits import DEFAULT_KEEP, MAX_PARTITIONS
from choreo.wire.nodes import Entry, Reader, is_a, line_of, quote
from choreo.wire.policy_yaml import Defaults, read_defaults, read_duration
from choreo.wire.saga_yaml import read_saga
from choreo.wire.topology import DEFAULT_POLICY, OWN_STREAM, SagaType, Topology

DEFAULT_PARTITIONS = 8
#: How ``streams.yaml`` and the command line name a participant in code.
IMPORT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*:[A-Za-z_][A-Za-z0-9_]*")

_SECTIONS = ("namespace", "partitions", "redis", "defaults", "streams", "participants", "sagas")


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
        self.keeps: dict[str, float] = {}

    def read(self) -> Topology:
        streams = self._streams()
        defaults = self._defaults()
        return Topology(
            namespace=self._namespace(),
            partitions=self._partitions(),
            streams=streams,
            participants=self._participants(),
            sagas=self._sagas({event for events in streams.values() for event in events}),
            defaults=defaults.policy,
            keep=defaults.keep,
            stream_keeps=self.keeps,
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

    def _defaults(self) -> Defaults:
        base = Defaults(DEFAULT_POLICY, DEFAULT_KEEP)
        if "defaults" not in self.entries:
            return base
        return read_defaults(self.reader, self.entries["defaults"].value, base)

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
            self._stream_name(entry)
            self.lines[f"stream:{entry.name}"] = line_of(entry.node)
            events = self._read_stream(entry)
            streams[entry.name] = tuple(events)
            for event, node in events.items():
                self._carry(entry.name, event, node, carriers)
        return streams

    def _stream_name(self, entry: Entry) -> None:
        if entry.name == OWN_STREAM:
            self.reader.fault(
                entry.node, f"{quote(OWN_STREAM)} is the stream of choreo's own events; choose another name"
            )
        else:
            self.reader.name(entry.node, "stream name")

    def _read_stream(self, entry: Entry) -> dict[str, yaml.Node]:
        reader, label = self.reader, f"stream {quote(entry.name)}"
        keys = reader.mapping(entry.value, label, "{events: [OrderPlaced]}")
        reader.known(keys, ("events", "keep"), label)
        keep = read_duration(reader, keys.get("keep"), f"`keep` of {label}")
        if keep is not None:
            self.keeps[entry.name] = keep
        if "events" not in keys:
            if is_a(entry.value, "map"):
                reader.fault(entry.node, f"{label} carries nothing; add `events: [OrderPlaced]`")
            return {}
        value = keys["events"].value
        if is_a(value, "seq") and not value.value:
            reader.fault(value, f"`events` of {label} is empty; list the event types that it carries")
        return reader.events(value, f"`events` of {label}")

    def _carry(self, stream: str, event: str, node: yaml.Node, carriers: dict[str, tuple[str, int]]) -> None:
        if event in OWN_EVENTS:
            self.reader.fault(node, f"{event} is choreo's own event, and has a stream already; take it out")
            return
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
            sagas[entry.name] = read_saga(self.reader, entry, carried, starts)
        return sagas


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
