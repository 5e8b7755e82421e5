"""The listing of sagas, and the words for time."""

from __future__ import annotations

import click
import pytest
from drawn import draw
from rich.cells import cell_len

from choreo.cli.sagas_format import format_sagas
from choreo.drawing.durations import format_age, format_duration, parse_duration
from choreo.drawing.status import format_end, format_time, what_went_wrong
from choreo.model.facts import LastError, View
from choreo.model.saga import State

NOW = 1_800_000_000_000


def test_one_line_for_each_saga() -> None:
    """State, id, type, age, what happened last and what went wrong, in columns."""
    views = [
        View("order-2", "order", started=NOW - 500, current="payments/charge"),
        View(
            "order-1",
            "order",
            State.COMPENSATED,
            "orders/note",
            NOW - 61_000,
            reason="inventory/reserve: none",
        ),
        View("order-0", "", State.FAILED, "a/b", NOW - 7200_000, last_error=LastError("a/b", 1, "boom")),
    ]
    assert draw(format_sagas(views, now=NOW, limit=50), 120).split("\n") == [
        "STATUS         SAGA     TYPE   STARTED         LAST             WHAT WENT WRONG",
        "▶ running      order-2  order  just now        payments/charge",
        "↶ compensated  order-1  order  1 min 01 s ago  orders/note      inventory/reserve: none",
        "✗ failed       order-0  ?      2 h 00 min ago  a/b              a/b: boom",
        "",
    ]


def test_an_entry_that_was_refused_has_no_step() -> None:
    """What went wrong is said alone."""
    view = View("order-1", "order", started=NOW, last_error=LastError("", 1, "data-not-json: truncated"))
    assert what_went_wrong(view) == "data-not-json: truncated"


def test_deadlines_have_a_column_of_their_own() -> None:
    """Where a saga has one; it says when it passes, or that it has."""
    views = [
        View("order-2", "order", started=NOW - 500, deadline=NOW + 29_500, current="Placed"),
        View("order-1", "order", started=NOW - 40_000, deadline=NOW - 1, current="Placed"),
        View("order-0", "order", State.COMPLETED, "Shipped", NOW - 61_000),
    ]
    assert draw(format_sagas(views, now=NOW, limit=50), 120).split("\n")[:4] == [
        "STATUS       SAGA     TYPE   STARTED         DEADLINE   LAST     WHAT WENT WRONG",
        "▶ running    order-2  order  just now        in 29.5 s  Placed",
        "▶ running    order-1  order  40.0 s ago      overdue    Placed",
        "✓ completed  order-0  order  1 min 01 s ago             Shipped",
    ]


@pytest.mark.parametrize("width", [80, 100, 120])
def test_ids_are_never_cut(width: int) -> None:
    """On a narrow terminal the last two columns are cut; an id that one wants to copy is whole."""
    saga_id = "8fdd3af29d7d49fbbb2e5874d7935096"
    view = View(saga_id, "order", State.FAILED, "participant/" + "s" * 60, NOW, reason="r" * 300)
    lines = draw(format_sagas([view], now=NOW, limit=50), width).rstrip("\n").split("\n")
    if width >= 100:
        assert max(map(cell_len, lines)) <= width
        assert "…" in lines[1]
    assert any(saga_id in line for line in lines)


def test_a_cut_list_says_so() -> None:
    """If there may be more sagas than were asked for, the list says how to see them."""
    view = View("order-1", "order", started=NOW)
    assert "--limit" in draw(format_sagas([view, view], now=NOW, limit=2))
    assert "--limit" not in draw(format_sagas([view], now=NOW, limit=2))


@pytest.mark.parametrize(
    ("milliseconds", "said"),
    [
        (-5, "0 ms"), (0, "0 ms"), (999, "999 ms"), (1000, "1.0 s"), (59_999, "59.9 s"),
        (60_000, "1 min 00 s"),        (3_599_000, "59 min 59 s"), (3_600_000, "1 h 00 min"),
        (86_400_000, "1 d 00 h"), (10**11, "1157 d 09 h"),
    ],
)  # fmt: skip
def test_durations_are_said_in_two_units(milliseconds: int, said: str) -> None:
    """Nobody needs the milliseconds of a day."""
    assert format_duration(milliseconds) == said


def test_ages() -> None:
    """What is less than a second old is new."""
    assert [format_age(999), format_age(1000)] == ["just now", "1.0 s ago"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("200ms", 0.2), ("30", 30), ("30s", 30), ("1.5m", 90), ("1h", 3600), (" 7 d ", 604800)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    """A number and a unit; seconds if there is none."""
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "h", "-1s", "1w", "1h30m", "inf", "nan", "1e9", "٣s", "9" * 20])
def test_what_is_no_duration_is_refused(text: str) -> None:
    """The message says what would be right."""
    with pytest.raises(click.BadParameter, match="write 200ms, 30s, 5m, 1h or 7d"):
        parse_duration(text)


def test_any_time_can_be_said() -> None:
    """A producer may claim any time; showing it must not fail."""
    assert format_time(NOW).startswith("2027-01-1")
    assert format_time(1 << 70) == f"{1 << 70} ms"


def test_an_end_is_said_in_one_line() -> None:
    """How it ended, how long it took, and why if it did not complete."""
    done = View("x", "order", State.COMPLETED, started=NOW - 42, completed=NOW)
    assert format_end(done, NOW).plain == "✓ completed in 42 ms"
    declined = View("x", "order", State.COMPENSATED, started=NOW - 42, completed=NOW, reason="card declined")
    assert format_end(declined, NOW).plain == "↶ compensated in 42 ms: card declined"
