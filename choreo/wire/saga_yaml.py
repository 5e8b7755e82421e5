"""One entry of the ``sagas`` of streams.yaml: how a kind of saga begins and ends, and for how long."""

from __future__ import annotations

from collections.abc import Mapping

import yaml

from choreo.model.deadlines import Deadlines, Expectation
from choreo.model.event import OWN_EVENTS
from choreo.wire.limits import MAX_DEADLINE_DAYS
from choreo.wire.nodes import Entry, Reader, is_a, line_of, quote, suggest
from choreo.wire.policy_yaml import read_duration
from choreo.wire.topology import SagaType

_SAGA_KEYS = ("starts_with", "completes_with", "aborts_with", "deadline", "expects", "keep")
_EXPECTS_KEYS = ("after", "within", "one_of")
_EXAMPLE = "{after: OrderPlaced, within: 30s, one_of: [PaymentCaptured]}"


def read_saga(
    reader: Reader, entry: Entry, carried: set[str], starts: dict[str, tuple[str, int]]
) -> SagaType:
    """One kind of saga. Faults go to ``reader``.

    ``carried`` are the event types that streams carry. ``starts`` says which event types start which saga
    in which line; those of this one are added.
    """
    saga = _Saga(reader, entry)
    saga.check_ends()
    saga.check_expects()
    saga.check_carried(carried)
    saga.check_starts(starts)
    return saga.build()


class _Saga:
    """One entry of ``sagas``."""

    def __init__(self, reader: Reader, entry: Entry) -> None:
        self.reader = reader
        self.entry = entry
        self.label = f"saga {quote(entry.name)}"
        keys = reader.mapping(entry.value, self.label, "{starts_with: ..., completes_with: [...]}")
        reader.known(keys, _SAGA_KEYS, self.label)
        self.starts = self._events(keys, "starts_with", or_one=True)
        self.completes_when_all = False
        self.completes = self._completes(keys)
        self.aborts = self._events(keys, "aborts_with", required=False)
        self.deadline = _milliseconds(reader, keys.get("deadline"), f"`deadline` of {self.label}")
        self.keep = read_duration(reader, keys.get("keep"), f"`keep` of {self.label}")
        self.expects = self._read_expects(keys["expects"]) if "expects" in keys else []

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

    def _read_expects(self, entry: Entry) -> list[_Expected]:
        label = f"`expects` of {self.label}"
        if not is_a(entry.value, "seq"):
            self.reader.fault(entry.value, f"{label} must be a list, like `[{_EXAMPLE}]`")
            return []
        if not entry.value.value:
            self.reader.fault(entry.value, f"{label} is empty; fill it in, `[{_EXAMPLE}]`, or leave it out")
        return [_Expected(self.reader, node, label) for node in entry.value.value]

    def check_expects(self) -> None:
        """Report what can never be met or never be waited for, and what stands there twice."""
        ends = self.aborts.keys() | (set() if self.completes_when_all else self.completes.keys())
        seen: dict[tuple[frozenset[str], frozenset[str]], int] = {}
        for each in self.expects:
            for event, node in each.after.items():
                if event in ends:
                    self.reader.fault(node, f"{event} ends {self.label}; nothing can be expected after it")
                if event in each.one_of:
                    self.reader.fault(each.one_of[event], f"{event} is expected after itself; take it out")
            what = frozenset(each.after), frozenset(each.one_of)
            if all(what) and what in seen:
                self.reader.fault(
                    each.node, f"this is expected already, in line {seen[what]}; keep one of them"
                )
            seen.setdefault(what, line_of(each.node))

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
        named = [*self.starts.items(), *self.completes.items(), *self.aborts.items()]
        for each in self.expects:
            named += [*each.after.items(), *each.one_of.items()]
        for event, node in named:
            if event in OWN_EVENTS:
                self.reader.fault(
                    node, f"{event} is choreo's own event: {self.label} unwinds when it comes; take it out"
                )
            elif carried and event not in carried:
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
            deadlines=Deadlines(self.deadline, tuple(each.build() for each in self.expects)),
            keep=self.keep,
            line=line_of(self.entry.node),
        )


class _Expected:
    """One entry of ``expects``."""

    def __init__(self, reader: Reader, node: yaml.Node, label: str) -> None:
        self.node = node
        label = f"an entry of {label}"
        keys = reader.mapping(node, label, _EXAMPLE)
        reader.known(keys, _EXPECTS_KEYS, label)
        if is_a(node, "map"):
            for missing in [key for key in _EXPECTS_KEYS if key not in keys]:
                reader.fault(node, f"{label} has no `{missing}`; write it like `{_EXAMPLE}`")
        self.within = _milliseconds(reader, keys.get("within"), f"`within` of {label}")
        self.after = self._event(reader, keys.get("after"), f"`after` of {label}")
        self.one_of: dict[str, yaml.Node] = {}
        if "one_of" in keys:
            value = keys["one_of"].value
            if is_a(value, "seq") and not value.value:
                reader.fault(value, f"`one_of` of {label} is empty; list at least one event type")
            self.one_of = reader.events(value, f"`one_of` of {label}", or_one=True)

    def _event(self, reader: Reader, entry: Entry | None, label: str) -> dict[str, yaml.Node]:
        if entry is None:
            return {}
        if not is_a(entry.value, "str"):
            reader.fault(entry.value, f"{label} must be one event type, like `OrderPlaced`")
            return {}
        return reader.events(entry.value, label, or_one=True)

    def build(self) -> Expectation:
        return Expectation(next(iter(self.after), ""), self.within or 0, tuple(self.one_of))


def _milliseconds(reader: Reader, entry: Entry | None, label: str) -> int | None:
    seconds = read_duration(reader, entry, label)
    if entry is not None and seconds is not None and seconds > MAX_DEADLINE_DAYS * 86_400:
        reader.fault(entry.value, f"{label} must be at most {MAX_DEADLINE_DAYS} days")
        return None
    return None if seconds is None else max(1, round(seconds * 1000))
