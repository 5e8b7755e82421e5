"""Traces for tests of how they are drawn."""

from __future__ import annotations

from choreo.model.facts import Fact, Kind, View, project
from choreo.model.trace import Trace, build_trace
from choreo.model.waits import Listeners

#: When the sagas of these tests begin: milliseconds since the epoch.
START = 1_800_000_000_000


def published(event_type: str, at: int, **more: object) -> Fact:
    """The fact that an event was published ``at`` ms after the saga's beginning; its id is its type."""
    return Fact(id=event_type, kind=Kind.EVENT, time=START + at, type=event_type, **more)  # type: ignore[arg-type]


def handled(kind: Kind, step: str, cause: str, began: int, ended: int, **more: object) -> Fact:
    """The fact that ``participant/step`` came to something, without an event."""
    participant, name = step.split("/")
    return Fact(
        id=f"{kind}:{step}:{cause}:{more.get('undo', '')}", kind=kind, time=START + ended, cause=cause,
        participant=participant, step=name, began=START + began, **more,  # type: ignore[arg-type]
    )  # fmt: skip


def emitted(event_type: str, step: str, cause: str, began: int, ended: int, **more: object) -> Fact:
    """The fact that ``participant/step`` handled ``cause`` and emitted an event."""
    participant, name = step.split("/")
    return published(
        event_type, ended, participant=participant, step=name, cause=cause, began=START + began, **more
    )


def trace_of(*facts: Fact, saga_id: str = "order-1", listeners: Listeners | None = None) -> Trace:
    """The trace of a saga of which these facts are known."""
    return build_trace(view_of(*facts, saga_id=saga_id), facts, listeners or {})


def view_of(*facts: Fact, saga_id: str = "order-1") -> View:
    """The view of a saga of which these facts are known."""
    return project(saga_id, {fact.id: fact for fact in facts})
