"""Deadlines: by when a saga must have ended, and which of its events must come within which time.

Everything here is a function of the *set* of a saga's facts, as its view is: in whatever order they were
read, the same deadline is due next.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from choreo.model.event import SagaTimedOut
from choreo.model.facts import Fact, Kind, View
from choreo.model.saga import State

#: What the deadline of a whole saga is called.
WHOLE = "saga"


@dataclass(frozen=True, slots=True)
class Expectation:
    """One entry of ``expects``: within ``within`` of each ``after`` event, one of ``one_of`` must come."""

    after: str
    within: int
    """Milliseconds."""
    one_of: tuple[str, ...]
    """Event types, in the order of the file."""

    @property
    def name(self) -> str:
        """How people are told of it: ``PaymentCaptured, PaymentDeclined after OrderPlaced``."""
        return f"{', '.join(self.one_of)} after {self.after}"


@dataclass(frozen=True, slots=True)
class Deadlines:
    """The deadlines of one kind of saga."""

    whole: int | None = None
    """Milliseconds from its start within which a saga must have ended; ``None``: as long as it takes."""
    expects: tuple[Expectation, ...] = ()

    def __bool__(self) -> bool:
        return self.whole is not None or bool(self.expects)


NO_DEADLINES = Deadlines()


@dataclass(frozen=True, slots=True)
class Due:
    """A deadline that is pending."""

    at: int
    """When it passes: milliseconds since the epoch."""
    name: str
    """``saga`` for that of the whole saga, or the name of what is expected."""
    awaited: tuple[str, ...] = ()
    """The event types that would meet it; for the whole saga its end does."""


def next_due(view: View, facts: Iterable[Fact], deadlines: Deadlines) -> Due | None:
    """The deadline of a saga that passes first, or ``None`` if none is pending.

    ``view`` is the view of just these ``facts``.
    """
    if view.status is not State.RUNNING or not deadlines:
        return None
    pending = [] if deadlines.whole is None else [Due(view.started + deadlines.whole, WHOLE)]
    events = [fact for fact in facts if fact.kind is Kind.EVENT] if deadlines.expects else []
    for expected in deadlines.expects:
        waiting = _unmet(expected, events)
        if waiting:
            pending.append(Due(min(waiting) + expected.within, expected.name, expected.one_of))
    return min(pending, key=lambda due: (due.at, due.name), default=None)


def _unmet(expected: Expectation, events: list[Fact]) -> list[int]:
    """The times of the ``after`` events that none of ``one_of`` has followed yet."""
    came = [fact for fact in events if fact.type in expected.one_of]
    latest = max((fact.time for fact in came), default=-1)
    early = [fact for fact in events if fact.type == expected.after and fact.time > latest]
    if not early or not came:
        return [fact.time for fact in early]
    # By the clocks what came was earlier; clocks differ, but what an event caused came after it.
    behind = _causes(came, {fact.id: fact.cause for fact in events})
    return [fact.time for fact in early if fact.id not in behind]


def _causes(events: Iterable[Fact], cause_of: Mapping[str, str]) -> set[str]:
    """The ids of all events that led to any of ``events``."""
    found: set[str] = set()
    for fact in events:
        event = fact.cause
        while event and event not in found:
            found.add(event)
            event = cause_of.get(event, "")
    return found


def describe(timed_out: SagaTimedOut) -> str:
    """What has happened, for people: ``no Paid, Declined after Placed by 2026-11-21T08:00:30.000Z``."""
    try:
        moment = datetime.fromtimestamp(timed_out.due / 1000, UTC)
        due = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (OverflowError, OSError, ValueError):  # any producer can claim any time
        due = f"{timed_out.due} ms"
    if timed_out.deadline == WHOLE:
        return f"deadline passed at {due}"
    return f"no {timed_out.deadline} by {due}"
