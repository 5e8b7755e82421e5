"""Facts: what streams and journal say about one saga, and the view that is a function of their set.

A fact has an id of its own. Facts may arrive twice, late or shuffled: the view is computed from the
*set*, put into one canonical order, so it comes out the same whatever the order of arrival was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from itertools import groupby
from operator import attrgetter

import msgspec

from choreo.model.saga import State


class Kind(StrEnum):
    """What a fact tells. The values stand on the wire and in traces."""

    EVENT = "event"
    """An event was published. If a step or an undo emitted it, this also says that it succeeded."""
    DONE = "done"
    """A step succeeded and emitted nothing."""
    WAITING = "waiting"
    """A join got one of its events and waits for the others."""
    LATE = "late"
    """A step succeeded when its saga was unwinding already: its events were withheld."""
    SKIPPED = "skipped"
    """A step did not run, because its saga was unwinding already."""
    ABORTED = "aborted"
    """A step raised Abort."""
    RETRYING = "retrying"
    """An attempt of a step or an undo failed, and another one is to follow."""
    DEAD = "dead"
    """A step failed for good; the delivery is a dead letter."""
    PARKED = "parked"
    """A step failed for good; the delivery is a dead letter, and the saga waits for an operator."""
    PLANNED = "planned"
    """An event is to be published later; ``id`` is ``planned:`` and the event's id."""
    UNDONE = "undone"
    """An undo succeeded."""
    STUCK = "stuck"
    """An undo failed for good; the delivery is a dead letter."""
    ORDERED = "ordered"
    """An operator changed the saga."""
    REFUSED = "refused"
    """A malformed entry that names this saga became a dead letter."""
    LOST = "lost"
    """An event was deleted from its stream before a participant handled it."""


class Order(StrEnum):
    """What operators may order for a saga."""

    COMPENSATE = "compensate"
    """Unwind it."""
    REPLAY = "replay"
    """Try again what is a dead letter."""
    DROP = "drop"
    """Leave a dead letter at that."""
    RETRY = "retry"
    """Try again at once what waits for its next attempt."""
    RESOLVE = "resolve"
    """Count it as put right by hand."""


#: Looking up a member of an enumeration takes longer than one would think; looking for one in a set, too.
_EVENT, _RUNNING = Kind.EVENT, State.RUNNING
_STATES = {each.value: each for each in State}
#: Kinds beside events that say that a step took effect.
_DONE = frozenset({Kind.DONE, Kind.LATE})
#: Kinds that stand for a dead letter.
LETTERS = frozenset({Kind.DEAD, Kind.PARKED, Kind.STUCK, Kind.REFUSED, Kind.LOST})


class Fact(msgspec.Struct, frozen=True, array_like=True, omit_defaults=True, gc=False):
    """One fact about a saga. Which attributes are set depends on ``kind``."""

    id: str
    kind: Kind
    time: int
    """When it became true: milliseconds since the epoch, by the clock of the process that said so."""
    type: str = ""
    """The event type: of the event itself, or of the one that the step handled."""
    cause: str = ""
    """Id of the event that was handled."""
    participant: str = ""
    step: str = ""
    undo: str = ""
    """Name of the undo, if it is one that ran; ``step`` is then the step that it undoes."""
    began: int = 0
    """When the handler began."""
    state: str = ""
    """The state into which this fact brought the saga, if it changed it."""
    seq: int = 0
    """How many state changes the saga had then seen."""
    saga_type: str = ""
    back: bool = False
    """Whether it is an event of the way back."""
    note: str = ""
    """For people: a reason, an error, an operator's words, what a join waits for, what was withheld, or
    which deadline passed."""
    detail: str = ""
    """More for people: a traceback, a dead letter's reason code, who the operator was."""
    asks: tuple[str, ...] = ()
    """The undos that this commit asked for, as ``participant/step:event id``."""
    ledger: tuple[str, ...] = ()
    """The ledger entries that caused this event."""
    attempt: int = 0
    """Which attempt failed, from 1."""
    due: int = 0
    """When the next attempt, or a planned event, is due (ms since the epoch)."""
    entry: str = ""
    """Id of the stream entry that told it."""
    order: str = ""
    """What an operator ordered, one of :class:`Order`."""
    settles: tuple[str, ...] = ()
    """Ids of the facts whose dead letters are waiting no longer, because of this order."""

    @property
    def handler(self) -> str:
        """``participant/step`` of what ran, or empty."""
        return f"{self.participant}/{self.step}" if self.step else self.participant


class LastError(msgspec.Struct, frozen=True, omit_defaults=True):
    """The most recent thing that went wrong in a saga."""

    step: str
    time: int
    message: str
    traceback: str = ""


