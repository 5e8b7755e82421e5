"""What a handler is told about the delivery that it handles."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from choreo.model.event import Event


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
    _emitted: list[Event] = field(default_factory=list, repr=False)

    def emit(self, event: Event) -> None:
        """Publish ``event`` when this handler succeeds, together with what it returns.

        The handler's return annotation must allow the event's type. Nothing is published if the
        handler raises.
        """
        self._emitted.append(event)
