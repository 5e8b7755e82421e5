"""The choreography as text: Mermaid, DOT, plain data for JSON, and a tree for the terminal.

Nothing here prints; every function returns what is to be printed.
"""

from __future__ import annotations

from typing import Any

from rich.text import Text
from rich.tree import Tree

from choreo.model.flow import Flow, SagaPlan, StepNode

#: Version of what :func:`to_data` returns. Additions keep it, anything else raises it.
SCHEMA_VERSION = 1

_ABOVE = Text(" ⋯ see above", style="dim")
_BELOW = Text(" ⋯ see below", style="dim")


def to_data(flow: Flow) -> dict[str, Any]:
    """The graph as plain data, ready for JSON::

        {
          "version": 1,
          "events": [{"name": str, "stream": str | null,
                      "emitted_by": [step], "heard_by": [step],
                      "starts": [saga], "completes": [saga], "aborts": [saga]}],
          "steps": [{"participant": str, "name": str, "where": "file:line",
                     "hears": [event], "waits_for_all": bool, "emits": [event],
                     "undo": {"name": str, "where": "file:line",
                              "undoes": [event], "emits": [event]} | null}],
          "sagas": [{"name": str, "where": "file:line", "starts_with": [event],
                     "completes_with": [event], "completes_when_all": bool,
                     "aborts_with": [event]}]
        }

    ``event`` and ``saga`` are names, ``step`` is ``participant/step`` or, for what an undo emits,
    ``participant/step/undo``. Lists are in the order of declaration, alternatives in alphabetical order.
    """
    return {
        "version": SCHEMA_VERSION,
        "events": [_event_data(flow, event) for event in flow.events],
        "steps": [_step_data(step) for step in flow.steps],
        "sagas": [_saga_data(saga) for saga in flow.plan.sagas],
    }


def _event_data(flow: Flow, event: str) -> dict[str, Any]:
    route = flow.plan.routes.get(event)
    undoers = [f"{step.label}/{step.undo.name}" for step in flow.undoers[event] if step.undo]
    return {
        "name": event,
        "stream": route.stream if route else None,
        "emitted_by": [step.label for step in flow.emitters[event]] + undoers,
        "heard_by": [step.label for step in flow.hearers[event]],
        "starts": [saga.name for saga in flow.plan.sagas if event in saga.starts_with],
        "completes": [saga.name for saga in flow.plan.sagas if event in saga.completes_with],
        "aborts": [saga.name for saga in flow.plan.sagas if event in saga.aborts_with],
    }


def _step_data(step: StepNode) -> dict[str, Any]:
    undo = step.undo
    return {
        "participant": step.participant,
        "name": step.name,
        "where": step.where,
        "hears": list(step.hears),
        "waits_for_all": step.joins,
        "emits": list(step.emits),
        "undo": undo
        and {"name": undo.name, "where": undo.where, "undoes": list(undo.covers), "emits": list(undo.emits)},
    }


def _saga_data(saga: SagaPlan) -> dict[str, Any]:
    return {
        "name": saga.name,
        "where": saga.where,
        "starts_with": sorted(saga.starts_with),
        "completes_with": sorted(saga.completes_with),
        "completes_when_all": saga.completes_when_all,
        "aborts_with": sorted(saga.aborts_with),
    }


def to_mermaid(flow: Flow) -> str:
    """The graph as a Mermaid flowchart; dotted arrows are the way back."""
    ids = _Ids(flow)
    lines = ["flowchart LR"]
    for event in flow.events:
        lines.append(f"  {ids.event(event)}([{_mermaid(event + _marks(flow, event))}])")
    for participant in _participants(flow):
        lines.append(f"  subgraph {ids.participant(participant)}[{_mermaid(participant)}]")
        for step in _steps_of(flow, participant):
            lines.append(f"    {ids.step(step)}[{_mermaid(step.name)}]")
            if step.undo:
                lines.append(f"    {ids.undo(step)}[{_mermaid('↶ ' + step.undo.name)}]")
        lines.append("  end")
    for step in flow.steps:
        label = f"|{_mermaid('all')}|" if step.joins else ""
        lines += [f"  {ids.event(event)} -->{label} {ids.step(step)}" for event in step.hears]
        lines += [f"  {ids.step(step)} --> {ids.event(event)}" for event in step.emits]
        if step.undo:
            lines.append(f"  {ids.step(step)} -.-> {ids.undo(step)}")
            lines += [f"  {ids.undo(step)} -.-> {ids.event(event)}" for event in step.undo.emits]
    return "\n".join(lines) + "\n"


