"""Dead letters, drawn: a line each, or one in full; and what became of orders about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from choreo.cli.sagas_format import Rows
from choreo.drawing.durations import format_age
from choreo.drawing.status import format_time
from choreo.drawing.text import clean, clean_lines, count
from choreo.model.letters import DeadLetter, LetterState, Outcome, Retried, Settlement
from choreo.model.pause import Pause

_DIM = "bright_black"
_HEADINGS = ("LETTER", "REASON", "WHEN", "SAGA", "OF", "ERROR")
#: How an outcome is marked, and in which colour.
_LOOKS: dict[Outcome, tuple[str, str]] = {
    Outcome.REPLAYED: ("↻", "green"),
    Outcome.DROPPED: ("✓", "green"),
    Outcome.CLOSED: ("-", _DIM),
    Outcome.REFUSED: ("✗", "red"),
}


def format_letters(letters: Sequence[DeadLetter], *, now: int, limit: int) -> RenderableType:
    """A table of letters in the order given; ``now`` is in milliseconds since the epoch."""
    rows = [[Text(heading, style=_DIM) for heading in _HEADINGS]]
    rows += [_row(letter, now) for letter in letters]
    if len(letters) < limit:
        return Rows(rows)
    return Group(Rows(rows), Text(f"These are the newest {limit}; --limit shows more.", style=_DIM))


def _row(letter: DeadLetter, now: int) -> list[Text]:
    standing = "" if letter.state is LetterState.OPEN else f" ({letter.state} by {clean(letter.settled_by)})"
    return [
        Text(clean(letter.id), style="bold"),
        Text.assemble((clean(letter.reason), "red"), (standing, _DIM)),
        Text(format_age(now - letter.time)),
        Text(clean(letter.saga) or "-"),
        Text(clean(letter.handler or letter.stream)),
        Text(clean(letter.error), style="red"),
    ]


def format_letter(letter: DeadLetter, *, now: int) -> RenderableType:
    """One letter in full."""
    return Group(*_lines(letter, now))


def _lines(letter: DeadLetter, now: int) -> Iterator[Text]:
    yield Text.assemble((clean(letter.id), "bold"), ("  ", ""), (clean(letter.reason), "red"))
    standing = "open: it waits for an operator"
    if letter.state is not LetterState.OPEN:
        standing = f"{letter.state} by {clean(letter.settled_by)} at {format_time(letter.settled)}"
    yield Text(standing)
    about = {
        "when": f"{format_time(letter.time)} ({format_age(now - letter.time)})",
        "saga": letter.saga, "saga type": letter.saga_type, "of": letter.handler, "event": letter.type,
        "event id": letter.event, "stream": letter.stream, "entry": letter.entry, "error": letter.error,
        "data": letter.data,
        **{f"field {name}": value for name, value in letter.fields.items()},
    }  # fmt: skip
    width = max(len(clean(name)) for name in about)
    for name, value in about.items():
        if value:
            yield Text.assemble((f"  {clean(name):<{width}}  ", _DIM), clean(value, limit=4_000))
    if letter.cut:
        yield Text(f"  a part is missing of: {', '.join(map(clean, letter.cut))}", style="yellow")
    for line in clean_lines(letter.traceback.rstrip("\n")) if letter.traceback else ():
        yield Text(f"    {line}", style=_DIM)


def format_settlement(settlement: Settlement, *, rehearsed: bool = False) -> Text:
    """What became of one letter, in one line."""
    symbol, colour = _LOOKS[settlement.outcome]
    done = settlement.outcome in (Outcome.REPLAYED, Outcome.DROPPED)
    words = f"would be {settlement.outcome}" if done and rehearsed else str(settlement.outcome)
    letter = (clean(settlement.letter), "bold")
    text = Text.assemble((f"{symbol} ", colour), letter, f" {_said(settlement, words)}")
    about = " of ".join(filter(None, (clean(settlement.handler), clean(settlement.saga))))
    return text.append(f"  {about}", style=_DIM) if about else text


def _said(settlement: Settlement, words: str) -> str:
    if settlement.outcome is Outcome.CLOSED:
        return f"{clean(settlement.why)}; nothing was done"
    if settlement.outcome is Outcome.REFUSED:
        return f"cannot be done: {clean(settlement.why, limit=1_000)}"
    return words


def format_retried(retried: Retried) -> RenderableType:
    """What was tried again of a saga."""
    due = f"{count(retried.due, 'attempt')} that waited for its time is due now"
    if retried.due != 1:
        due = f"{count(retried.due, 'attempt')} that waited for their time are due now"
    lines = [Text.assemble(("↻ ", "green"), due)] if retried.due else []
    return Group(*lines, *(format_settlement(each) for each in retried.letters))


def format_pause(participant: str, pause: Pause, *, now: int) -> Text:
    """That a participant is paused, by whom and since when."""
    text = Text.assemble(
        ("‖ ", "yellow"), (clean(participant), "bold"), f" was paused by {clean(pause.who)}"
        f" {format_age(now - pause.at)}",
    )  # fmt: skip
    return text.append(f": {clean(pause.note)}") if pause.note else text


def format_pauses(pauses: Mapping[str, Pause], *, now: int) -> RenderableType:
    """Every participant that is paused, a line each."""
    return Group(*(format_pause(name, pauses[name], now=now) for name in sorted(pauses)))
