"""Text from outside can neither break the terminal nor be taken for markup."""

from __future__ import annotations

import json
import logging

import pytest
from drawn import DANGEROUS, draw, hostile, unfit
from hypothesis import given
from hypothesis import strategies as st

from choreo.cli.checking import format_findings
from choreo.cli.failures import explain
from choreo.cli.logs import LineFormatter
from choreo.cli.sagas_format import format_sagas
from choreo.drawing.text import LIMIT, MAX_LINES, clean, clean_lines, count, escape_json, listed
from choreo.drawing.trace_format import format_trace
from choreo.errors import ConfigurationError, Fault, SagaNotFound
from choreo.model.checks import Code, Finding, Severity
from choreo.model.facts import Kind, LastError, View
from choreo.model.saga import State
from choreo.model.trace import EventNode, Incident, Reaction, Trace
from choreo.model.waits import Awaited


@given(hostile)
def test_clean_text_is_printable(text: str) -> None:
    """Whatever comes in, only printable characters on one line come out."""
    assert not unfit(clean(text))
    assert "\n" not in clean(text)


@given(st.text(st.characters(whitelist_categories=["L", "N", "P", "S"], max_codepoint=0x24F)))
def test_plain_text_stays_as_it_is(text: str) -> None:
    """Letters, digits, punctuation and symbols are shown as they are."""
    assert clean(text) == text


@pytest.mark.parametrize("character", DANGEROUS)
def test_what_would_not_print_is_shown_as_an_escape(character: str) -> None:
    """An escape stands where the character stood, so that it can be seen; Python reads it back."""
    shown = clean(f"a{character}b")
    assert shown.isascii()
    assert shown[1:-1].encode().decode("unicode_escape") == character


def test_text_is_cut() -> None:
    """Very long text is cut, and an ellipsis says so."""
    assert clean("x" * LIMIT) == "x" * LIMIT
    assert clean("x" * 10**6) == "x" * LIMIT + "…"


def test_marks_cannot_pile_up() -> None:
    """A letter keeps two accents; more of them, or accents without a letter, are shown as escapes."""
    assert clean("e\u0301\u0323") == "e\u0301\u0323"
    assert clean("e" + "\u0301" * 50).count("\u0301") == 2
    assert clean("\u0301") == r"\u0301"


@pytest.mark.parametrize("blank", "\u034f\u115f\u2800\u3164\ufe0f")
def test_invisible_letters_are_shown(blank: str) -> None:
    """Characters that Unicode calls letters or marks, but that nobody can see, are shown as escapes."""
    assert clean(f"a{blank}b") != f"a{blank}b"
    assert clean(f"a{blank}b").isascii()


@given(st.lists(hostile, max_size=10))
def test_lines_are_cleaned_one_by_one(lines: list[str]) -> None:
    """A traceback keeps its lines, each of them clean."""
    shown = clean_lines("\n".join(lines))
    assert not any(map(unfit, shown))


def test_of_many_lines_the_last_are_shown() -> None:
    """Of a very long traceback the end is shown, which says what happened, and how much is left out."""
    shown = clean_lines("\n".join(map(str, range(1000))))
    assert shown[0] == f"… {1000 - MAX_LINES} more lines"
    assert shown[-1] == "999"
    assert len(shown) == MAX_LINES + 1


@given(st.text())
def test_json_means_the_same_when_escaped(text: str) -> None:
    """JSON on a terminal holds no control character either, and says what it said before."""
    raw = json.dumps(text, ensure_ascii=False)
    assert json.loads(escape_json(raw)) == text
    assert not unfit(escape_json(raw))


def test_counts_and_lists_read_well() -> None:
    """One error, two errors; a, b and c."""
    assert [count(1, "error"), count(2, "error")] == ["1 error", "2 errors"]
    assert [listed([]), listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])] == [
        "", "a", "a and b", "a, b and c",
    ]  # fmt: skip


@given(hostile, st.sampled_from(State), st.sampled_from(Kind), st.integers(min_value=20, max_value=140))
def test_no_trace_breaks_the_terminal(text: str, state: State, kind: Kind, width: int) -> None:
    """Every text of a trace comes from outside: whatever stands there, what is drawn is clean."""
    undo = Reaction(text, text, kind, note=text, detail=text, undo=text, order=1)
    step = Reaction(text, text, kind, note=text, detail=text, undone_by=[undo])
    step.emitted = [EventNode(text, text, 5, 5, source=text, state=text)]
    view = View(text, text, state, reason=text, dead_letters=1, last_error=LastError(text, 1, text, text))
    awaits = [Awaited(what, text, text, 1) for what in ("step", "join", "undo", "listener", text)]
    incidents = [Incident(kind, 1, 1, text, text, text) for kind in (Kind.ORDERED, Kind.REFUSED)]
    trace = Trace(view, [EventNode(text, text, 0, 0, source=text, reactions=[step])], incidents, awaits)
    assert not unfit(draw(format_trace(trace, now=10, errors=True), width))


@given(hostile, st.sampled_from(State), st.integers(min_value=20, max_value=140))
def test_no_listing_breaks_the_terminal(text: str, state: State, width: int) -> None:
    """The same holds for the listing of sagas."""
    view = View(text, text, state, current=text, last_error=LastError(text, 1, text))
    assert not unfit(draw(format_sagas([view], now=10, limit=1), width))


@given(hostile)
def test_no_message_breaks_the_terminal(text: str) -> None:
    """The same holds for errors, also for those that nobody expected, findings and log lines."""
    finding = Finding(text, Severity.ERROR, Code.EVENT_UNKNOWN, text)
    record = logging.LogRecord(text, logging.ERROR, "", 0, "%s", (text,), None)
    shown = [
        *explain(ConfigurationError([Fault(text, text)])).lines,
        *explain(SagaNotFound(text)).lines,
        *explain(LookupError(text)).lines,
        draw(next(format_findings([finding]))),
        LineFormatter(colour=False).format(record),
    ]
    assert not any(map(unfit, shown))


def test_markup_is_only_text() -> None:
    """Square brackets are shown as they came, and colour nothing."""
    view = View("[red]order[/red]", "[/]", reason="[link=http://evil]click[/link] :smile:")
    shown = draw(format_trace(Trace(view, []), now=10), 200)
    assert "[red]order[/red]  [/]" in shown
    assert "[link=http://evil]click[/link] :smile:" in shown


def test_a_log_line_keeps_to_its_line() -> None:
    """A newline in a message cannot forge another log line; a traceback's lines are indented."""
    forged = logging.LogRecord("choreo.runtime", logging.INFO, "", 0, "x\n05:00:00 all is well", (), None)
    assert LineFormatter(colour=False).format(forged).endswith(r" x\n05:00:00 all is well")
    try:
        raise LookupError("x\n05:00:00 all is well")
    except LookupError as error:
        info = (LookupError, error, error.__traceback__)
        failed = logging.LogRecord("payments", logging.ERROR, "", 0, "it failed", (), info)
    first, *others = LineFormatter(colour=False).format(failed).split("\n")
    assert first.endswith(" error payments: it failed")
    assert all(line.startswith("         ") for line in others)
