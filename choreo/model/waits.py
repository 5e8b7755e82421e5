"""What a saga waits for, and which sagas have waited for too long."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum

import msgspec

from choreo.model.facts import LETTERS, Fact, Kind, View, replayed
from choreo.model.saga import State

#: Event type -> the (participant, step) that react to it.
Listeners = Mapping[str, Sequence[tuple[str, str]]]
#: One attempt: participant, step, undo, and the event that is handled.
_Line = tuple[str, str, str, str]


class Where(StrEnum):
    """Where that is which a step or an undo is to handle."""

    HELD = "held"
    """In the hands of a worker."""
    UNREAD = "unread"
    """In its stream, and not read yet."""
    TIMER = "timer"
    """Among the timers, or moved from there this moment."""
    HANDLED = "handled"
    """It was read and acknowledged, and what it came to is not known (yet)."""
    GROUPLESS = "groupless"
    """In a stream that the participant has no consumer group for."""
    GONE = "gone"
    """Not in its stream any more, and in nobody's hands: somebody has deleted it."""


class Reading(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether somebody is about to handle what a saga waits for, by what the server knows."""

    where: Where
    consumer: str = ""
    """The worker that holds it."""
    deliveries: int = 0
    """How often it was delivered."""
    idle_ms: int = 0
    """Since its worker last renewed the lease."""
    lag: int | None = None
    """How many entries the participant has not read there; ``null`` if the server cannot tell."""
    seen_ms: int | None = None
    """Since a worker of the participant was last seen there; ``null`` if there is none."""
    paused_by: str = ""
    """Who paused the participant, if it is paused."""
    paused_at: int = 0


class Awaited(msgspec.Struct, omit_defaults=True):
    """Something that the saga waits for. Times are milliseconds since the epoch."""

    what: str
    """``step``: a step that has not reacted; ``retry``: a step or an undo whose attempt failed and that is
    to be tried again; ``join``: a join that lacks events; ``undo``: an undo under way; ``plan``: an event
    that is planned; ``operator``: a step that failed and is left to an operator; ``letter``: a dead letter
    that keeps the saga from ending; ``damage``: an entry that was deleted before it was handled, and will
    never be; ``listener``: an event that nobody listens to."""
    type: str = ""
    """The event type that was published, that is planned, or that is missing."""
    handler: str = ""
    """``participant/step``."""
    since: int = 0
    due: int = 0
    """When a planned event, or the next attempt, is due."""
    event: str = ""
    """Id of the event that is to be handled."""
    undo: str = ""
    """In a ``retry``: the undo's name, if it is one."""
    attempt: int = 0
    """In a ``retry``: which attempt is to follow."""
    note: str = ""
    """The error of the last attempt."""
    reading: Reading | None = None
    """Who is about to handle it; ``null`` where that was not looked up."""
    entry: str = ""
    """In a ``step``: id of the stream entry that is to be handled."""


class Stuck(msgspec.Struct, omit_defaults=True):
    """A saga that has not moved for longer than it should."""

    saga: View
    waits: list[Awaited] = []
    """What it waits for; empty if nothing that is known of will move it."""


def awaited(view: View, facts: Sequence[Fact], listeners: Listeners) -> Iterator[Awaited]:
    """What a saga waits for. ``facts`` are in their canonical order; ``listeners`` say who would react."""
    failing = _failing(facts)
    yield from _operators(view, facts)
    for fact, became in plans(view, facts):
        if not became:
            yield Awaited("plan", fact.type, fact.handler, fact.time, fact.due)
    undos = list(_undos(facts, failing)) if view.status is not State.RESOLVED else []
    yield from undos
    if not view.status.ended:
        yield from _joins(facts)
    # A saga that unwinds and has nothing to undo is kept open by a step that had begun before.
    begun = view.status is State.COMPENSATING and not undos
    yield from _steps(facts, listeners, failing, running=view.status is State.RUNNING, begun=begun)


def _operators(view: View, facts: Iterable[Fact]) -> Iterator[Awaited]:
    """What nobody but an operator can move: steps that were left to one, and letters of a failed saga."""
    settled = {each for fact in facts for each in fact.settles}
    for fact in facts:
        if fact.kind in LETTERS and fact.id not in settled:
            parked = fact.kind is Kind.PARKED and view.status is State.RUNNING
            damage = fact.kind is Kind.LOST and not view.status.ended
            if parked or damage or view.status is State.FAILED:
                what = "operator" if parked else "damage" if damage else "letter"
                yield Awaited(what, fact.type, fact.handler, fact.time, event=fact.cause, note=fact.note)


def plans(view: View, facts: Iterable[Fact]) -> Iterator[tuple[Fact, str]]:
    """Every planned event, and what became of it: ``published``, ``void``, or nothing yet."""
    facts = list(facts)
    published = {fact.id for fact in facts if fact.kind is Kind.EVENT}
    for fact in facts:
        if fact.kind is Kind.PLANNED:
            came = planned_event(fact) in published
            # What an undo planned comes in any case.
            lost = view.status is not State.RUNNING and not fact.undo
            yield fact, "published" if came else "void" if lost else ""


def planned_event(fact: Fact) -> str:
    """The id of the event that a fact says is planned."""
    return fact.id.partition(":")[2]


def _failing(facts: Sequence[Fact]) -> dict[_Line, Fact]:
    """The steps and undos whose last attempt failed, and the fact that says so."""
    last: dict[_Line, Fact] = {}
    again = replayed(facts)
    for fact in facts:
        if fact.step and fact.kind not in (Kind.ORDERED, Kind.REFUSED, Kind.PLANNED) and fact.id not in again:
            line = fact.participant, fact.step, fact.undo, fact.cause
            if fact.kind is not Kind.RETRYING or line not in last or last[line].kind is Kind.RETRYING:
                last[line] = fact
    return {line: fact for line, fact in last.items() if fact.kind is Kind.RETRYING}


def _retry(fact: Fact) -> Awaited:
    line = fact.cause, fact.undo, fact.attempt + 1
    return Awaited("retry", fact.type, fact.handler, fact.time, fact.due, *line, fact.note)


def _undos(facts: Sequence[Fact], failing: Mapping[_Line, Fact]) -> Iterator[Awaited]:
    again = replayed(facts)
    asked = {entry: fact.time for fact in reversed(facts) for entry in fact.asks}
    through = {
        f"{fact.handler}:{fact.cause}"
        for fact in facts
        if fact.kind is Kind.UNDONE or (fact.kind is Kind.STUCK and fact.id not in again)
    }
    retried = {f"{fact.handler}:{fact.cause}": fact for fact in failing.values() if fact.undo}
    for entry, time in sorted(asked.items()):
        if entry in retried:
            yield _retry(retried[entry])
        elif entry not in through:
            handler, _, event = entry.partition(":")
            yield Awaited("undo", handler=handler, since=time, event=event)


def _joins(facts: Sequence[Fact]) -> Iterator[Awaited]:
    fired = {(fact.participant, fact.step) for fact in _settled(facts) if fact.kind is not Kind.WAITING}
    there = {fact.type for fact in facts if fact.kind is Kind.EVENT}
    for fact in facts:
        if fact.kind is Kind.WAITING and (fact.participant, fact.step) not in fired:
            for missing in fact.note.split():
                if missing not in there:
                    yield Awaited("join", missing, fact.handler, fact.time)


def _steps(
    facts: Sequence[Fact], listeners: Listeners, failing: Mapping[_Line, Fact], *, running: bool, begun: bool
) -> Iterator[Awaited]:
    reacted = {(fact.participant, fact.step, fact.cause) for fact in _settled(facts)}
    for fact in facts:
        if fact.kind is not Kind.EVENT:
            continue
        hearing = listeners.get(fact.type, ())
        for participant, step in hearing:
            if (participant, step, fact.id) not in reacted and (fact.back or running or begun):
                failed = failing.get((participant, step, "", fact.id))
                handler = f"{participant}/{step}"
                waits = Awaited("step", fact.type, handler, fact.time, event=fact.id, entry=fact.entry)
                yield _retry(failed) if failed else waits
        if not hearing and running:
            yield Awaited("listener", fact.type, since=fact.time)


def _settled(facts: Sequence[Fact]) -> Iterator[Fact]:
    """The facts that tell what a step came to."""
    again = replayed(facts)
    aside = (Kind.RETRYING, Kind.ORDERED, Kind.REFUSED, Kind.PLANNED)
    for fact in facts:
        if fact.step and not fact.undo and fact.kind not in aside and fact.id not in again:
            yield fact


def may_be_stuck(view: View, now: int, longest: int) -> bool:
    """Whether a saga has not moved for ``longest`` (ms), or needs an operator; what it waits for may
    still explain it."""
    if view.status is State.FAILED or _needs_operator(view):
        return True
    return not view.status.ended and now - view.updated >= longest


def is_explained(view: View, waits: Iterable[Awaited], now: int) -> bool:
    """Whether an open saga waits for something that is due in the future, as was planned."""
    if view.status is State.FAILED or _needs_operator(view):
        return False
    return any(each.due > now for each in waits)


def _needs_operator(view: View) -> bool:
    return not view.status.ended and bool(view.parked or view.damaged)
