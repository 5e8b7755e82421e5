"""From entries of one partition to what is to be written: facts, views, listings and dead letters."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from choreo.broker.gate import Letter
from choreo.broker.projections import Batch, Entry, Listing, Update
from choreo.model.deadlines import Due, next_due
from choreo.model.facts import Fact, Kind, View, add, decode_fact, encode_fact, encode_view, project
from choreo.wire.envelope import Malformed, refusal_id
from choreo.wire.facts import Place, of_event, of_journal, of_malformed, time_of
from choreo.wire.limits import MAX_ERROR_CHARACTERS, MAX_NAME_CHARACTERS
from choreo.wire.topology import Topology

#: What the caches of all partitions hold at most: about so many facts, or fewer if they have tracebacks.
#: Beyond, sagas not seen for longest are let go. At about 800 bytes each, that is 80 MB.
_CACHED = 100_000
_LEAST_CACHED = 500
#: Characters of error and traceback that weigh as much as one more fact.
_HEAVY = 500
#: Fields of a malformed entry that its dead letter keeps at most, and how many bytes of each.
_KEPT_FIELDS = 32
_KEPT_BYTES = 4_000

#: The packed facts of sagas, and of others that seem to be new.
Load = Callable[[Sequence[str], Sequence[str]], Awaitable[list[list[bytes]]]]


@dataclass(slots=True)
class _Timeline:
    """A saga's facts as projected, how it is listed, and whether one of its deadlines may be."""

    facts: dict[str, Fact] = field(default_factory=dict)
    listed: Listing | None = None
    due: bool = False
    weight: int = 0

    def add(self, facts: Iterable[Fact]) -> list[Fact]:
        """Add facts. Returns those that are news."""
        known = self.facts
        before = len(known)
        news = [fact for fact in facts if add(known, fact)]
        self.weight += len(known) - before
        for fact in news:
            if fact.detail or fact.note:
                self.weight += (len(fact.detail) + len(fact.note)) // _HEAVY
        return news


@dataclass(frozen=True, slots=True)
class Pending:
    """What is known of the next deadline of a saga."""

    saga_type: str
    due: Due | None
    """``None`` if none is pending."""
    fresh: bool
    """Whether no participant is known to have handled the saga."""


