"""Which steps have no undo although their saga can still abort after them.

The rule, for one kind of saga:

* A *risk* is a step that may emit an event of ``aborts_with``, or whose code names ``Abort``. Errors that
  nobody expects, and operators, can abort any saga at any time; they are no reason to ask for an undo.
* A risk *comes after* a step if it can run downstream of it, or beside it: both can run in one saga, and
  the step does not need the risk to have run before. Alternatives (``-> A | B``) do not happen together,
  but on a circle one may follow the other.
* Nothing aborts a saga that has completed, so what runs only after that counts on neither side.
* A step that emits nothing but aborts tells nobody that it took effect; it is taken for one that reads.
* A participant that reacts to the abort's event compensates by hand. When a step raises ``Abort`` there is
  no such event; then it must react to something that an undo emits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from choreo.model.flow import Flow, SagaPlan, StepNode, reach

#: Beyond so many combinations of alternatives, all are taken to be possible together: the answer may
#: then name a risk that is none, but it comes soon.
_MAX_CHOICES = 256


@dataclass(frozen=True, slots=True)
class MissingUndo:
    """A step that should have an undo, and the risks after it, in words."""

    step: StepNode
    risks: tuple[str, ...]


def missing_undos(flow: Flow, saga: SagaPlan) -> list[MissingUndo]:
    """The steps without undo after which ``saga`` can still abort, in the order of declaration."""
    after = _risks_after(flow, saga)
    found = []
    for step in flow.steps:
        if step.undo or saga.aborts_with.issuperset(step.emits):
            continue
        others = [other for other in flow.steps if other is not step and other.label in after[step.label]]
        risks = [risk for other in others for risk in _risks(flow, saga, step, other)]
        if risks:
            found.append(MissingUndo(step, tuple(risks)))
    return found


def _risks(flow: Flow, saga: SagaPlan, step: StepNode, risk: StepNode) -> Iterator[str]:
    """How ``risk`` can abort the saga without the participant of ``step`` hearing of it."""
    heard = {event for other in flow.steps if other.participant == step.participant for event in other.hears}
    for event in risk.emits:
        if event in saga.aborts_with and event not in heard:
            yield f"{risk.label} may emit {event}"
    undone = {event for other in flow.forward(saga).steps if other.undo for event in other.undo.emits}
    if risk.raises_abort and not heard & undone:
        yield f"{risk.label} may raise Abort"


def _risks_after(flow: Flow, saga: SagaPlan) -> Mapping[str, set[str]]:
    """For each step the risks that may come after it, both by label."""
    after: dict[str, set[str]] = {step.label: set() for step in flow.steps}
    runs = _runs(flow)
    for blocked in _still_open(saga):
        for start in sorted(saga.starts_with):
            for choice in _choices(flow, runs, blocked):
                for step, risk in _beside(runs, start, blocked, choice, saga):
                    after[step.label].add(risk.label)
        for step, risk in _round(runs, blocked, saga):
            after[step.label].add(risk.label)
    return after


def _runs(flow: Flow) -> list[StepNode]:
    """The steps, those that react to several events once for each: each run chooses for itself."""
    runs: list[StepNode] = []
    for step in flow.steps:
        if step.joins:
            runs.append(step)
        else:
            runs += [replace(step, hears=(event,)) for event in step.hears]
    return runs


def _still_open(saga: SagaPlan) -> list[frozenset[str]]:
    """Sets of events that, while nobody reacts to them, leave the saga open: neither aborted nor completed.

    If all of ``completes_with`` are needed, it is open as long as any one of them is lacking.
    """
    if saga.completes_when_all:
        return [saga.aborts_with | {event} for event in sorted(saga.completes_with)]
    return [saga.ends]


def _choices(
    flow: Flow, runs: list[StepNode], blocked: frozenset[str]
) -> Iterator[Mapping[StepNode, Sequence[str]]]:
    """Each way to choose one of the alternatives of every run that has some."""
    branches: dict[StepNode, list[str]] = {}
    for run in runs:
        heard = [event for event in run.emits if flow.hearers[event] and event not in blocked]
        if run.emits_one and len(heard) > 1:
            branches[run] = heard
    if math.prod(map(len, branches.values())) > _MAX_CHOICES:
        yield {}
        return
    for chosen in itertools.product(*branches.values()):
        yield {run: (event,) for run, event in zip(branches, chosen, strict=True)}


def _beside(
    runs: list[StepNode],
    start: str,
    blocked: frozenset[str],
    choice: Mapping[StepNode, Sequence[str]],
    saga: SagaPlan,
) -> Iterator[tuple[StepNode, StepNode]]:
    """Pairs of a step and a risk that run in one saga, where the step does not need the risk."""
    for risk in reach(runs, {start}, blocked=blocked, choice=choice).steps:
        if _is_risk(risk, saga):
            others = [run for run in runs if run != risk]
            for step in reach(others, {start}, blocked=blocked, choice=choice).steps:
                yield step, risk


def _round(
    runs: list[StepNode], blocked: frozenset[str], saga: SagaPlan
) -> Iterator[tuple[StepNode, StepNode]]:
    """Pairs of a step that may run again and a risk that it leads to: next time it may choose otherwise."""
    everything = reach(runs, saga.starts_with, blocked=blocked)
    for step in everything.steps:
        ahead = reach(runs, step.emits, blocked=blocked, already=everything.events - blocked)
        if step in ahead.steps:
            yield from ((step, risk) for risk in ahead.steps if _is_risk(risk, saga))


def _is_risk(step: StepNode, saga: SagaPlan) -> bool:
    return step.raises_abort or not saga.aborts_with.isdisjoint(step.emits)
