"""Reading a handler's contract from its signature, so that a mistake shows at import."""

from __future__ import annotations

import collections.abc
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from choreo.errors import ContractError
from choreo.model.context import Context
from choreo.model.event import OWN_EVENTS, Event, is_event_type, type_name

Handler = Callable[..., Any]

_UNIONS = (typing.Union, types.UnionType)
_MANY = (
    tuple,
    list,
    collections.abc.Sequence,
    collections.abc.Iterable,
    collections.abc.Collection,
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an annotation allows: which event types, and whether one, several or none of them."""

    types: frozenset[type[Event]]
    single: bool
    several: bool
    nothing: bool

    def names(self) -> str:
        """The allowed types for a message, or ``nothing``."""
        return ", ".join(sorted(type_name(each) for each in self.types)) or "nothing"


def location(function: Handler) -> str:
    """``file:line`` where ``function`` is defined."""
    code = inspect.unwrap(function).__code__
    return f"{code.co_filename}:{code.co_firstlineno}"


def place(frame: types.FrameType) -> str:
    """``file:line`` at which ``frame`` stands."""
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def check_function(function: object, where: str) -> None:
    """Refuse a handler that is no plain function, such as a step, a partial or a callable object."""
    if not inspect.isfunction(inspect.unwrap(function)):  # type: ignore[arg-type]
        raise ContractError(
            f"{where}: {function!r} is not a function; decorate a function of its own,"
            " and one that no other participant has decorated"
        )


def refuse(function: Handler, what: str) -> ContractError:
    """A :class:`ContractError` that names the handler and the place where it stands."""
    return ContractError(f"{location(function)}: {function.__name__}: {what}")


def read_hints(function: Handler, names: Mapping[str, Any]) -> dict[str, Any]:
    """The resolved annotations of ``function``; ``names`` are those local to its definition."""
    try:
        return typing.get_type_hints(function, localns=dict(names))
    except Exception as error:
        raise refuse(function, f"its annotations cannot be read: {error}") from error


def event_parameters(function: Handler) -> tuple[list[inspect.Parameter], inspect.Parameter | None]:
    """Split the parameters into those that take events, in order, and the one that takes the context."""
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise refuse(function, "must return its events, not yield them; return a list")
    parameters = list(inspect.signature(function).parameters.values())
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.KEYWORD_ONLY):
            raise refuse(function, f"parameter {parameter.name!r} must be a plain positional one")
    context = next((each for each in parameters if each.name == "ctx"), None)
    if context is not None and context is not parameters[-1]:
        raise refuse(function, "'ctx' must be the last parameter")
    return [each for each in parameters if each is not context], context


def check_context(function: Handler, hints: Mapping[str, Any]) -> None:
    """Refuse a ``ctx`` that is annotated with anything but :class:`Context`."""
    if hints.get("ctx", Context) is not Context:
        raise refuse(function, "'ctx' must be annotated with choreo.Context")


def members(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of a union, or the annotation itself as the only one."""
    if typing.get_origin(annotation) in _UNIONS:
        return typing.get_args(annotation)
    return (annotation,)


def check_accepts(
    function: Handler, parameter: inspect.Parameter, hint: Any, events: Iterable[type[Event]]
) -> None:
    """Refuse a parameter whose annotation does not take every one of ``events``."""
    if hint is None:
        raise refuse(function, f"parameter {parameter.name!r} needs an annotation with its event type")
    allowed = [each for each in members(hint) if isinstance(each, type)]
    if Any in members(hint):
        return
    for event in events:
        if not any(_is_subclass(event, each) for each in allowed):
            raise refuse(
                function,
                f"parameter {parameter.name!r} does not take {type_name(event)}; annotate it with"
                f" {' | '.join(sorted(type_name(each) for each in events))}",
            )


def _is_subclass(event: type[Event], other: type) -> bool:
    try:
        return issubclass(event, other)
    except TypeError:  # a protocol that is not for run time
        return False


def read_outcome(function: Handler, hint: Any, what: str = "its return annotation") -> Outcome:
    """Read what a return annotation (or that of an undo's result parameter) allows.

    Allowed are an event type, unions of them, ``None``, and ``tuple``, ``list``, ``Sequence``,
    ``Collection`` or ``Iterable`` of event types, in any union.

    Raises:
        ContractError: for anything else.
    """
    found: set[type[Event]] = set()
    single = several = nothing = False
    for member in members(hint):
        origin = typing.get_origin(member)
        if member is None or member is type(None):
            nothing = True
        elif is_event_type(member):
            found.add(member)
            single = True
        elif origin in _MANY:
            inner = [each for each in typing.get_args(member) if each is not Ellipsis]
            found.update(_element_types(function, inner, what))
            several = True
        else:
            raise refuse(function, f"{what} holds {member!r}, which is not an event type")
    own = sorted(OWN_EVENTS.intersection(map(type_name, found)))
    if own:
        raise refuse(function, f"{what} holds {', '.join(own)}, which only choreo itself emits")
    return Outcome(frozenset(found), single, several, nothing)


def _element_types(function: Handler, arguments: list[Any], what: str) -> Iterable[type[Event]]:
    for argument in arguments:
        for member in members(argument):
            if not is_event_type(member):
                raise refuse(function, f"{what} holds {member!r}, which is not an event type")
            yield member


def as_events(returned: Any) -> tuple[Event, ...] | None:
    """What a handler returned as a tuple of events; ``None`` if it is neither events nor ``None``."""
    if returned is None:
        return ()
    if isinstance(returned, Event):
        return (returned,)
    if isinstance(returned, collections.abc.Iterable) and not isinstance(returned, (str, bytes, Mapping)):
        events = tuple(returned)
        return events if all(isinstance(each, Event) for each in events) else None
    return None


def check_outcome(function: Handler, outcome: Outcome, returned: Any) -> tuple[Event, ...]:
    """The events that a handler returned, once its annotation is seen to allow them.

    Raises:
        ContractError: if the annotation does not allow what was returned.
    """
    if outcome.single and type(returned) in outcome.types:
        return (returned,)
    events = as_events(returned)
    if events is None:
        kind = type(returned).__name__
        raise refuse(function, f"returned {kind}, which is not an event; {_allowed(outcome)}")
    if returned is None and not (outcome.nothing or not outcome.types):
        raise refuse(function, f"returned None; {_allowed(outcome)}")
    if isinstance(returned, Event) and not outcome.single:
        unexpected = True
    elif not isinstance(returned, Event) and returned is not None and not outcome.several:
        raise refuse(function, f"returned several events; {_allowed(outcome)}")
    else:
        unexpected = False
    for event in events:
        if unexpected or type(event) not in outcome.types:
            raise refuse(function, f"returned {type_name(event)}; {_allowed(outcome)}")
    return events


def check_emitted(function: Handler, outcome: Outcome, emitted: Iterable[Event]) -> None:
    """Refuse events handed to ``ctx.emit`` whose type the return annotation does not allow."""
    for event in emitted:
        if type(event) not in outcome.types:
            raise refuse(function, f"emitted {type_name(event)}; {_allowed(outcome)}")


def _allowed(outcome: Outcome) -> str:
    forms = []
    if outcome.types:
        number = {(True, False): "one", (False, True): "several", (True, True): "one or several"}
        forms.append(f"{number[outcome.single, outcome.several]} of {outcome.names()}")
    if outcome.nothing or not forms:
        forms.append("nothing")
    return f"its annotation allows {' or '.join(forms)}"
