"""Dead letters as operators see them, and what became of what they asked for."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class LetterState(StrEnum):
    """How a dead letter stands."""

    OPEN = "open"
    """It waits for an operator."""
    REPLAYED = "replayed"
    """Its delivery was made again. If that fails, the letter is open again."""
    DROPPED = "dropped"
    """An operator left it at that; what it held is deleted."""
    RESOLVED = "resolved"
    """Its saga was resolved."""


class DeadLetter(msgspec.Struct, frozen=True, omit_defaults=True):
    """A delivery that will not be tried again by itself. Times are milliseconds since the epoch."""

    id: str
    """Derived from what the letter is about."""
    place: str
    """Where it stands: partition and entry of the stream of dead letters, as ``3:1763712000000-0``."""
    reason: str = ""
    """A reason code; see :class:`choreo.wire.envelope.Reason`."""
    time: int = 0
    """When it became a dead letter."""
    state: LetterState = LetterState.OPEN
    settled: int = 0
    """When it was replayed, dropped or resolved."""
    settled_by: str = ""
    saga: str = ""
    """The saga's id, if it is known."""
    saga_type: str = ""
    participant: str = ""
    step: str = ""
    undo: str = ""
    """The name of the undo, if it is one that failed."""
    event: str = ""
    """Id of the event."""
    type: str = ""
    """Type of the event."""
    error: str = ""
    traceback: str = ""
    data: str = ""
    """The event's JSON."""
    stream: str = ""
    """Of a refused or lost entry: the key of its stream."""
    entry: str = ""
    """Of a refused or lost entry: its id there."""
    fields: dict[str, str] = {}
    """Of a refused entry: what could be kept of its fields."""
    cut: list[str] = []
    """Of a refused entry: the fields of which a part is missing; ``*`` if some are missing altogether."""

    @property
    def handler(self) -> str:
        """``participant/step``, or ``participant/step/undo``; empty for a refused entry."""
        return "/".join(filter(None, (self.participant, self.step, self.undo)))


class Outcome(StrEnum):
    """What became of an order about a letter."""

    REPLAYED = "replayed"
    DROPPED = "dropped"
    CLOSED = "closed"
    """Nothing was done: it had been replayed, dropped or resolved before."""
    REFUSED = "refused"
    """Nothing was done: it cannot be done."""


class Settlement(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of an order about one letter."""

    letter: str
    """The letter's id."""
    outcome: Outcome
    state: LetterState = LetterState.OPEN
    """How the letter stands now (in a rehearsal: would stand)."""
    why: str = ""
    """If nothing was done: why not, and what may be done instead."""
    saga: str = ""
    handler: str = ""
    """``participant/step`` or ``participant/step/undo`` that the letter is about."""


class Retried(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of an order to retry a saga."""

    saga: str
    due: int = 0
    """How many attempts that waited for their time are due now."""
    letters: list[Settlement] = []
    """What became of the saga's open letters, in the order in which they were written."""

    @property
    def anything(self) -> bool:
        """Whether there was anything to retry."""
        return self.due > 0 or any(each.outcome is Outcome.REPLAYED for each in self.letters)
