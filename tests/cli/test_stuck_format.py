"""The list of sagas that are stuck, drawn; and how its command is misused."""

from __future__ import annotations

from drawn import draw

from choreo.cli.sagas_format import format_stuck
from choreo.drawing.waits_format import format_wait
from choreo.model.facts import View
from choreo.model.saga import State
from choreo.model.waits import Awaited, Reading, Stuck, Where

NOW = 1_800_000_000_000
STEP = Awaited("step", "Placed", "payments/charge", NOW - 184_000, event="e1")


def told(reading: Reading) -> str:
    """What is said of a step's reading."""
    awaited = Awaited("step", "Placed", "payments/charge", NOW - 184_000, event="e1", reading=reading)
    return format_wait(awaited, NOW).plain.partition("04 s): ")[2]


def test_what_each_saga_waits_for_stands_below_it() -> None:
    """State, id, type and for how long nothing has happened; then one line for each thing."""
    found = [
        Stuck(View("order-1", "order", updated=NOW - 184_000), [STEP, Awaited("listener", "Paid")]),
        Stuck(View("order-2", "", State.FAILED, updated=NOW - 1_000)),
    ]
    assert draw(format_stuck(found, now=NOW, limit=50), 160).split("\n") == [
        "▶ running  order-1  order  nothing has happened for 3 min 04 s",
        "  → waits for payments/charge to react to Placed (for 3 min 04 s)",
        "  → nobody listens to Paid",
        "✗ failed  order-2  ?  nothing has happened for 1.0 s",
        "  Nothing that is known of will move this saga on: no step is left to react. Was a participant never"
        " started? See `choreo check`.",
        "",
    ]


def test_whether_anybody_is_about_to_handle_it() -> None:
    """Where it is, and who is to blame if nobody does anything."""
    assert told(Reading(Where.HELD, "w1", 1, 2_000)) == "in the hands of w1"
    assert told(Reading(Where.HELD, "w1", 2, 180_000)) == (
        "in the hands of w1, who was last heard of 3 min 00 s ago, delivered 2 times"
    )
    assert told(Reading(Where.UNREAD, lag=512, seen_ms=600_000)) == (
        "not read yet, as one of 512 entries; no worker of payments was seen for 10 min 00 s"
    )
    assert told(Reading(Where.UNREAD, lag=1)) == "not read yet, as one of 1 entries; payments has no worker"
    assert told(Reading(Where.UNREAD, lag=None, seen_ms=5)) == "not read yet"
    assert told(Reading(Where.UNREAD, paused_by="ann", paused_at=NOW - 60_000)) == (
        "not read yet; payments was paused by ann 1 min 00 s ago"
    )
    assert told(Reading(Where.GROUPLESS)) == (
        "payments has no consumer group there: its workers never ran, or it was destroyed"
    )
    assert told(Reading(Where.GONE)) == (
        "its entry is gone: unless the tracker is behind, somebody deleted it before it was handled"
    )
    assert told(Reading(Where.HANDLED)) == "it was read and acknowledged, and what it came to is not known yet"


def test_attempts_and_letters() -> None:
    """What is due is told with when; errors are told, and cleaned."""
    retry = Awaited("retry", "Placed", "payments/charge", NOW, NOW + 12_000, "e1", attempt=3, note="a\x1b[0mb")
    assert format_wait(retry, NOW).plain == (
        "→ waits for attempt 3 of payments/charge (in 12.0 s): a\\x1b[0mb"
    )
    undo = Awaited("retry", "", "payments/charge", NOW, NOW - 5_000, "e1", "refund", 2)
    assert format_wait(undo, NOW).plain == (
        "→ waits for attempt 2 of the undo of payments/charge (was due 5.0 s ago)"
    )
    letter = Awaited("letter", "Placed", "payments/charge", NOW, note="closed")
    assert format_wait(letter, NOW).plain == "→ waits for an operator: payments/charge is a dead letter: closed"
