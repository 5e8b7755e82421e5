"""Taking YAML apart as nodes, with a line for every fault.

Nodes, unlike Python values, know where they stand, keep duplicate keys apart, and build nothing from
what the file says.
"""

from __future__ import annotations

import difflib
import keyword
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import yaml
import yaml.reader

from choreo.errors import ConfigurationError, Fault
from choreo.model.event import NAME
from choreo.wire.limits import MAX_NAME_CHARACTERS

#: libyaml's parser is used where PyYAML was built with it.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
#: Deeper than any right file nests. Composing deep nesting recurses, in C without a guard.
_MAX_DEPTH = 32
_TOO_DEEP = f"this nests deeper than {_MAX_DEPTH} levels; nothing here needs that"
_TAG = "tag:yaml.org,2002:"
_CREDENTIALS = re.compile("//.*@", re.DOTALL)
_KINDS = {
    "str": "text",
    "int": "a number",
    "float": "a number",
    "bool": "true or false",
    "null": "nothing",
    "map": "a mapping",
    "seq": "a list",
    "timestamp": "a date",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One ``name: value`` of a mapping."""

    name: str
    node: yaml.Node
    """The node of the name: where the entry stands."""
    value: yaml.Node


class Reader:
    """Takes nodes apart into the few shapes that the file has, and collects faults on the way."""

    def __init__(self, where: str) -> None:
        self.where = where
        self._faults: list[tuple[int, str]] = []

    def fault(self, at: yaml.Node | int, what: str) -> None:
        """Report that ``what`` is wrong at a node or in a line, and go on."""
        self._faults.append((at if isinstance(at, int) else line_of(at), what))

    def refuse(self, at: yaml.Node | int, what: str) -> NoReturn:
        """Report a fault after which nothing else can be read."""
        self.fault(at, what)
        raise self._error()

    def stop_if_faulty(self) -> None:
        """Raise :class:`ConfigurationError` if there was any fault."""
        if self._faults:
            raise self._error()

    def _error(self) -> ConfigurationError:
        ordered = sorted(self._faults, key=lambda fault: fault[0])
        return ConfigurationError([Fault(f"{self.where}:{line}", what) for line, what in ordered])

    def compose(self, text: str) -> yaml.Node:
        """The root node of ``text``, which is one YAML document without aliases."""
        unprintable = yaml.reader.Reader.NON_PRINTABLE.search(text)
        if unprintable:
            line = text.count("\n", 0, unprintable.start()) + 1
            self.refuse(line, f"character {unprintable.group()!a} cannot stand in YAML; take it out")
        try:
            self._check_events(text)
            root = yaml.compose(text, Loader=_LOADER)
        except yaml.MarkedYAMLError as error:
            self.refuse(*_syntax_fault(error, len(text.splitlines())))
        if root is None:
            self.refuse(1, "the file is empty; it needs at least `namespace` and `streams`")
        return root

    def _check_events(self, text: str) -> None:
        depth = 0
        event: Any
        for event in yaml.parse(text, Loader=_LOADER):
            line = event.start_mark.line + 1
            if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                self.fault(line, "anchors (&) and aliases (*) are not allowed; write the value out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > _MAX_DEPTH:
                self.refuse(line, _TOO_DEEP)
        self.stop_if_faulty()

    def mapping(self, node: yaml.Node, label: str, shape: str) -> dict[str, Entry]:
        """The entries of a mapping. ``label`` is what messages call it, ``shape`` what would be right."""
        if not is_a(node, "map"):
            self.fault(node, f"{label} must be a mapping, `{shape}`; this is {_kind(node)}")
            return {}
        entries: dict[str, Entry] = {}
        for key, value in node.value:
            name = self.text(key, f"a key of {label}")
            if name is None:
                continue
            if name in entries:
                first = line_of(entries[name].node)
                self.fault(key, f"{quote(name)} is in {label} already, in line {first}; keep one of them")
            else:
                entries[name] = Entry(name, key, value)
        return entries

    def known(self, entries: Mapping[str, Entry], allowed: Iterable[str], label: str) -> None:
        """Report the entries that are not ``allowed``."""
        for entry in entries.values():
            if entry.name not in allowed:
                right = suggest(entry.name, allowed) or f"; known here: {', '.join(allowed)}"
                self.fault(entry.node, f"unknown key {quote(entry.name)} in {label}{right}")

    def text(self, node: yaml.Node, label: str) -> str | None:
        """The text of a scalar, or ``None`` and a fault."""
        if is_a(node, "str"):
            return str(node.value)
        kind = _kind(node)
        if isinstance(node, yaml.ScalarNode) and node.value:
            self.fault(node, f"{label} must be text; YAML reads {quote(node.value)} as {kind}: quote it")
        else:
            self.fault(node, f"{label} must be text; this is {kind}")
        return None

    def name(self, node: yaml.Node, label: str) -> str | None:
        """Text that may become part of a key."""
        name = self.text(node, label)
        if name is not None and not NAME.fullmatch(name):
            self.fault(
                node, f"{label} {quote(name)} must match {NAME.pattern}: lower case letters, digits, `.`,"
                " `_` and `-`, at most 64 of them"
            )
            return None
        return name

    def events(self, node: yaml.Node, label: str, *, or_one: bool = False) -> dict[str, yaml.Node]:
        """A list of event types (or, with ``or_one``, a single one) and where each stands."""
        if or_one and is_a(node, "str"):
            members = [node]
        elif is_a(node, "seq"):
            members = node.value
        else:
            one = " or one event type" if or_one else ""
            self.fault(
                node, f"{label} must be a list of event types{one}, like `[OrderPlaced]`;"
                f" this is {_kind(node)}"
            )
            return {}
        found: dict[str, yaml.Node] = {}
        for member in members:
            name = self.text(member, f"an event type in {label}")
            if name is None or not self._is_event_name(member, name):
                continue
            if name in found:
                self.fault(member, f"{name} is listed twice in {label}; keep one")
            found.setdefault(name, member)
        return found

    def _is_event_name(self, node: yaml.Node, name: str) -> bool:
        if not name.isidentifier() or keyword.iskeyword(name):
            self.fault(node, f"{quote(name)} is not an event type: it must be the name of a Python class")
            return False
        if len(name) > MAX_NAME_CHARACTERS:
            self.fault(
                node, f"event type {quote(name)} has {len(name)} characters; at most {MAX_NAME_CHARACTERS}"
            )
            return False
        return True


def line_of(node: yaml.Node) -> int:
    """The line, counted from 1, where a node begins."""
    return int(node.start_mark.line) + 1


def is_a(node: yaml.Node, kind: str) -> bool:
    """Whether YAML reads ``node`` as a ``kind``: ``str``, ``int``, ``null``, ``map``, ``seq``."""
    shapes = {"map": yaml.MappingNode, "seq": yaml.SequenceNode}
    return isinstance(node, shapes.get(kind, yaml.ScalarNode)) and node.tag == _TAG + kind


def quote(text: str) -> str:
    """``text`` from outside, for a message: short, printable, and without a URL's password."""
    text = _CREDENTIALS.sub("//***@", text)
    return f"`{text}`" if text.isprintable() and 0 < len(text) <= 80 else f"{text[:80]!r}"


def suggest(word: str, known: Iterable[str]) -> str:
    """``; did you mean ...?``, or nothing if no known word is near."""
    near = difflib.get_close_matches(word, sorted(known), 1)
    return f"; did you mean `{near[0]}`?" if near else ""


def _syntax_fault(error: yaml.MarkedYAMLError, lines: int) -> tuple[int, str]:
    line = min(getattr(error.problem_mark, "line", 0) + 1, lines)
    if error.problem == "exceeded maximum nesting depth":  # libyaml reads ahead, and has a limit of its own
        return line, _TOO_DEEP
    context = error.context or ""
    if error.context_mark and error.context_mark.line + 1 < line:
        context += f" that begins in line {error.context_mark.line + 1}"
    return line, f"this is not YAML: {context}{': ' if context else ''}{error.problem}"


def _kind(node: yaml.Node) -> str:
    short = str(node.tag).removeprefix(_TAG)
    return _KINDS.get(short, f"of the type {quote(str(node.tag))}")
