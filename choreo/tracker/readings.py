"""Whether anybody is about to handle what sagas wait for: asked of the server, for many sagas at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from choreo.broker.broker import Broker
from choreo.broker.readers import Group, Pending, Readers, StreamState, order
from choreo.model.pause import Pause
from choreo.model.waits import Awaited, Reading, Where
from choreo.wire.topology import Topology

#: What a step or an undo is to handle was added to its stream about when its saga's facts say, in ms.
_SLACK = 10_000
#: Deliveries that are looked through for the one that is searched for.
_COUNT = 100
#: Where that is which nobody holds, if it is there at all.
_LOOSE = (Where.UNREAD, Where.HANDLED)
#: What is handled by somebody, so that it can be asked by whom.
_HANDLED = ("step", "undo", "retry")


@dataclass(frozen=True, slots=True)
class _Question:
    """Who handles this?"""

    saga_id: str
    awaited: Awaited
    stream: str
    from_topic: bool
    """The event itself, in its topic; else a request in the participant's inbox."""

    @property
    def participant(self) -> str:
        return self.awaited.handler.partition("/")[0]

    @property
    def window(self) -> tuple[str, str]:
        """The first and the last id that its entry may have."""
        if not self.from_topic:
            return "-", "+"
        return f"{max(0, self.awaited.since - _SLACK)}-0", f"{self.awaited.since + _SLACK}-{2**64 - 1}"

    def asks_for(self, fields: Mapping[bytes, bytes]) -> bool:
        """Whether this is the entry."""
        if fields.get(b"subject") != self.saga_id.encode():
            return False
        return not self.from_topic or fields.get(b"id") == self.awaited.event.encode()


async def look_up(
    topology: Topology, broker: Broker, waits: Sequence[tuple[str, Awaited]], now: int
) -> None:
    """Set ``reading`` of each (saga id, what it waits for) that somebody is to handle.

    The cost follows from how many there are: some commands for each stream and for each of them.

    Raises:
        BrokerUnavailable: if the server cannot be reached.
    """
    questions = [_question(topology, *each) for each in waits if _has_reader(topology, each[1], now)]
    if not questions:
        return
    readers = Readers(broker.connection)
    streams = await readers.streams(list(dict.fromkeys(each.stream for each in questions)))
    paused = await broker.meta.paused()
    holders = await _find_holders(readers, questions, streams)
    gone = await _find_gone(readers, questions)
    for question, held in zip(questions, holders, strict=True):
        state = streams.get(question.stream)
        reading = _reading(question, state, held, paused.get(question.participant))
        lost = (question.stream, question.awaited.entry) in gone and reading.where in _LOOSE
        question.awaited.reading = msgspec.structs.replace(reading, where=Where.GONE) if lost else reading


def _has_reader(topology: Topology, awaited: Awaited, now: int) -> bool:
    known = awaited.what != "step" or awaited.type in topology.routes
    return awaited.what in _HANDLED and known and awaited.due <= now


def _question(topology: Topology, saga_id: str, awaited: Awaited) -> _Question:
    keys = topology.keys
    partition = keys.partition(saga_id)
    if awaited.what == "step":
        return _Question(saga_id, awaited, keys.stream(partition, topology.routes[awaited.type]), True)
    return _Question(saga_id, awaited, keys.inbox(partition, awaited.handler.partition("/")[0]), False)


async def _find_holders(
    readers: Readers, questions: Sequence[_Question], streams: Mapping[str, StreamState]
) -> list[Pending | None]:
    """For each question: the delivery that is in some worker's hands, if it is."""
    asked = [each for each in questions if _pending(each, streams)]
    pending = await readers.pending(
        [(each.stream, each.participant, *each.window) for each in asked], count=_COUNT
    )
    rows = [(question, row) for question, found in zip(asked, pending, strict=True) for row in found]
    entries = await readers.entries([(question.stream, row.entry) for question, row in rows])
    held = {
        id(question): row
        for (question, row), fields in zip(rows, entries, strict=True)
        if question.asks_for(fields)
    }
    return [held.get(id(each)) for each in questions]


async def _find_gone(readers: Readers, questions: Sequence[_Question]) -> set[tuple[str, str]]:
    """Stream and id of the entries that are not there any more."""
    asked = list({(each.stream, each.awaited.entry): None for each in questions if each.awaited.entry})
    return {each for each, fields in zip(asked, await readers.entries(asked), strict=True) if not fields}


def _pending(question: _Question, streams: Mapping[str, StreamState]) -> bool:
    state = streams.get(question.stream)
    group = state.groups.get(question.participant) if state else None
    return bool(group and group.pending)


def _reading(
    question: _Question, state: StreamState | None, held: Pending | None, pause: Pause | None
) -> Reading:
    group = state.groups.get(question.participant) if state else None
    if state is None or group is None:
        return Reading(Where.GROUPLESS)
    where = Where.HELD if held else _where(question, state, group)
    return Reading(
        where, held.consumer if held else "", held.deliveries if held else 0, held.idle if held else 0,
        state.waiting(group), group.seen, pause.who if pause else "", pause.at if pause else 0,
    )  # fmt: skip


def _where(question: _Question, state: StreamState, group: Group) -> Where:
    """Where that is which nobody holds."""
    behind = order(group.delivered) < order(state.newest)
    if question.from_topic:
        unread = behind and order(group.delivered)[0] <= question.awaited.since + _SLACK
    else:
        unread = behind
    if unread:
        return Where.UNREAD
    return Where.TIMER if question.awaited.what == "retry" else Where.HANDLED
