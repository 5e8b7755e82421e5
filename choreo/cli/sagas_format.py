"""The listing of sagas, drawn: one line each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.padding import Padding
from rich.text import Text

from choreo.drawing.durations import format_age, format_duration
from choreo.drawing.status import format_deadline, format_state, what_went_wrong
from choreo.drawing.text import clean
from choreo.drawing.waits_format import NOTHING, format_waits
from choreo.model.facts import View
from choreo.model.waits import Stuck

_HEADINGS = ("STATUS", "SAGA", "TYPE", "STARTED", "DEADLINE", "LAST", "WHAT WENT WRONG")
_DEADLINE = _HEADINGS.index("DEADLINE")
_GAP = "  "
#: Columns that the last two cells of a row have at least; on a narrow terminal the line is wrapped.
_LEAST = 12


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of cells in columns. Only the last two columns are cut if there is too little room.

    What stands further left is what one copies: it is always there in full.
    """

    rows: Sequence[Sequence[Text]]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        widths = [max(cell.cell_len for cell in column) for column in zip(*self.rows, strict=True)]
        used = sum(widths[:-2]) + len(_GAP) * (len(widths) - 1)
        room = max(2 * _LEAST, options.max_width - used)
        widths[-2] = min(widths[-2], max(_LEAST, room // 3, room - widths[-1]))
        widths[-1] = min(widths[-1], max(_LEAST, room - widths[-2]))
        for row in self.rows:
            line = Text()
            for cell, width in zip(row, widths, strict=True):
                fitted = cell.copy()
                fitted.truncate(width, overflow="ellipsis", pad=True)
                line.append_text(fitted).append(_GAP)
            line.rstrip()
            yield line


def format_sagas(views: Sequence[View], *, now: int, limit: int) -> RenderableType:
    """A table of sagas in the order given; ``now`` is in milliseconds since the epoch."""
    rows = [[Text(heading, style="bright_black") for heading in _HEADINGS]]
    rows += [_row(view, now) for view in views]
    if all(view.deadline is None for view in views):
        rows = [row[:_DEADLINE] + row[_DEADLINE + 1 :] for row in rows]
    if len(views) < limit:
        return Rows(rows)
    more = Text(f"These are the newest {limit}; --limit shows more.", style="bright_black")
    return Group(Rows(rows), more)


def _row(view: View, now: int) -> list[Text]:
    return [
        format_state(view.status),
        Text(clean(view.id), style="bold"),
        Text(clean(view.type) or "?"),
        Text(format_age(now - view.started)),
        Text(format_deadline(view, now)),
        Text(clean(view.current)),
        Text(what_went_wrong(view), style="red"),
    ]


def format_stuck(found: Sequence[Stuck], *, now: int, limit: int) -> RenderableType:
    """Each saga with how long it has not moved, and below it what it waits for; ``now`` is in ms."""
    parts: list[RenderableType] = []
    for each in found:
        view = each.saga
        still = format_duration(now - view.updated)
        parts.append(
            Text.assemble(
                format_state(view.status), "  ", (clean(view.id), "bold"), f"  {clean(view.type) or '?'}",
                f"  nothing has happened for {still}",
            )
        )  # fmt: skip
        lines = list(format_waits(each.waits, now)) or [Text(NOTHING, style="yellow")]
        parts += [Padding(line, (0, 0, 0, 2), expand=False) for line in lines]
    if len(found) == limit:
        parts.append(Text(f"These are {limit}; --limit shows more.", style="bright_black"))
    return Group(*parts)
