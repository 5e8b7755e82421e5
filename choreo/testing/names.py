"""What a test may call a handler or an event, and what it is called in the harness."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from choreo.model.event import Event, type_name
from choreo.model.participant import Participant, Step
from choreo.wire.topology import Topology


def handler_named(participants: Sequence[Participant], name: object) -> str:
    """The full name of a handler: ``participant/step`` or ``participant/step/undo``.

    ``name`` may also be ``participant/undo``, or what stands under the handler's name in its module: a step,
    or the function of an undo.

    Raises:
        ValueError: if there is no such handler.
    """
    wanted = f"{name.participant}/{name.name}" if isinstance(name, Step) else str(name)
    for step in (step for participant in participants for step in participant.steps):
        if step.compensation is not None and step.compensation.function is name:
            wanted = f"{step.participant}/{step.name}/{step.compensation.name}"
    known = dict(_names(participants))
    if wanted not in known:
        right = _suggest(wanted, list(known)) or f"; there are {', '.join(known)}"
        raise ValueError(f"there is no handler {wanted!r}{right}")
    return known[wanted]


def participant_named(participants: Sequence[Participant], name: str) -> str:
    """``name`` itself, if there is such a participant.

    Raises:
        ValueError: if there is none.
    """
    known = [each.name for each in participants]
    if name not in known:
        right = _suggest(name, known) or f"; there are {', '.join(known)}"
        raise ValueError(f"there is no participant {name!r}{right}")
    return name


def handlers_of(participants: Sequence[Participant]) -> Iterator[str]:
    """The full name of each handler, in the order of declaration."""
    for step in (step for participant in participants for step in participant.steps):
        label = f"{step.participant}/{step.name}"
        yield label
        if step.compensation is not None:
            yield f"{label}/{step.compensation.name}"


def type_named(topology: Topology, event: type[Event] | str) -> str:
    """The name of an event type.

    Raises:
        ValueError: if no stream carries it.
    """
    name = event if isinstance(event, str) else type_name(event)
    if name not in topology.routes:
        raise ValueError(f"no stream carries {name!r}{_suggest(name, list(topology.routes))}")
    return name


def _names(participants: Sequence[Participant]) -> Iterator[tuple[str, str]]:
    """Every name by which a handler may be called, with its full name. Full names win."""
    full = list(handlers_of(participants))
    for label in full:
        participant, _, rest = label.partition("/")
        yield f"{participant}/{rest.rpartition('/')[2]}", label
    for label in full:
        yield label, label


def _suggest(name: str, known: Sequence[str]) -> str:
    from choreo.wire.nodes import suggest  # brings in YAML, which only a name that is wrong needs

    return suggest(name, known)
