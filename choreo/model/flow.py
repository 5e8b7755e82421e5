"""The choreography as a graph, derived from the participants' code.

Nobody writes this graph down: it follows from who hears and who emits which event. Events lead to the
steps that hear them, steps lead to the events that they may emit, and to their undo, which may emit
events too.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import CodeType
from typing import Any

from choreo.model import contract
from choreo.model.deadlines import NO_DEADLINES, Deadlines
from choreo.model.event import Event, SagaTimedOut, type_name
from choreo.model.participant import Participant, Step, Undo


@dataclass(frozen=True, slots=True)
class Route:
    """Which stream carries an event type, and where that is written (``file:line``)."""

    stream: str
    where: str


@dataclass(frozen=True, slots=True)
class SagaPlan:
    """How a kind of saga begins and ends, and where that is written (``file:line``)."""

    name: str
    starts_with: frozenset[str]
    completes_with: frozenset[str]
    where: str
    completes_when_all: bool = False
    aborts_with: frozenset[str] = frozenset()
    deadlines: Deadlines = NO_DEADLINES

    @property
    def ends(self) -> frozenset[str]:
        """The events that end it, one way or the other."""
        return self.completes_with | self.aborts_with


@dataclass(frozen=True, slots=True)
class Plan:
    """What is declared beside the code: routes by event type, and kinds of saga."""

    routes: Mapping[str, Route] = field(default_factory=dict)
    sagas: tuple[SagaPlan, ...] = ()


@dataclass(frozen=True, slots=True)
class UndoNode:
    """The undo of a step. Event types are named, in alphabetical order."""

    name: str
    emits: tuple[str, ...]
    covers: tuple[str, ...]
    """The results of the step that it undoes."""
    where: str


@dataclass(frozen=True, slots=True)
class StepNode:
    """A step and its event types by name: those heard as declared, those emitted in alphabetical order."""

    participant: str
    name: str
    hears: tuple[str, ...]
    emits: tuple[str, ...]
    where: str
    joins: bool = False
    """Whether it waits for all that it hears, rather than reacting to any."""
    emits_one: bool = True
    """Whether one run emits at most one event, so that what it emits are alternatives."""
    may_emit_nothing: bool = False
    """Whether one run may come without an event."""
    raises_abort: bool = False
    """Whether its code names ``Abort``. Helpers that it calls are not looked into."""
    undo: UndoNode | None = None

    @property
    def label(self) -> str:
        """``participant/step``."""
        return f"{self.participant}/{self.name}"

    def hears_enough(self, events: Collection[str], already: Collection[str] = ()) -> bool:
        """Whether ``events`` set it off; those that were there ``already`` count for a join only."""
        if not any(event in events for event in self.hears):
            return False
        return not self.joins or all(event in events or event in already for event in self.hears)


@dataclass(frozen=True, slots=True)
class Use:
    """One class that a participant uses for an event type, and one step or undo that does."""

    participant: str
    event: type[Event]
    where: str


@dataclass(frozen=True, slots=True)
class Reach:
    """What can happen: the events that may be emitted and the steps that may run."""

    events: frozenset[str]
    steps: frozenset[StepNode]


@dataclass(frozen=True)
class Flow:
    """The graph. Everything is in the order of declaration, so that equal code gives equal output."""

    plan: Plan
    steps: tuple[StepNode, ...]
    uses: Mapping[str, tuple[Use, ...]]
    """Event type -> the classes that participants use for it, each class once."""

    @cached_property
    def events(self) -> tuple[str, ...]:
        """Every event type that the plan or the code names."""
        named = [*self.plan.routes]
        for step in self.steps:
            named += [*step.hears, *step.emits, *(step.undo.emits if step.undo else ())]
        for saga in self.plan.sagas:
            named += sorted(saga.starts_with | saga.ends)
        return tuple(dict.fromkeys(named))

    @cached_property
    def hearers(self) -> dict[str, tuple[StepNode, ...]]:
        """Event type -> the steps that hear it."""
        return {event: tuple(step for step in self.steps if event in step.hears) for event in self.events}

    @cached_property
    def emitters(self) -> dict[str, tuple[StepNode, ...]]:
        """Event type -> the steps that may emit it on their own account, not by their undo."""
        return {event: tuple(step for step in self.steps if event in step.emits) for event in self.events}

    @cached_property
    def undoers(self) -> dict[str, tuple[StepNode, ...]]:
        """Event type -> the steps whose undo may emit it."""
        return {
            event: tuple(step for step in self.steps if step.undo and event in step.undo.emits)
            for event in self.events
        }

    def forward(self, saga: SagaPlan, start: str | None = None) -> Reach:
        """What can happen in ``saga`` while it has not aborted, from one start or from any of them."""
        return reach(self.steps, saga.starts_with if start is None else {start}, blocked=saga.aborts_with)

    def back(self, saga: SagaPlan) -> Reach:
        """What can happen in ``saga`` once it aborts: what abort events, deadlines and undos lead to."""
        forward = self.forward(saga)
        undone = [event for step in forward.steps if step.undo for event in step.undo.emits]
        aborting = saga.aborts_with & forward.events
        timing_out = [type_name(SagaTimedOut)] if saga.deadlines else []
        return reach(self.steps, [*undone, *aborting, *timing_out], already=forward.events)


def reach(
    steps: Iterable[StepNode],
    seeds: Iterable[str],
    *,
    blocked: Collection[str] = (),
    already: Collection[str] = (),
    choice: Mapping[StepNode, Sequence[str]] | None = None,
) -> Reach:
    """What can follow from the events ``seeds``: a step can run when what it hears can be emitted.

    This looks at what *may* happen: alternatives count as if all of them came, unless ``choice`` says
    what a step emits. Nobody reacts to ``blocked`` events, though they may be emitted. Events that were
    there ``already`` count for joins, but set nothing off.
    """
    events = set(seeds)
    waiting = list(steps)
    ran: set[StepNode] = set()
    while True:
        heard = events.difference(blocked)
        ready = [step for step in waiting if step.hears_enough(heard, already)]
        if not ready:
            return Reach(frozenset(events), frozenset(ran))
        ran.update(ready)
        waiting = [step for step in waiting if step not in ran]
        for step in ready:
            events.update(step.emits if choice is None else choice.get(step, step.emits))


def derive(participants: Iterable[Participant], plan: Plan) -> Flow:
    """The graph of ``participants`` under ``plan``."""
    nodes: list[StepNode] = []
    uses: dict[str, dict[type[Event], Use]] = {}
    for participant in participants:
        for step in participant.steps:
            node = _step_node(step)
            nodes.append(node)
            undone = step.compensation.outcome.types if step.compensation else frozenset()
            for event in [*step.on, *_in_order(step.outcome.types), *_in_order(undone)]:
                use = Use(participant.name, event, node.where)
                uses.setdefault(type_name(event), {}).setdefault(event, use)
    return Flow(plan, tuple(nodes), {name: tuple(found.values()) for name, found in uses.items()})


def _step_node(step: Step[Any]) -> StepNode:
    names = set(_names(inspect.unwrap(step.function).__code__))
    emits_more = step.outcome.several or (step.takes_context and "emit" in names)
    return StepNode(
        participant=step.participant,
        name=step.name,
        hears=tuple(type_name(event) for event in step.on),
        emits=_type_names(step.outcome.types),
        where=step.location,
        joins=step.is_join,
        emits_one=not emits_more,
        may_emit_nothing=step.outcome.nothing or step.outcome.several or not step.outcome.types,
        raises_abort="Abort" in names,
        undo=_undo_node(step.compensation) if step.compensation else None,
    )


def _undo_node(undo: Undo) -> UndoNode:
    return UndoNode(
        name=undo.name,
        emits=_type_names(undo.outcome.types),
        covers=_type_names(undo.types),
        where=contract.location(undo.function),
    )


def _type_names(events: Iterable[type[Event]]) -> tuple[str, ...]:
    return tuple(type_name(event) for event in _in_order(events))


def _in_order(events: Iterable[type[Event]]) -> list[type[Event]]:
    return sorted(events, key=lambda event: (type_name(event), event.__module__))


def _names(code: CodeType) -> Iterator[str]:
    """The names that a function's code refers to, its inner functions included."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)
