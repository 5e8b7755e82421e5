"""The causal tree of one saga, drawn.

At the left stands when something was committed, counted from the saga's beginning. Below an event
stand the steps that reacted to it, below a step the events that it emitted and what undid it::

    +0 ms  ● OrderPlaced  from client
           ├─ ✓ payments/charge  waited 3 ms, worked 12 ms
   +15 ms  │  ● PaymentCaptured
   +40 ms  │  ↶ refund  undone 2nd, waited 4 ms, worked 6 ms
   +40 ms  │    ● PaymentRefunded
   +22 ms  └─ ✗ inventory/reserve  waited 3 ms, worked 19 ms
                aborted: nothing left
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from choreo.drawing.durations import format_duration
from choreo.drawing.status import LOOKS, format_deadline, format_state, format_time, format_took
from choreo.drawing.text import clean, clean_lines, count, listed
from choreo.drawing.waits_format import MAX_AWAITED, NOTHING, format_waits
from choreo.model.facts import Kind, Order, View
from choreo.model.saga import State
from choreo.model.trace import EventNode, Incident, Plan, Reaction, Trace

#: Columns that a label keeps even in a deep tree; guides that would take them are cut at the left.
_LABEL_COLUMNS = 40

_DIM = "bright_black"
_GUIDE = "bright_black"

#: What a reaction came to -> its symbol and its colour.
_LOOKS: dict[Kind, tuple[str, str]] = {
    Kind.EVENT: ("✓", "green"),
    Kind.DONE: ("✓", "green"),
    Kind.WAITING: ("⋯", _DIM),
    Kind.LATE: ("✓", "yellow"),
    Kind.SKIPPED: ("-", _DIM),
    Kind.ABORTED: ("✗", "red"),
    Kind.RETRYING: ("↻", "yellow"),
    Kind.DEAD: ("✗", "red"),
    Kind.PARKED: ("✗", "red"),
    Kind.UNDONE: ("↶", "yellow"),
    Kind.STUCK: ("✗", "red"),
}
#: What is said of it on a line of its own, and how its note is added if it has one.
_REMARKS: dict[Kind, tuple[str, str]] = {
    Kind.LATE: ("too late, the saga was unwinding already", "; withheld: "),
    Kind.SKIPPED: ("not run, the saga was unwinding already", ": "),
    Kind.ABORTED: ("aborted", ": "),
    Kind.RETRYING: ("will be tried again", ""),
    Kind.DEAD: ("failed, now a dead letter", ": "),
    Kind.PARKED: ("failed, now a dead letter; the saga waits for an operator", ": "),
    Kind.STUCK: ("could not undo, now a dead letter", ": "),
}

#: The lines of a traceback that underline the one before; they miss their mark where lines are wrapped.
_UNDERLINES = re.compile(r"^ *[~^]+ *\n", re.MULTILINE)
#: How an operator's order is called.
_ORDERS: dict[str, str] = {
    Order.COMPENSATE: "compensation", Order.REPLAY: "a replay", Order.DROP: "dropping the letter",
    Order.RETRY: "a retry at once", Order.RESOLVE: "resolution",
}  # fmt: skip
#: What is said of an event that changed the saga's state.
_TURNS = {State.COMPLETED: "completes the saga", State.COMPENSATING: "aborts the saga"}


@dataclass(slots=True)
class Line:
    """One line of the tree. If its label is too long, it goes on below ``hanging``."""

    label: Text
    lead: str = ""
    """The guides before it."""
    hanging: str = ""
    """The guides before its further lines."""
    at_ms: int | None = None


@dataclass(slots=True)
class _Pending:
    """A part of the tree that is still to be drawn, below the guides ``lead`` and ``body``."""

    node: EventNode | Reaction
    lead: str
    body: str
    nested: bool = False
    """Whether it is an undo that stands below its step."""


@dataclass(slots=True)
class Drawing:
    """Lines that fit themselves into the width there is."""

    lines: list[Line] = field(default_factory=list)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        times = ["" if line.at_ms is None else f"+{format_duration(line.at_ms)}" for line in self.lines]
        margin = max(map(len, times), default=0) + 2
        for line, time in zip(self.lines, times, strict=True):
            room = max(_LABEL_COLUMNS // 2, options.max_width - margin)
            lead, hanging = (_shorten(guides, room - _LABEL_COLUMNS) for guides in (line.lead, line.hanging))
            parts = line.label.wrap(console, max(1, room - len(hanging))) or [Text()]
            for number, part in enumerate(parts):
                part.rstrip()
                yield Text.assemble(
                    ("" if number else time).rjust(margin - 2), "  ",
                    (hanging if number else lead, _GUIDE), part,
                )  # fmt: skip


def format_trace(trace: Trace, *, now: int, errors: bool = False) -> RenderableType:
    """A saga's header, its tree, and what it waits for.

    ``now`` is in milliseconds since the epoch: it says how long ago a running saga began. With
    ``errors`` the tracebacks of errors are shown.
    """
    parts: list[RenderableType] = [*format_header(trace.saga, now), Text()]
    parts.append(Drawing(list(_tree(trace, errors=errors))))
    footer = list(format_awaited(trace, now))
    return Group(*parts, *([Text(), *footer] if footer else []))


def format_header(view: View, now: int) -> Iterator[Text]:
    """Which saga it is, how it stands, since when, and why."""
    yield Text.assemble((clean(view.id), "bold"), ("  ", ""), (clean(view.type) or "(unknown type)", _DIM))
    yield Text.assemble(
        format_state(view.status), f" {format_took(view, now)}",
        (f"   started {format_time(view.started)}", _DIM),
        (f"   deadline {format_deadline(view, now)}" if view.deadline else "", _DIM),
    )  # fmt: skip
    if view.reason:
        yield Text.assemble(("  because ", _DIM), (clean(view.reason), LOOKS[view.status][1]))


def format_awaited(trace: Trace, now: int) -> Iterator[Text]:
    """What the saga waits for, one line each; or that an operator has to look."""
    view = trace.saga
    yield from format_waits(trace.awaits, now)
    if not trace.awaits and not view.status.ended:
        yield Text(NOTHING, style="yellow")
    if view.open_letters:
        yield Text(
            f"{count(view.open_letters, 'dead letter')}: an operator has to look;"
            f" see `choreo dlq list --saga {clean(view.id)}`",
            style="red",
        )


# -- the tree ----------------------------------------------------------------------------------------


def _tree(trace: Trace, *, errors: bool) -> Iterator[Line]:
    joined = _joins_that_ran(trace.events)
    nodes: list[EventNode | Incident] = [*trace.events, *trace.incidents]
    for node in sorted(nodes, key=lambda each: each.time):
        if isinstance(node, Incident):
            yield Line(_incident_label(node), hanging="  ", at_ms=node.at_ms)
        else:
            yield from _subtree(node, trace.saga, joined, errors=errors)


def _subtree(root: EventNode, view: View, joined: set[str], *, errors: bool) -> Iterator[Line]:
    """Everything that ``root`` led to. Not recursive: a saga may be longer than Python's stack."""
    waiting = [_Pending(root, "", "")]
    while waiting:
        pending = waiting.pop()
        if isinstance(pending.node, EventNode):
            yield _event_line(pending.node, pending, is_root=pending.node is root)
            waiting += reversed(list(_below_event(pending.node, pending.body)))
        else:
            yield from _reaction_lines(pending.node, pending, view, joined, errors=errors)
            waiting += reversed(list(_below_reaction(pending.node, pending)))


