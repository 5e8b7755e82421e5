"""What a handler is told about the delivery that it handles."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, NamedTuple

from choreo.errors import EventError
from choreo.model.event import Event
from choreo.model.policy import LONGEST, seconds_of


class Emitted(NamedTuple):
    """An event that a handler emits, and in how many seconds; ``None`` is at once."""

    event: Event
    after: float | None = None


@dataclass(frozen=True, slots=True)
class Context:
    """The delivery that a step or an undo handles; every attempt sees the same ids and keys."""

    saga_id: str
    """The saga that the event belongs to."""
    saga_type: str
    """The saga's type in streams.yaml; empty if the type is not known."""
    participant: str
    """The participant whose handler runs."""
    step: str
    """The name of the step that runs or is undone."""
    event_id: str
    """Id of the event that is handled. For a join, the one that completed it."""
    key: str
    """Idempotency key: equal in every attempt of this step (or undo) for this event, and different
    for any other. Hand it to whatever must not happen twice."""
    undoes: str | None = None
    """In an undo: the :attr:`key` of the step that it undoes. ``None`` in a step."""
    attempt: int = 1
    """Which attempt this is, from 1. An attempt whose worker died is repeated under its number."""
    resources: Any = None
    """What the participant's ``lifespan`` yielded."""
    _emitted: list[Emitted] = field(default_factory=list, repr=False)

    def emit(self, event: Event, *, after: float | timedelta | None = None) -> None:
        """Publish ``event`` when this handler succeeds, together with what it returns.

        The handler's return annotation must allow the event's type. Nothing is published if the
        handler raises.

        Args:
            after: publish it so many seconds after the handler succeeded. It is part of the saga's plan
                and not an event yet: if the saga ends or begins to unwind before, it is never
                published. One that an undo emits, or a step on the way back, is published in any case.

        Raises:
            EventError: if ``after`` is negative, or longer than a year.
        """
        seconds = None if after is None else seconds_of(after)
        if seconds is not None and not 0 <= seconds <= LONGEST:
            raise EventError(f"{self.step} emits an event after {after}; at least 0 and at most a year")
        self._emitted.append(Emitted(event, seconds or None))
