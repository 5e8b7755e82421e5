"""Whether two classes of one event type mean the same on the wire."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import inspect, structs

from choreo.model.event import Event


@dataclass(frozen=True, slots=True)
class Difference:
    """How one field differs. ``breaks`` is whether one side cannot read what the other writes."""

    what: str
    breaks: bool

    def __str__(self) -> str:
        return self.what


def differences(first: type[Event], other: type[Event]) -> list[Difference]:
    """What differs between two classes, field by field; empty if they mean the same.

    Fields are compared by their names on the wire and by the JSON that they take, so that equal classes
    of different modules are the same. A field with a default that only one side has breaks nothing.
    """
    if first is other:
        return []
    try:
        ours = {field.encode_name: field for field in structs.fields(first)}
        theirs = {field.encode_name: field for field in structs.fields(other)}
    except NameError as error:
        return [Difference(f"a field's annotation cannot be read: {error}", True)]
    found = []
    for name in dict.fromkeys([*ours, *theirs]):
        mine, its = ours.get(name), theirs.get(name)
        if mine is None or its is None:
            found.append(_lone(name, mine or its, has_it=other if mine is None else first))
        elif shape(mine.type) != shape(its.type):
            found.append(Difference(f"{name} is {_name(its.type)} there, {_name(mine.type)} here", True))
        elif mine.required != its.required:
            found.append(Difference(f"{name} has a default on one side only", False))
    return found


def _lone(name: str, field: Any, has_it: type[Event]) -> Difference:
    required = bool(field.required)
    return Difference(
        f"{name} ({'required' if required else 'with a default'}) is only in {has_it.__module__}", required
    )


def shape(annotation: Any) -> Any:
    """What JSON an annotation takes, as a value that is equal for types that take the same."""
    try:
        return _shape(inspect.type_info(annotation), ())
    except (TypeError, NameError):  # not a type that msgspec knows by itself
        return annotation


def _shape(info: Any, within: tuple[type, ...]) -> Any:
    match info:
        case inspect.EnumType():
            return "enum", sorted(repr(member.value) for member in info.cls)
        case inspect.UnionType():
            return "union", sorted((_shape(each, within) for each in info.types), key=repr)
        case inspect.Metadata():
            return _shape(info.type, within)
        case inspect.Field():
            return info.encode_name, info.required, _shape(info.type, within)
        case inspect.StructType() | inspect.DataclassType():
            return _object_shape(info, within)
        case inspect.TypedDictType() | inspect.NamedTupleType():
            return _object_shape(info, within)
        case msgspec.Struct():
            values = structs.asdict(info)
            return type(info).__name__, [(name, _shape(value, within)) for name, value in values.items()]
        case tuple():
            return [_shape(each, within) for each in info]
    return info


def _object_shape(info: Any, within: tuple[type, ...]) -> Any:
    if info.cls in within:
        return "again", within.index(info.cls)
    fields = [_shape(field, (*within, info.cls)) for field in info.fields]
    if isinstance(info, inspect.NamedTupleType) or getattr(info, "array_like", False):
        return "array", getattr(info, "tag", None), fields
    tag = getattr(info, "tag_field", None), getattr(info, "tag", None)
    return "object", tag, sorted(fields, key=repr)


def _name(annotation: Any) -> str:
    return annotation.__name__ if type(annotation) is type else repr(annotation).removeprefix("typing.")