def _below_event(node: EventNode, body: str) -> Iterator[_Pending]:
    for number, reaction in enumerate(node.reactions, 1):
        is_last = number == len(node.reactions)
        yield _Pending(reaction, body + ("└─ " if is_last else "├─ "), body + ("   " if is_last else "│  "))


def _below_reaction(reaction: Reaction, pending: _Pending) -> Iterator[_Pending]:
    body = pending.body + ("  " if pending.nested else "")
    for event in reaction.emitted:
        yield _Pending(event, body, body)
    for undo in reaction.undone_by:
        yield _Pending(undo, body, body, nested=True)


def _event_line(node: EventNode, pending: _Pending, *, is_root: bool) -> Line:
    label = Text.assemble(("● ", "yellow" if node.back else "cyan"), (clean(node.type), "bold"))
    if is_root and node.source:
        label.append(f"  from {clean(node.source)}", style=_DIM)
    if node.state in set(State):
        state = State(node.state)
        label.append(f"  {_TURNS.get(state, f'the saga is {state}')}", style=LOOKS[state][1])
    below = "│ " if node.reactions else "  "
    return Line(label, pending.lead, pending.body + below, node.at_ms)


def _reaction_lines(
    reaction: Reaction, pending: _Pending, view: View, joined: set[str], *, errors: bool
) -> Iterator[Line]:
    symbol, colour = _LOOKS.get(reaction.outcome, ("?", _DIM))
    label = Text.assemble((f"{symbol} ", colour), _name(reaction, nested=pending.nested))
    label.append(f"  {_timing(reaction, view, joined)}", style=_DIM)
    hanging = pending.body + "  "
    # The step's time is that of its events; without any it has a line of its own to stand on.
    at_ms = None if reaction.emitted and not reaction.undo else max(0, reaction.ended - view.started)
    yield Line(label, pending.lead, hanging, at_ms)
    for attempt in reaction.failed:
        failure = f"attempt {attempt.number} failed: {clean(attempt.note)}"
        yield Line(Text(failure, style="yellow"), hanging, hanging)
        if errors:
            yield from _traceback(attempt.detail, hanging)
    for plan in reaction.planned:
        yield Line(Text(_plan(plan, view), style=_DIM), hanging, hanging)
    if reaction.outcome in _REMARKS:
        yield Line(Text(_remark(reaction), style=colour), hanging, hanging)
    if errors:
        yield from _traceback(reaction.detail, hanging)