class Projector:
    """Folds entries of one partition. Keeps what it projected lately, so as not to read it again."""

    def __init__(self, topology: Topology, partition: int) -> None:
        keys = topology.keys
        self.partition = partition
        self.journal = keys.journal(partition)
        self.topics = {keys.stream(partition, name): Place(name, partition) for name in topology.streams}
        self.streams = [self.journal, *self.topics]
        self._topology = topology
        self._timelines: OrderedDict[str, _Timeline] = OrderedDict()
        self._cached = 0
        self._most = max(_LEAST_CACHED, _CACHED // topology.partitions)

    def forget(self) -> None:
        """Drop what is cached: somebody else has written meanwhile."""
        self._timelines.clear()
        self._cached = 0

    def drop(self, saga_ids: Iterable[str]) -> None:
        """Drop what is cached of sagas that are forgotten."""
        for saga_id in saga_ids:
            timeline = self._timelines.pop(saga_id, None)
            self._cached -= timeline.weight if timeline else 0

    def find(self, topic: str, entry: str) -> tuple[str, Fact] | None:
        """The saga of an entry of a topic, and the fact that it told; of those that are cached."""
        for saga_id, timeline in self._timelines.items():
            for fact in timeline.facts.values():
                if fact.entry == entry and self._topology.routes.get(fact.type) == topic:
                    return saga_id, fact
        return None

    async def fold(self, version: int, read: Mapping[str, Sequence[Entry]], load: Load) -> Batch:
        """What entries make of the sagas they tell of; ``version`` is that of what is known so far."""
        batch = Batch(self.partition, version)
        told: dict[str, list[Fact]] = {}
        for stream, entries in read.items():
            batch.after[stream] = entries[-1][0]
            for saga_id, fact in self._read_facts(stream, entries, batch.letters):
                if saga_id in told:
                    told[saga_id].append(fact)
                else:
                    told[saga_id] = [fact]
        await self._fetch(told, load)
        for saga_id, facts in told.items():
            timeline = self._timelines[saga_id]
            self._timelines.move_to_end(saga_id)
            before = timeline.weight
            news = timeline.add(facts)
            self._cached += timeline.weight - before
            if news:
                batch.updates.append(self._write(saga_id, news))
        self._trim()
        return batch

    async def remake(self, version: int, saga_ids: Sequence[str], load: Load) -> Batch:
        """Views of sagas made from what their timelines hold, because the streams do not any more."""
        batch = Batch(self.partition, version, remade=saga_ids)
        await self._fetch(dict.fromkeys(saga_ids, ()), load)
        batch.updates += [self._write(each, []) for each in saga_ids if self._timelines[each].facts]
        self._trim()
        return batch

    def _read_facts(
        self, stream: str, entries: Sequence[Entry], letters: list[Letter]
    ) -> Iterable[tuple[str, Fact]]:
        topology, place = self._topology, self.topics.get(stream)
        for entry, fields in entries:
            try:
                if place is None:
                    yield of_journal(topology, self.partition, fields, entry)
                else:
                    yield of_event(topology, place, fields, entry)
            except Malformed as malformed:
                letters.append(_letter(stream, entry, fields, malformed))
                # Elsewhere it would make a second view of its saga.
                subject = malformed.subject
                if subject and self._topology.keys.partition(subject) == self.partition:
                    yield malformed.subject, of_malformed(stream, entry, malformed)

    async def _fetch(self, told: Mapping[str, Sequence[Fact]], load: Load) -> None:
        """Have the timeline of each saga at hand, from the cache or as it was written."""
        missing = [saga_id for saga_id in told if saga_id not in self._timelines]
        if not missing:
            return
        begun: list[str] = []
        others: list[str] = []
        for saga_id in missing:
            (begun if _is_beginning(told[saga_id]) else others).append(saga_id)
        for saga_id, packed in zip([*others, *begun], await load(others, begun), strict=True):
            timeline = self._timelines[saga_id] = _Timeline()
            if packed:
                timeline.add(map(decode_fact, packed))
                # Its place in the listing is unknown: a wipe may have taken it away.
                timeline.listed = (*_listed(project(saga_id, timeline.facts))[:2], -1)
                timeline.due = True
                self._cached += timeline.weight

    def _write(self, saga_id: str, new: Sequence[Fact]) -> Update:
        timeline = self._timelines[saga_id]
        view, _ = self._view(saga_id, timeline)
        leave, timeline.listed = timeline.listed, _listed(view)
        was_due, timeline.due = timeline.due, view.deadline is not None
        return Update(
            saga_id, encode_view(view), list(map(encode_fact, new)), leave, timeline.listed,
            view.deadline, was_due,
        )  # fmt: skip

    def _view(self, saga_id: str, timeline: _Timeline) -> tuple[View, Due | None]:
        view = project(saga_id, timeline.facts)
        saga = self._topology.sagas.get(view.type)
        due = next_due(view, timeline.facts.values(), saga.deadlines) if saga else None
        return (msgspec.structs.replace(view, deadline=due.at) if due else view), due

    async def pending(self, saga_ids: Sequence[str], load: Load) -> dict[str, Pending]:
        """What is known of the next deadline of each saga."""
        await self._fetch(dict.fromkeys(saga_ids, ()), load)
        found = {}
        for saga_id in saga_ids:
            timeline = self._timelines[saga_id]
            if not timeline.facts:
                found[saga_id] = Pending("", None, fresh=False)
                continue
            view, due = self._view(saga_id, timeline)
            handled = any(fact.kind is not Kind.EVENT or fact.step for fact in timeline.facts.values())
            found[saga_id] = Pending(view.type, due, fresh=not handled)
        self._trim()
        return found

    def _trim(self) -> None:
        while self._cached > self._most and len(self._timelines) > 1:
            _, timeline = self._timelines.popitem(last=False)
            self._cached -= timeline.weight


def _is_beginning(facts: Iterable[Fact]) -> bool:
    """Whether it seems that nothing was told of this saga before: one of its facts has no cause."""
    return any(not fact.cause for fact in facts)


def _listed(view: View) -> Listing:
    return view.type, view.status.value, view.started


def _letter(stream: str, entry: str, fields: Mapping[bytes, bytes], malformed: Malformed) -> Letter:
    """The dead letter of a malformed entry: where it stood, and what can be kept of it."""
    kept: list[str | bytes | int] = [
        "reason", malformed.reason.value, "time", time_of(entry), "stream", stream, "entry", entry,
        "error", malformed.detail[:MAX_ERROR_CHARACTERS],
    ]  # fmt: skip
    if malformed.subject:
        kept += ["subject", malformed.subject, "fact", f"refused:{stream}:{entry}"]
    for name, value in list(fields.items())[:_KEPT_FIELDS]:
        kept += [b"field:" + name[:MAX_NAME_CHARACTERS], value[:_KEPT_BYTES]]
    if cut := _cut(fields):
        kept += ["cut", b" ".join(cut)]
    return Letter(refusal_id(malformed.reason, stream, entry), tuple(kept), malformed.subject)


def _cut(fields: Mapping[bytes, bytes]) -> list[bytes]:
    """The names of the fields of which a letter keeps a part only; ``*`` if it leaves some out."""
    whole = all(len(name) <= MAX_NAME_CHARACTERS and b" " not in name for name in fields)
    cut = [name for name, value in fields.items() if len(value) > _KEPT_BYTES][:_KEPT_FIELDS]
    return cut if whole and len(fields) <= _KEPT_FIELDS else [b"*"]
