"""How the state of a saga is shown, in every table, tree and line alike."""

from __future__ import annotations

from datetime import datetime

from rich.text import Text

from choreo.drawing.durations import format_duration
from choreo.drawing.text import clean
from choreo.model.facts import View
from choreo.model.saga import State

#: State -> its symbol and its colour. The symbol tells the state also where there is no colour.
LOOKS: dict[State, tuple[str, str]] = {
    State.RUNNING: ("▶", "cyan"),
    State.COMPLETED: ("✓", "green"),
    State.COMPENSATING: ("↶", "yellow"),
    State.COMPENSATED: ("↶", "blue"),
    State.FAILED: ("✗", "red"),
    State.RESOLVED: ("✓", "magenta"),
}


def format_state(state: State) -> Text:
    """``✓ completed``, in its colour."""
    symbol, colour = LOOKS[state]
    return Text(f"{symbol} {state}", style=colour)


def format_time(milliseconds: int) -> str:
    """A time of day on this machine's calendar: ``2026-11-21 05:25:21``."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000).strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, OSError, ValueError):  # any producer can claim any time
        return f"{milliseconds} ms"


def format_took(view: View, now: int) -> str:
    """How long a saga took, or has taken until ``now``: ``in 42 ms``, ``for 3.0 s``."""
    if view.completed is not None:
        return f"in {format_duration(view.completed - view.started)}"
    return f"for {format_duration(now - view.started)}"


def format_deadline(view: View, now: int) -> str:
    """When the saga's next deadline passes: ``in 30.0 s``, or ``overdue``; empty if none is pending."""
    if view.deadline is None:
        return ""
    return f"in {format_duration(view.deadline - now)}" if view.deadline > now else "overdue"


def format_end(view: View, now: int) -> Text:
    """Where a saga stands, in one line: ``✓ completed in 42 ms``, and why if it did not complete."""
    text = Text.assemble(format_state(view.status), f" {format_took(view, now)}")
    trouble = what_went_wrong(view)
    return text.append(f": {trouble}") if trouble else text


def what_went_wrong(view: View) -> str:
    """Why a saga unwinds, or the last thing that went wrong in it; empty if nothing did. Clean."""
    if view.reason:
        return clean(view.reason)
    if view.last_error:
        whose = f"{view.last_error.step}: " if view.last_error.step else ""
        return clean(whose + view.last_error.message)
    return ""