def _traceback(text: str, hanging: str) -> Iterator[Line]:
    for line in clean_lines(_UNDERLINES.sub("", text.rstrip("\n"))) if text else ():
        yield Line(Text(line, style=_DIM), hanging + "  ", hanging + "    ")


def _remark(reaction: Reaction) -> str:
    said, joint = _REMARKS[reaction.outcome]
    return f"{said}{joint}{clean(reaction.note)}" if reaction.note not in ("", said) else said


def _plan(plan: Plan, view: View) -> str:
    said = f"planned {clean(plan.type)} for +{format_duration(max(0, plan.due - view.started))}"
    return f"{said}; void, the saga ended or turned back before" if plan.became == "void" else said


def _name(reaction: Reaction, *, nested: bool) -> Text:
    step = f"{reaction.participant}/{reaction.step}"
    if not reaction.undo:
        return Text(clean(step))
    return Text(clean(reaction.undo if nested else f"{reaction.undo} of {step}"))


def _timing(reaction: Reaction, view: View, joined: set[str]) -> str:
    if reaction.outcome is Kind.WAITING:
        return _join_timing(reaction, view, joined)
    parts = [f"undone {ordinal(reaction.order)}"] if reaction.outcome is Kind.UNDONE else []
    parts.append(f"waited {format_duration(reaction.waited_ms)}")
    if reaction.outcome is not Kind.SKIPPED:
        parts.append(f"worked {format_duration(reaction.worked_ms)}")
    if reaction.outcome is Kind.DONE:
        parts.append("no event")
    return ", ".join(parts)


def _join_timing(reaction: Reaction, view: View, joined: set[str]) -> str:
    missing = listed([clean(each) for each in reaction.note.split()[:MAX_AWAITED]])
    if f"{reaction.participant}/{reaction.step}" in joined:
        return f"then lacked {missing}"
    return f"waits for {missing}" if view.status is State.RUNNING else f"waited in vain for {missing}"


def _joins_that_ran(events: Iterable[EventNode]) -> set[str]:
    """``participant/step`` of whatever did more than wait."""
    ran = set()
    waiting: list[EventNode | Reaction] = list(events)
    while waiting:
        node = waiting.pop()
        if isinstance(node, EventNode):
            waiting += node.reactions
            continue
        if node.outcome is not Kind.WAITING and not node.undo:
            ran.add(f"{node.participant}/{node.step}")
        waiting += [*node.emitted, *node.undone_by]
    return ran


def _incident_label(incident: Incident) -> Text:
    note = clean(incident.note)
    if incident.kind is Kind.ORDERED:
        what = _ORDERS.get(incident.order, "a change")
        what += f" of {clean(incident.about)}" if incident.about else ""
        what += f" was ordered by {clean(incident.detail)}" if incident.detail else " was ordered"
        return Text.assemble(("! ", "yellow"), what, (f": {note}" if note else ""))
    return Text.assemble(("✗ ", "red"), "an entry was refused, now a dead letter: ", (note, "red"))


def ordinal(number: int) -> str:
    """``1st``, ``2nd``, ``3rd``, ``4th``, ..."""
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def _shorten(guides: str, columns: int) -> str:
    columns = max(6, columns)
    return guides if len(guides) <= columns else f"…{guides[1 - columns :]}"