def _mermaid(text: str) -> str:
    """A quoted label. Within quotes Mermaid reads entities, which are written with ``#``."""
    escaped = text.replace("#", "#35;").replace('"', "#quot;").replace("<", "#lt;").replace(">", "#gt;")
    return f'"{_one_line(escaped)}"'


def to_dot(flow: Flow) -> str:
    """The graph in Graphviz's DOT language; dashed arrows are the way back."""
    ids = _Ids(flow)
    lines = ["digraph choreography {", "  rankdir=LR;", '  node [fontname="sans-serif"];']
    for event in flow.events:
        lines.append(f"  {ids.event(event)} [shape=oval, label={_dot(event + _marks(flow, event))}];")
    for participant in _participants(flow):
        lines.append(f"  subgraph cluster_{ids.participant(participant)} {{")
        lines.append(f"    label={_dot(participant)};")
        for step in _steps_of(flow, participant):
            lines.append(f"    {ids.step(step)} [shape=box, label={_dot(step.name)}];")
            if step.undo:
                label = _dot("↶ " + step.undo.name)
                lines.append(f"    {ids.undo(step)} [shape=box, style=dashed, label={label}];")
        lines.append("  }")
    for step in flow.steps:
        label = ' [label="all"]' if step.joins else ""
        lines += [f"  {ids.event(event)} -> {ids.step(step)}{label};" for event in step.hears]
        lines += [f"  {ids.step(step)} -> {ids.event(event)};" for event in step.emits]
        if step.undo:
            lines.append(f"  {ids.step(step)} -> {ids.undo(step)} [style=dashed];")
            emitted = [ids.event(event) for event in step.undo.emits]
            lines += [f"  {ids.undo(step)} -> {event} [style=dashed];" for event in emitted]
    return "\n".join([*lines, "}"]) + "\n"


def _dot(text: str) -> str:
    """A quoted string. Only quotes and backslashes mean anything in it."""
    escaped = _one_line(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else "�" for char in text)


class _Ids:
    """Short ids for the nodes, so that no name has to be one."""

    def __init__(self, flow: Flow) -> None:
        self._events = {event: f"e{number}" for number, event in enumerate(flow.events)}
        self._steps = {step: number for number, step in enumerate(flow.steps)}
        self._participants = {name: f"p{number}" for number, name in enumerate(_participants(flow))}

    def event(self, event: str) -> str:
        return self._events[event]

    def step(self, step: StepNode) -> str:
        return f"s{self._steps[step]}"

    def undo(self, step: StepNode) -> str:
        return f"u{self._steps[step]}"

    def participant(self, name: str) -> str:
        return self._participants[name]


def _participants(flow: Flow) -> list[str]:
    return list(dict.fromkeys(step.participant for step in flow.steps))


def _steps_of(flow: Flow, participant: str) -> list[StepNode]:
    return [step for step in flow.steps if step.participant == participant]


def _marks(flow: Flow, event: str) -> str:
    """`` ▶ order`` for what starts a saga, ✓ for what completes one and ✗ for what aborts one."""
    marks = []
    for saga in flow.plan.sagas:
        marks += [f" ▶ {saga.name}"] if event in saga.starts_with else []
        marks += [f" ✓ {saga.name}"] if event in saga.completes_with else []
        marks += [f" ✗ {saga.name}"] if event in saga.aborts_with else []
    return "".join(marks)


