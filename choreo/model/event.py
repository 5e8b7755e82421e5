"""Events: immutable, typed facts that participants share."""

from __future__ import annotations

import re
from typing import Any, dataclass_transform

import msgspec

#: The shape of a namespace, stream or participant name. Redis Cluster hashes what stands between
#: braces, so names that become part of a key must not be able to hold one.
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class Event(msgspec.Struct, frozen=True):
    """Base class of every event.

    Subclass it with annotated fields, in the past tense; the class name is the event's type on the
    wire and its fields are the JSON payload::

        class OrderPlaced(Event):
            order_id: str
            amount_cents: int

    Any type that :mod:`msgspec` can encode as JSON and decode again may be a field. Unknown fields
    of a payload are ignored, so a field can be added with a default while older code still runs.
    """


class SagaTimedOut(Event):
    """A deadline of a saga has passed, and the saga unwinds. Published by choreo itself.

    Participants may react to it: ``@p.on(SagaTimedOut)``.
    """

    saga_type: str
    deadline: str
    """Which one: ``saga``, or what was expected: ``PaymentCaptured, PaymentDeclined after OrderPlaced``."""
    due: int
    """When it passed: milliseconds since the epoch."""


def type_name(event: type[Event] | Event) -> str:
    """The name by which streams.yaml and the wire call this event's type."""
    return (event if isinstance(event, type) else type(event)).__name__


def is_event_type(value: Any) -> bool:
    """Whether ``value`` is a concrete subclass of :class:`Event`."""
    return isinstance(value, type) and issubclass(value, Event) and value is not Event


#: The types that choreo itself publishes. No participant emits them, and streams.yaml does not name them.
OWN_EVENTS = frozenset({type_name(SagaTimedOut)})
