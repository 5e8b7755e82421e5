"""The trace: the causal tree of one saga, made from its facts. Its JSON is a stable, documented schema."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from choreo.model.facts import Fact, Kind, View, replayed
from choreo.model.waits import Awaited, Listeners, awaited, planned_event, plans


class Attempt(msgspec.Struct, omit_defaults=True):
    """An attempt that failed and was followed by another. Times are milliseconds since the epoch."""

    number: int
    ended: int
    due: int
    """When the next one was due."""
    note: str = ""
    """The error."""
    detail: str = ""
    """Its traceback."""


class Plan(msgspec.Struct, omit_defaults=True):
    """An event that a step planned to be published later. ``due`` is in milliseconds since the epoch."""

    type: str
    due: int
    became: str = ""
    """``published``; ``void``, if its saga ended or turned back before; empty as long as it is to come."""


class Reaction(msgspec.Struct, omit_defaults=True):
    """A step (or an undo) that handled an event. Times are milliseconds since the epoch."""

    participant: str
    step: str
    outcome: Kind
    """``event`` if it emitted events, else what it came to."""
    began: int = 0
    ended: int = 0
    waited_ms: int = 0
    """From the event's publication (for an undo: from when it was asked for) until the handler began."""
    worked_ms: int = 0
    """From when the handler began until its outcome was committed."""
    note: str = ""
    """The reason, the error, what a join waits for, or which events were withheld."""
    detail: str = ""
    """The traceback of an error."""
    undo: str = ""
    """In an undo: its name."""
    order: int = 0
    """In an undo: 1 for the first that was undone in this saga, 2 for the next, and so on."""
    failed: list[Attempt] = []
    """The attempts before the last one."""
    planned: list[Plan] = []
    """The events that it planned for later."""
    emitted: list[EventNode] = []
    undone_by: list[Reaction] = []
    """The undos of this step."""


class EventNode(msgspec.Struct, omit_defaults=True):
    """An event and what reacted to it."""

    id: str
    type: str
    time: int
    at_ms: int
    """Since the saga began."""
    source: str = ""
    """``participant/step`` that emitted it, or the name of a producer."""
    back: bool = False
    """Whether it belongs to the way back."""
    state: str = ""
    """The state into which it brought the saga."""
    cause: str = ""
    """At the top of the tree: the event that led to it, if one did. It is not known, or the way there is
    so long that the tree begins anew here."""
    reactions: list[Reaction] = []


class Incident(msgspec.Struct, omit_defaults=True):
    """Something that happened to the saga as a whole: an operator's order, a refused entry."""

    kind: Kind
    time: int
    at_ms: int
    note: str = ""
    detail: str = ""
    state: str = ""
    order: str = ""
    """What an operator ordered: ``compensate``, ``replay``, ``drop``, ``retry`` or ``resolve``."""
    about: str = ""
    """``participant/step`` or ``participant/step/undo`` that the order is about, if it is about one."""


class Trace(msgspec.Struct, omit_defaults=True):
    """The causal tree of one saga."""

    saga: View
    events: list[EventNode]
    """The events that no known step emitted: usually the one that began the saga."""
    incidents: list[Incident] = []
    awaits: list[Awaited] = []


#: Facts about the saga as a whole.
_INCIDENTS = frozenset({Kind.ORDERED, Kind.REFUSED, Kind.LOST})
#: Events that may hang below each other. JSON that nests deeper can be neither written nor read.
MAX_DEPTH = 100

def build_trace(view: View, facts: Sequence[Fact], listeners: Listeners) -> Trace:
    """The causal tree of a saga.

    ``facts`` are in their canonical order and without repetition; ``listeners`` say who would react,
    so that what has not happened yet can be named.
    """
    start = view.started
    nodes = {fact.id: _event_node(fact, start) for fact in facts if fact.kind is Kind.EVENT}
    reactions = _reactions(facts, nodes)
    _add_plans(view, facts, reactions)
    events = [fact for fact in facts if fact.kind is Kind.EVENT]
    circular = _circular({fact.id: fact.cause for fact in events})
    roots = []
    depths: dict[str, int] = {}
    for fact in events:
        reaction = reactions.get(_key(fact))
        depth = depths.get(fact.cause, 0) + 1
        if reaction is None or fact.cause not in nodes or fact.id in circular or depth > MAX_DEPTH:
            nodes[fact.id].cause = fact.cause
            roots.append(nodes[fact.id])
            depth = 0
        else:
            reaction.emitted.append(nodes[fact.id])
        depths[fact.id] = depth
    incidents = [_incident(fact, start) for fact in facts if fact.kind in _INCIDENTS]
    return Trace(view, roots, incidents, list(awaited(view, facts, listeners)))


