"""Checking an event's payload against its class, where that can be found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import inspect

from choreo.cli.output import remark
from choreo.errors import ConfigurationError, EventError
from choreo.loading import load_all
from choreo.model.event import Event, type_name
from choreo.model.participant import Participant
from choreo.wire.envelope import Malformed, check_data, encode_data
from choreo.wire.topology import Topology


def find_class(topology: Topology, event_type: str) -> type[Event] | None:
    """The class of an event type that the participants use; None if they cannot be imported here."""
    try:
        return event_class(load_all(topology), event_type)
    except ConfigurationError:
        return None


def event_class(participants: Sequence[Participant], event_type: str) -> type[Event] | None:
    """The class of an event type that the participants use; None if none of them does."""
    steps = [step for participant in participants for step in participant.steps]
    used = [event for step in steps for event in (*step.on, *step.outcome.types)]
    return next((event for event in used if type_name(event) == event_type), None)


def check_payload(event_type: str, payload: bytes, event: type[Event] | None) -> bytes:
    """The payload to send: as the class writes it, or as it is if there is no class.

    Raises:
        EventError: if it is no JSON or does not fit the class; the message names the field.
        PayloadTooLarge: if it is too large.
    """
    try:
        check_data(payload)
    except Malformed as malformed:
        raise EventError(f"the payload of {event_type} cannot be sent: {malformed}") from None
    if event is None:
        return payload
    try:
        decoded = msgspec.json.decode(payload, type=event)
    except (msgspec.ValidationError, RecursionError) as error:
        raise EventError(
            f"the payload does not fit {event_type}: {error}\nIt looks like this: {example(event)}"
        ) from None
    _mention_unknown_fields(event_type, payload, event)
    return encode_data(decoded)


def _mention_unknown_fields(event_type: str, payload: bytes, event: type[Event]) -> None:
    known = {field.encode_name for field in msgspec.structs.fields(event)}
    given = msgspec.json.decode(payload, type=dict[str, msgspec.Raw])
    if unknown := [name for name in given if name not in known]:
        remark(f"{event_type} has no field {', '.join(unknown)}; what it says there is left out")


def example(event: type[Event]) -> str:
    """JSON that shows what a payload looks like: every field that must be there, with a value of its type."""
    fields = inspect.type_info(event)
    assert isinstance(fields, inspect.StructType)
    shown = {field.encode_name: _example_value(field.type) for field in fields.fields if field.required}
    return msgspec.json.encode(shown).decode()


def _example_value(info: inspect.Type) -> Any:
    match info:
        case inspect.Metadata():
            return _example_value(info.type)
        case inspect.UnionType():
            return None if info.includes_none else _example_value(info.types[0])
        case inspect.BoolType():
            return False
        case inspect.IntType():
            return _number_within(info, 1)
        case inspect.FloatType():
            return float(_number_within(info, 1))
        case inspect.EnumType():
            return next(iter(info.cls)).value
        case inspect.LiteralType():
            return info.values[0]
        case inspect.ListType() | inspect.SetType() | inspect.VarTupleType():
            return []
        case inspect.DictType():
            return {}
        case inspect.StructType():
            return {field.encode_name: _example_value(field.type) for field in info.fields if field.required}
    return "…"


def _number_within(info: Any, number: float) -> float:
    if info.ge is not None or info.gt is not None:
        number = max(number, info.ge if info.ge is not None else info.gt + 1)
    return number