class View(msgspec.Struct, frozen=True, omit_defaults=True):
    """Where one saga stands, as the tracker projects it. Times are milliseconds since the epoch."""

    id: str
    type: str = ""
    status: State = State.RUNNING
    current: str = ""
    """What happened last: ``participant/step``, or the type of an event that no step emitted."""
    started: int = 0
    updated: int = 0
    completed: int | None = None
    """When the saga ended, however it ended."""
    deadline: int | None = None
    """When the next of its deadlines passes, while it runs."""
    events: int = 0
    """How many events were published."""
    done: dict[str, int] = {}
    """``participant/step`` -> how often it took effect."""
    undone: dict[str, int] = {}
    """``participant/step`` -> how often it was undone."""
    undoing: list[str] = []
    """The undos that were asked for and are not through yet, as ``participant/step``."""
    parked: list[str] = []
    """The steps that wait for an operator, as ``participant/step``."""
    retries: int = 0
    """How many attempts were followed by another one."""
    dead_letters: int = 0
    """How many deliveries became dead letters."""
    open_letters: int = 0
    """How many of them still wait for an operator."""
    damaged: list[str] = []
    """Events that somebody deleted before they were handled, each in words."""
    reason: str = ""
    """Why the saga unwinds or unwound."""
    last_error: LastError | None = None


#: What the fact that turned a saga back brought it to: the latter if nothing was to be undone.
_UNWINDING = (State.COMPENSATING, State.COMPENSATED)
#: How many names of undos under way a view holds; the rest is in the trace.
_MAX_UNDOING = 20

_ID, _TIME = attrgetter("id"), attrgetter("time")
_BY_SEQ = attrgetter("seq", "time")

_encode_view = msgspec.json.Encoder(order="deterministic").encode
_decode_view = msgspec.json.Decoder(View).decode


def encode_view(view: View) -> bytes:
    """A view as JSON; equal views give equal bytes."""
    return _encode_view(view)


def decode_view(data: bytes) -> View:
    """The reverse of :func:`encode_view`."""
    return _decode_view(data)


encode_fact = msgspec.msgpack.Encoder().encode
decode_fact = msgspec.msgpack.Decoder(Fact).decode


def add(timeline: dict[str, Fact], fact: Fact) -> bool:
    """Add ``fact`` to a saga's timeline; ``False`` if that changes nothing.

    Two facts of one id should be equal. Should a producer have sent two different events with one
    id, the smaller one is kept, so that the order of their arrival does not show.
    """
    known = timeline.get(fact.id)
    if known is not None and (known == fact or _canonical(known) <= _canonical(fact)):
        return False
    timeline[fact.id] = fact
    return True


def in_order(timeline: Mapping[str, Fact] | Iterable[Fact]) -> list[Fact]:
    """The facts of a timeline in their canonical order: by time, causes before effects at the same time."""
    ordered = list(timeline.values() if isinstance(timeline, Mapping) else timeline)
    if len(ordered) < 2:
        return ordered
    ordered.sort(key=_TIME)
    if len({fact.time for fact in ordered}) == len(ordered):
        return ordered
    arranged: list[Fact] = []
    for _, group in groupby(ordered, _TIME):
        together = list(group)
        arranged += together if len(together) == 1 else _by_cause(together)
    return arranged


def _by_cause(facts: list[Fact]) -> list[Fact]:
    """Facts of one millisecond: those that caused others of them first."""
    facts = sorted(facts, key=_ID)  # whatever the order was in which they came
    events = {fact.id: fact for fact in facts if fact.kind is Kind.EVENT}
    asking = {entry: fact for fact in facts for entry in fact.asks}

    def causes(fact: Fact) -> list[Fact]:
        asked = asking.get(f"{fact.handler}:{fact.cause}") if fact.undo else None
        return [cause for cause in (events.get(fact.cause), asked) if cause is not None]

    depths: dict[str, int] = {}
    for fact in facts:
        path = [fact]
        while path:
            last = path[-1]
            depths.setdefault(last.id, 0)  # so that nothing is among its own causes
            unknown = [cause for cause in causes(last) if cause.id not in depths]
            if unknown:
                path += unknown
            else:
                path.pop()
                depths[last.id] = 1 + max([depths[cause.id] for cause in causes(last)], default=0)
    return sorted(facts, key=lambda fact: (depths[fact.id], fact.seq, fact.began, fact.id))