def to_tree(flow: Flow, title: str = "choreography") -> Tree:
    """The graph as a tree: each saga from its start, who reacts, what they emit, what undoes it.

    What was shown above is not shown again but referred to, so circles end. At the end stand the steps
    that no saga reaches.
    """
    root = Tree(Text(title, style="bold"), guide_style="dim")
    shown: set[StepNode] = set()
    for saga in flow.plan.sagas:
        branch = root.add(Text.assemble("saga ", (saga.name, "bold magenta")))
        possible = flow.forward(saga).events | flow.back(saga).events
        grower = _Grower(flow, saga, possible)
        for start in sorted(saga.starts_with):
            grower.add_event(branch, start)
        shown |= grower.steps
    others = [step for step in flow.steps if step not in shown]
    if others:
        branch = root.add(Text("no saga leads here", style="yellow"))
        grower = _Grower(flow, SagaPlan("", frozenset(), frozenset(), ""), frozenset(flow.events))
        for event in _sources(others):
            if any(step not in grower.steps for step in flow.hearers[event]):
                grower.add_event(branch, event)
    return root


def _sources(steps: list[StepNode]) -> list[str]:
    """The events that ``steps`` hear; first those that none of them causes."""
    caused = {event for step in steps for event in (*step.emits, *(step.undo.emits if step.undo else ()))}
    heard = dict.fromkeys(event for step in steps for event in step.hears)
    return sorted(heard, key=lambda event: event in caused)


class _Grower:
    """Adds events and steps to the tree of one saga, in which ``possible`` events may be emitted."""

    def __init__(self, flow: Flow, saga: SagaPlan, possible: frozenset[str]) -> None:
        self.flow = flow
        self.saga = saga
        self.possible = possible
        self.events: set[str] = set()
        self.steps: set[StepNode] = set()

    def add_event(self, parent: Tree, event: str, *, back: bool = False) -> None:
        """Add ``event`` and, the first time, what reacts to it."""
        hearers = self.flow.hearers[event]
        label = Text(event, style="yellow" if back else "green")
        label.append_text(self._ending(event))
        if event in self.events:
            parent.add(label.append(_ABOVE) if hearers else label)
            return
        self.events.add(event)
        branch = parent.add(label)
        for step in hearers:
            self._add_step(branch, step, back=back or event in self.saga.aborts_with)

    def _ending(self, event: str) -> Text:
        if event in self.saga.completes_with:
            others = sorted(self.saga.completes_with - {event})
            with_all = f", with {' + '.join(others)}" if self.saga.completes_when_all and others else ""
            return Text(f" ✓ completes{with_all}", style="bold green")
        if event in self.saga.aborts_with:
            return Text(" ✗ aborts", style="bold red")
        return Text()

    def _add_step(self, parent: Tree, step: StepNode, *, back: bool) -> None:
        label = Text.assemble((step.participant, "cyan"), "/", (step.name, "bold"))
        branch = parent.add(label)
        if step in self.steps:
            if step.emits or step.undo:
                label.append(_ABOVE)
            return
        if step.joins:
            label.append(f" ⧗ waits for {' + '.join(step.hears)}", style="blue")
            if self._wait_is_shown(label, step):
                return
        self._expand(branch, step, back=back)

    def _wait_is_shown(self, label: Text, step: StepNode) -> bool:
        """Whether a join is not to be shown in full here, but at the last event that it waits for."""
        never = [event for event in step.hears if event not in self.possible]
        if never:
            label.append(f" ⋯ but nothing leads to {' + '.join(never)}", style="red")
            self.steps.add(step)
            return True
        if not self.events.issuperset(step.hears):
            label.append(_BELOW)
            return True
        return False

    def _expand(self, branch: Tree, step: StepNode, *, back: bool) -> None:
        self.steps.add(step)
        for event in step.emits:
            self.add_event(branch, event, back=back)
        if step.undo:
            undo = branch.add(Text.assemble(("↶ ", "bold yellow"), (step.undo.name, "yellow")))
            for event in step.undo.emits:
                self.add_event(undo, event, back=True)
