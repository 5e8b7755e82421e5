"""What only the whole picture shows: checks of the :class:`~choreo.model.flow.Flow`.

Each participant's own contract was checked when it was imported; these checks look at what the
participants and the plan make together. They follow what *may* happen by the declared contracts; what
a handler decides at run time is not looked into.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from choreo.model.compare import differences
from choreo.model.event import OWN_EVENTS
from choreo.model.flow import Flow, SagaPlan, StepNode
from choreo.model.risk import missing_undos


class Severity(StrEnum):
    """How bad a finding is."""

    ERROR = "error"
    """It cannot work as it stands."""
    WARNING = "warning"
    """It may be meant so, but is more often a mistake."""


class Code(StrEnum):
    """What kind of finding it is. These codes are stable: scripts may rely on them."""

    EVENT_UNCARRIED = "event-uncarried"
    """A participant hears or emits an event type that no stream carries."""
    EVENT_UNKNOWN = "event-unknown"
    """A stream carries an event type that no participant hears or emits."""
    EVENT_UNHEARD = "event-unheard"
    """An event is emitted on the way forward, ends no saga, and nobody hears it."""
    EVENT_UNEMITTED = "event-unemitted"
    """Somebody waits for an event, or a saga ends with it, but nobody emits it."""
    STEP_WITHOUT_UNDO = "step-without-undo"
    """A step cannot be undone, though its saga can still abort after it."""
    SAGA_WITHOUT_END = "saga-without-end"
    """A saga's start does not lead to what completes it."""
    CYCLE_WITHOUT_EXIT = "cycle-without-exit"
    """Events cause one another in a circle that leads to no end of a saga."""
    EXPECTED_UNREACHED = "expected-unreached"
    """A saga expects an event that nothing leads to, or after one that nothing leads to."""
    CONTRACTS_DIFFER = "contracts-differ"
    """Two participants mean different classes by one event type."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check found: at ``where`` (``file:line``), ``what`` is wrong and would be right."""

    where: str
    severity: Severity
    code: Code
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.severity} {self.code}: {self.what}"


def check(flow: Flow) -> list[Finding]:
    """Every finding about ``flow``, ordered by file and line."""
    found = [*_events(flow), *_expected(flow), *_undos(flow), *_ends(flow), *_cycles(flow), *_contracts(flow)]
    return sorted(dict.fromkeys(found), key=_place)


def _place(finding: Finding) -> tuple[str, int, str, str]:
    path, _, line = finding.where.rpartition(":")
    return path, int(line) if line.isdigit() else 0, finding.code, finding.what


def _events(flow: Flow) -> Iterator[Finding]:
    known = {event for event in flow.events if _users(flow, event)}
    ends = {event for saga in flow.plan.sagas for event in saga.ends}
    awaited = {event for event in known if flow.hearers[event]} | ends
    starts = {event for saga in flow.plan.sagas for event in saga.starts_with}
    backward = _only_backward(flow)
    for event in flow.events:
        if event in OWN_EVENTS:
            yield from _own(flow, event)
            continue
        emitted = bool(flow.emitters[event] or flow.undoers[event])
        if event in known and event not in flow.plan.routes:
            yield _uncarried(flow, event)
        if event not in known and event not in starts | ends:
            yield _unknown(flow, event)
        elif event in awaited - starts and not emitted:
            yield _unemitted(flow, event)
        elif event not in ends | backward and not flow.hearers[event]:
            yield _unheard(flow, event)


def _users(flow: Flow, event: str) -> list[StepNode]:
    return [*flow.hearers[event], *flow.emitters[event], *flow.undoers[event]]


def _only_backward(flow: Flow) -> set[str]:
    """Events that only undos emit, or steps that run only when a saga has aborted: nobody need hear those."""
    forward = {step for saga in flow.plan.sagas for step in flow.forward(saga).steps}
    back = {step for saga in flow.plan.sagas for step in flow.back(saga).steps} - forward
    return {
        event
        for event in flow.events
        if (flow.undoers[event] or flow.emitters[event]) and back.issuperset(flow.emitters[event])
    }


def _where(step: StepNode, event: str) -> str:
    """Where ``event`` is named: at the step, or at its undo."""
    if step.undo and event not in step.hears and event not in step.emits:
        return step.undo.where
    return step.where