def project(saga_id: str, timeline: Mapping[str, Fact]) -> View:
    """The view of a saga: a function of the set of its facts.

    ``timeline`` maps fact ids to facts and must not be empty.
    """
    facts = in_order(timeline)
    turns, asking, others, ran, events = [], [], [], set(), 0
    for fact in facts:
        is_event = fact.kind is _EVENT
        events += is_event
        if not is_event or fact.settles:
            others.append(fact)
        if fact.state:
            turns.append(fact)
        if fact.asks:
            asking.append(fact)
        if fact.step and not fact.undo and (is_event or fact.kind in _DONE):
            ran.add((f"{fact.participant}/{fact.step}", fact.cause))
    first, last, turn = facts[0], facts[-1], max(turns, key=_BY_SEQ) if turns else None
    status = _STATES[turn.state] if turn else _RUNNING
    view = View(
        id=saga_id,
        type=first.saga_type or next((fact.saga_type for fact in facts if fact.saga_type), ""),
        status=status,
        current=_place(last) or next(filter(None, map(_place, reversed(facts))), ""),
        started=first.began or first.time,
        updated=last.time,
        completed=turn.time if turn and status.ended else None,
        events=events,
        done=_tally(ran),
        undoing=_undoing(asking, others) if asking and status is not State.RESOLVED else [],
        reason=next((_reason(fact) for fact in turns if fact.state in _UNWINDING), "") if turns else "",
    )
    # Most sagas are nothing but events, of which all the rest tells nothing.
    return _with_troubles(view, facts, others) if others else view


def _with_troubles(view: View, facts: list[Fact], others: list[Fact]) -> View:
    """The view with what ``others``, those of the facts that are no events, tell."""
    letters = [fact for fact in others if fact.kind in LETTERS]
    return msgspec.structs.replace(
        view,
        undone=_undone(others),
        parked=_parked(facts, others) if view.status is State.RUNNING else [],
        retries=sum(fact.kind is Kind.RETRYING for fact in others),
        dead_letters=len(letters),
        open_letters=len({fact.id for fact in letters} - _settled(others)),
        damaged=[fact.note for fact in letters if fact.kind is Kind.LOST],
        last_error=next((_error(fact) for fact in reversed(others) if _failed(fact)), None),
    )


def _place(fact: Fact) -> str:
    """What happened, as ``current`` names it; empty for what happened to the saga as a whole."""
    return fact.handler if fact.step else fact.type


def _undone(facts: list[Fact]) -> dict[str, int]:
    """How often each step was undone."""
    ran = {(fact.handler, fact.cause) for fact in facts if fact.undo and fact.kind is Kind.UNDONE}
    return _tally(ran)


def _tally(ran: Iterable[tuple[str, str]]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name, _ in ran:
        counts[name] = counts.get(name, 0) + 1
    return counts


def _undoing(asking: list[Fact], others: list[Fact]) -> list[str]:
    asked = {entry for fact in asking for entry in fact.asks}
    again = replayed(others)
    through = {
        f"{fact.handler}:{fact.cause}"
        for fact in others
        if fact.kind is Kind.UNDONE or (fact.kind is Kind.STUCK and fact.id not in again)
    }
    return sorted(entry.partition(":")[0] for entry in asked - through)[:_MAX_UNDOING]


def _settled(facts: Iterable[Fact]) -> set[str]:
    """The ids of the facts whose dead letters wait no longer."""
    return {each for fact in facts for each in fact.settles}


def replayed(facts: Iterable[Fact]) -> dict[str, Fact]:
    """Id of each fact whose dead letter was replayed -> the order to do so."""
    return {each: fact for fact in facts if fact.order == Order.REPLAY for each in fact.settles}


def _parked(facts: list[Fact], others: list[Fact]) -> list[str]:
    if all(fact.kind is not Kind.PARKED for fact in others):
        return []
    aside = (Kind.PLANNED, Kind.ORDERED)
    last = {(fact.handler, fact.cause): fact for fact in facts if fact.step and fact.kind not in aside}
    again = replayed(others)
    waiting = (fact for fact in last.values() if fact.kind is Kind.PARKED and fact.id not in again)
    return sorted({fact.handler for fact in waiting})


def _failed(fact: Fact) -> bool:
    return fact.kind in LETTERS or fact.kind in (Kind.ABORTED, Kind.RETRYING)


def _error(fact: Fact) -> LastError:
    traceback = fact.detail if fact.kind in (Kind.DEAD, Kind.PARKED, Kind.STUCK, Kind.RETRYING) else ""
    return LastError(fact.handler or fact.type, fact.time, fact.note, traceback)


def _reason(fact: Fact) -> str:
    if fact.kind is Kind.EVENT and fact.note:
        return fact.note
    if fact.kind is Kind.EVENT:
        return f"{fact.type} from {fact.handler}" if fact.handler else fact.type
    if fact.kind is Kind.ORDERED:
        return f"{fact.note or 'ordered'} ({fact.detail})" if fact.detail else fact.note
    return f"{fact.handler}: {fact.note}" if fact.note else fact.handler


def _canonical(fact: Fact) -> tuple[int, bytes]:
    return fact.time, encode_fact(fact)