def _event_node(fact: Fact, start: int) -> EventNode:
    return EventNode(
        fact.id, fact.type, fact.time, max(0, fact.time - start), fact.handler, fact.back, fact.state
    )


def _key(fact: Fact) -> tuple[str, str, str, str]:
    return fact.participant, fact.step, fact.undo, fact.cause


def _reactions(
    facts: Sequence[Fact], nodes: Mapping[str, EventNode]
) -> dict[tuple[str, str, str, str], Reaction]:
    """Every step and undo that handled an event, hung below that event or below the step it undoes."""
    found: dict[tuple[str, str, str, str], Reaction] = {}
    asked = {entry: fact.time for fact in reversed(facts) for entry in fact.asks}
    again = replayed(facts)
    planned = {planned_event(fact) for fact in facts if fact.kind is Kind.PLANNED}
    order = 0
    for fact in sorted(facts, key=lambda each: bool(each.undo)):
        if not fact.step or fact.kind in (Kind.ORDERED, Kind.REFUSED, Kind.PLANNED) or fact.id in planned:
            continue  # what was planned comes when its step is long over
        reaction = found.get(_key(fact))
        if reaction is None:
            outcome = Kind.RETRYING if fact.id in again else fact.kind
            reaction = found[_key(fact)] = Reaction(fact.participant, fact.step, outcome, undo=fact.undo)
            _hang(reaction, fact, found, nodes)
        failed = _failed(reaction, fact, again)
        if failed:
            reaction.failed.append(failed)
        elif fact.undo and not reaction.order:
            order += 1
            reaction.order = order
        _tell(reaction, fact, asked, nodes, failed=failed is not None)
    return found


def _add_plans(
    view: View, facts: Sequence[Fact], reactions: Mapping[tuple[str, str, str, str], Reaction]
) -> None:
    for fact, became in plans(view, facts):
        if _key(fact) in reactions:
            reactions[_key(fact)].planned.append(Plan(fact.type, fact.due, became))


def _hang(
    reaction: Reaction, fact: Fact, found: Mapping[tuple[str, str, str, str], Reaction],
    nodes: Mapping[str, EventNode],
) -> None:  # fmt: skip
    step = found.get((fact.participant, fact.step, "", fact.cause)) if fact.undo else None
    if step is not None:
        step.undone_by.append(reaction)
    elif fact.cause in nodes:
        nodes[fact.cause].reactions.append(reaction)


def _failed(reaction: Reaction, fact: Fact, again: Mapping[str, Fact]) -> Attempt | None:
    """What ``fact`` tells of an attempt that was followed by another: by itself, or as an operator said."""
    if fact.kind is Kind.RETRYING:
        return Attempt(fact.attempt, fact.time, fact.due, fact.note, fact.detail)
    if fact.id in again:
        return Attempt(_next_attempt(reaction), fact.time, again[fact.id].time, fact.note, fact.detail)
    return None


def _next_attempt(reaction: Reaction) -> int:
    return reaction.failed[-1].number + 1 if reaction.failed else 1


def _tell(
    reaction: Reaction, fact: Fact, asked: Mapping[str, int], nodes: Mapping[str, EventNode], *, failed: bool
) -> None:
    if not failed:
        if fact.kind is not Kind.EVENT or reaction.outcome in (Kind.EVENT, Kind.RETRYING):
            reaction.outcome = fact.kind
        reaction.note = reaction.note or (fact.note if fact.kind is not Kind.EVENT else "")
        reaction.detail = reaction.detail or (fact.detail if fact.kind is not Kind.EVENT else "")
    reaction.began = fact.began or reaction.began or fact.time
    reaction.ended = max(reaction.ended, fact.time)
    reaction.worked_ms = max(0, reaction.ended - reaction.began)
    due = asked.get(f"{fact.handler}:{fact.cause}") if fact.undo else None
    if due is None and fact.cause in nodes:
        due = nodes[fact.cause].time
    if due is not None:
        reaction.waited_ms = max(0, reaction.began - due)


def _circular(causes: Mapping[str, str]) -> set[str]:
    """The events that are, by what foreign producers say, causes of themselves."""
    found: set[str] = set()
    cleared: set[str] = set()
    for start in causes:
        path: dict[str, None] = {}
        event = start
        while event in causes and event not in cleared and event not in path:
            path[event] = None
            event = causes[event]
        if event in path:
            walked = list(path)
            found.update(walked[walked.index(event) :])
        cleared.update(path)
    return found


def _incident(fact: Fact, start: int) -> Incident:
    about = "/".join(filter(None, (fact.participant, fact.step, fact.undo)))
    return Incident(
        fact.kind, fact.time, max(0, fact.time - start), fact.note, fact.detail, fact.state, fact.order, about
    )