def _uncarried(flow: Flow, event: str) -> Finding:
    users = _users(flow, event)
    return Finding(
        _where(users[0], event), Severity.ERROR, Code.EVENT_UNCARRIED,
        f"no stream carries {event}, which {_list(users)} {_verb(users, 'use')};"
        " add it to `events` of a stream",
    )


def _unknown(flow: Flow, event: str) -> Finding:
    route = flow.plan.routes[event]
    return Finding(
        route.where, Severity.WARNING, Code.EVENT_UNKNOWN,
        f"stream {route.stream} carries {event}, which no participant hears or emits; take it out,"
        " or add the participant that does",
    )


def _unemitted(flow: Flow, event: str) -> Finding:
    hearers = flow.hearers[event]
    ended = [f"saga {saga.name}" for saga in flow.plan.sagas if event in saga.ends]
    waiting = [step.label for step in hearers] + ended
    where = hearers[0].where if hearers else _declared(flow, event)
    return Finding(
        where, Severity.WARNING, Code.EVENT_UNEMITTED,
        f"nobody emits {event}, which {_and(waiting)} {'waits' if len(waiting) == 1 else 'wait'} for;"
        " let a step return it, or take it out",
    )


def _own(flow: Flow, event: str) -> Iterator[Finding]:
    """choreo itself emits it, if there is a deadline to pass."""
    hearers = flow.hearers[event]
    if hearers and not any(saga.deadlines for saga in flow.plan.sagas):
        yield Finding(
            hearers[0].where, Severity.WARNING, Code.EVENT_UNEMITTED,
            f"no saga has a deadline, so {event} never comes, which {_list(hearers)}"
            f" {_verb(list(hearers), 'wait')} for; give the saga a `deadline`, or take the step out",
        )


def _expected(flow: Flow) -> Iterator[Finding]:
    for saga in flow.plan.sagas:
        reached = flow.forward(saga).events
        for each in saga.deadlines.expects:
            if each.after not in reached:
                yield Finding(
                    saga.where, Severity.WARNING, Code.EXPECTED_UNREACHED,
                    f"saga {saga.name} expects {_or(each.one_of)} after {each.after}, but nothing leads from"
                    f" its start to {each.after}; take the entry out of `expects`, or name another event",
                )
            elif reached.isdisjoint(each.one_of):
                yield Finding(
                    saga.where, Severity.WARNING, Code.EXPECTED_UNREACHED,
                    f"saga {saga.name} expects {_or(each.one_of)} after {each.after}, but nothing leads from"
                    f" its start to {_or(each.one_of)}, so it would always time out; name another event",
                )


def _or(names: Sequence[str]) -> str:
    return " or ".join(names)


def _unheard(flow: Flow, event: str) -> Finding:
    emitters = [*flow.emitters[event], *flow.undoers[event]]
    if emitters:
        said = f"which {_list(emitters)} may emit, and no saga ends with it"
    else:
        begun = [f"saga {saga.name}" for saga in flow.plan.sagas if event in saga.starts_with]
        said = f"with which {_and(begun)} starts"
    return Finding(
        _where(emitters[0], event) if emitters else _declared(flow, event),
        Severity.WARNING,
        Code.EVENT_UNHEARD,
        f"nobody hears {event}, {said}; let a step react to it, or take it out",
    )


def _declared(flow: Flow, event: str) -> str:
    route = flow.plan.routes.get(event)
    if route:
        return route.where
    return next(saga.where for saga in flow.plan.sagas if event in saga.starts_with | saga.ends)


def _undos(flow: Flow) -> Iterator[Finding]:
    for saga in flow.plan.sagas:
        for missing in missing_undos(flow, saga):
            step = missing.step
            yield Finding(
                step.where, Severity.WARNING, Code.STEP_WITHOUT_UNDO,
                f"{step.label} has no undo, but saga {saga.name} can still abort after it:"
                f" {'; '.join(missing.risks)}. Declare one with @{step.name}.undo,"
                f" or let {step.participant} react to what aborts",
            )


def _ends(flow: Flow) -> Iterator[Finding]:
    for saga in flow.plan.sagas:
        for start in sorted(saga.starts_with):
            found = flow.forward(saga, start)
            missing = saga.completes_with - found.events
            if missing and (saga.completes_when_all or missing == saga.completes_with):
                yield Finding(
                    saga.where, Severity.ERROR, Code.SAGA_WITHOUT_END,
                    f"saga {saga.name} starts with {start}, but nothing leads from there to"
                    f" {_and(sorted(missing))}{_stuck(flow, saga, start)}",
                )


def _stuck(flow: Flow, saga: SagaPlan, start: str) -> str:
    """Where the way forward from ``start`` stops, as the tail of a message."""
    found = flow.forward(saga, start)
    for step in flow.steps:
        lacking = [event for event in step.hears if event not in found.events]
        if step.joins and step not in found.steps and len(lacking) < len(step.hears):
            return f"; {step.label} waits for {_and(lacking)} in vain"
    last = [event for event in flow.events if event in found.events and not flow.hearers[event]]
    return f"; the way stops at {_and(last)}" if last else ""


def _cycles(flow: Flow) -> Iterator[Finding]:
    forward: set[str] = set()
    for saga in flow.plan.sagas:
        found = flow.forward(saga)
        forward |= found.events - saga.aborts_with
        for circle, after in _circles(flow, found.events, found.steps, saga.aborts_with):
            if not after & saga.ends:
                yield _endless(flow, circle, f"saga {saga.name} can end from none of them", "to an end")
    # On the way back, and where no saga leads, there is no end to reach; the circle itself must be left.
    for circle, after in _circles(flow, set(flow.events) - forward, flow.steps, ()):
        silent = any(step.may_emit_nothing for step in _turning(flow, circle))
        if after <= set(circle) and not silent:
            yield _endless(flow, circle, "whatever the steps return", "out of it, or nothing")


def _endless(flow: Flow, circle: tuple[str, ...], reason: str, remedy: str) -> Finding:
    steps = _turning(flow, circle)
    return Finding(
        steps[0].where, Severity.ERROR, Code.CYCLE_WITHOUT_EXIT,
        f"{' → '.join([*circle, circle[0]])} go round without an exit: {reason};"
        f" let {'one of ' if len(steps) > 1 else ''}{_list(steps)} emit what leads {remedy}",
    )


def _turning(flow: Flow, circle: tuple[str, ...]) -> list[StepNode]:
    """The steps that keep a circle of events going."""
    return [step for event in circle for step in flow.hearers[event] if set(step.emits) & set(circle)]


def _circles(
    flow: Flow, events: Collection[str], steps: Collection[StepNode], blocked: Collection[str]
) -> Iterator[tuple[tuple[str, ...], set[str]]]:
    """The groups of ``events`` that lead to one another, each with all events that it leads to."""
    after = {event: _after(event, steps, blocked) for event in flow.events if event in events}
    seen: set[str] = set()
    for event, follow in after.items():
        if event in follow and event not in seen:
            circle = [other for other in after if other in follow and event in after[other]]
            seen.update(circle)
            yield _walk(flow, circle), follow


def _after(event: str, steps: Collection[StepNode], blocked: Collection[str]) -> set[str]:
    """The events that may follow from ``event``, itself only if it does so from itself."""
    found: set[str] = set()
    waiting = [event]
    while waiting:
        current = waiting.pop()
        if current not in blocked:
            new = {emitted for step in steps if current in step.hears for emitted in step.emits} - found
            found |= new
            waiting += new
    return found


def _walk(flow: Flow, circle: list[str]) -> tuple[str, ...]:
    """The events of a circle in an order in which they cause one another, as far as one walk gets."""
    path = [circle[0]]
    while True:
        emitted = [event for step in flow.hearers[path[-1]] for event in step.emits]
        ahead = [event for event in emitted if event in circle and event not in path]
        if not ahead:
            return tuple(path)
        path.append(ahead[0])


def _contracts(flow: Flow) -> Iterator[Finding]:
    for event, uses in flow.uses.items():
        first = uses[0]
        for other in uses[1:]:
            found = differences(first.event, other.event)
            if found:
                yield Finding(
                    other.where,
                    Severity.ERROR if any(each.breaks for each in found) else Severity.WARNING,
                    Code.CONTRACTS_DIFFER,
                    f"{event} of {other.participant} ({other.event.__module__}) differs from that of"
                    f" {first.participant} ({first.event.__module__}): {'; '.join(map(str, found))}."
                    " Import one class in both",
                )


def _list(steps: Iterable[StepNode]) -> str:
    return _and(step.label for step in steps)


def _and(names: Iterable[str]) -> str:
    unique = list(dict.fromkeys(names))
    return f"{', '.join(unique[:-1])} and {unique[-1]}" if len(unique) > 1 else "".join(unique)


def _verb(subjects: list[StepNode], verb: str) -> str:
    return verb if len({step.label for step in subjects}) > 1 else f"{verb}s"
