"""What a saga waits for, and when it counts as stuck."""

from __future__ import annotations

from typing import Any

import pytest

from choreo.model.facts import Fact, Kind, View, add, in_order, project
from choreo.model.saga import State
from choreo.model.waits import Awaited, Listeners, awaited, is_explained, may_be_stuck

LISTENERS: Listeners = {
    "Placed": [("payments", "charge")],
    "Paid": [("shipping", "send")],
    "Reserved": [("shipping", "send")],
    "Shipped": [("orders", "close")],
}
PLACED = Fact("e1", Kind.EVENT, 100, "Placed", saga_type="order")
PAID = Fact("e2", Kind.EVENT, 200, "Paid", "e1", "payments", "charge")


def charge(kind: Kind, time: int, **more: Any) -> Fact:
    """What the step ``payments/charge`` came to."""
    return Fact(f"{kind}:{time}", kind, time, "Placed", "e1", "payments", "charge", **more)


def waits(*facts: Fact, listeners: Listeners = LISTENERS) -> list[Awaited]:
    timeline: dict[str, Fact] = {}
    for fact in facts:
        add(timeline, fact)
    return list(awaited(project("s1", timeline), in_order(timeline), listeners))


def test_a_step_that_has_not_reacted() -> None:
    """The step is named, the event, its id and since when."""
    assert waits(PLACED) == [Awaited("step", "Placed", "payments/charge", 100, event="e1")]


def test_nobody_listens() -> None:
    """An event to which no worker ever listened is named; what a step handled is not."""
    assert waits(PLACED, PAID, listeners={"Placed": [("payments", "charge")]}) == [
        Awaited("listener", "Paid", since=200)
    ]


def test_an_attempt_to_come() -> None:
    """A step whose attempt failed waits for the next one: which, when it is due, and the last error."""
    first = charge(Kind.RETRYING, 150, attempt=1, due=170, note="down")
    second = charge(Kind.RETRYING, 180, attempt=2, due=900, note="still down")
    retry = Awaited("retry", "Placed", "payments/charge", 180, 900, "e1", attempt=3, note="still down")
    assert waits(PLACED, first, second) == [retry]
    assert waits(PLACED, first, second, PAID) == [Awaited("step", "Paid", "shipping/send", 200, event="e2")]


def test_an_undo() -> None:
    """An undo that was asked for, and one whose attempt failed, are told from when they were asked."""
    turned = Fact(
        "x", Kind.ABORTED, 300, "Paid", "e2", "shipping", "send", state="compensating", seq=1,
        asks=("payments/charge:e1",),
    )  # fmt: skip
    assert waits(PLACED, PAID, turned) == [Awaited("undo", handler="payments/charge", since=300, event="e1")]
    failed = charge(Kind.RETRYING, 400, undo="refund", attempt=1, due=500, note="closed")
    (retry,) = waits(PLACED, PAID, turned, failed)
    assert (retry.what, retry.undo, retry.attempt, retry.due) == ("retry", "refund", 2, 500)
    undone = charge(Kind.UNDONE, 600, undo="refund", state="compensated", seq=2)
    assert waits(PLACED, PAID, turned, failed, undone) == []


def test_a_step_that_was_under_way_when_its_saga_turned_back() -> None:
    """With no undo to wait for, it is what keeps the saga open; else it would have ended."""
    late = Fact("x", Kind.ORDERED, 300, order="compensate", state="compensating", seq=1)
    step = Awaited("step", "Paid", "shipping/send", 200, event="e2")
    assert waits(PLACED, PAID, late) == [step]
    undoing = Fact("x", Kind.ORDERED, 300, order="compensate", state="compensating", seq=1, asks=("payments/charge:e1",))
    assert [each.what for each in waits(PLACED, PAID, undoing)] == ["undo"]
    came = Fact("l", Kind.LATE, 400, "Paid", "e2", "shipping", "send", state="compensated", seq=2)
    assert waits(PLACED, PAID, late, came) == []


def test_a_join() -> None:
    """A join names what it lacks."""
    half = Fact("w", Kind.WAITING, 250, "Paid", "e2", "shipping", "send", note="Reserved")
    assert waits(PLACED, PAID, half) == [Awaited("join", "Reserved", "shipping/send", 250)]


def test_a_failed_saga_waits_for_an_operator() -> None:
    """The dead letter that keeps the saga from ending is named, until somebody has dealt with it."""
    stuck = charge(Kind.STUCK, 400, undo="refund", note="closed", state="failed", seq=2)
    (letter,) = waits(PLACED, PAID, stuck)
    assert (letter.what, letter.handler, letter.note) == ("letter", "payments/charge", "closed")
    dropped = Fact("o", Kind.ORDERED, 500, order="drop", settles=(stuck.id,))
    assert waits(PLACED, PAID, stuck, dropped) == []


def test_a_step_left_to_an_operator() -> None:
    """A saga that runs and has a parked step waits for an operator."""
    parked = charge(Kind.PARKED, 300, note="rejected")
    (left,) = waits(PLACED, parked)
    assert (left.what, left.handler, left.note) == ("operator", "payments/charge", "rejected")


@pytest.mark.parametrize(
    ("view", "wanted"),
    [
        (View("s", updated=1000), True),
        (View("s", updated=1001), False),
        (View("s", status=State.COMPENSATING, updated=1000), True),
        (View("s", status=State.FAILED, updated=60_000), True),
        (View("s", updated=60_000, parked=["a/b"]), True),
        (View("s", status=State.COMPLETED, updated=1), False),
        (View("s", status=State.COMPENSATED, updated=1), False),
        (View("s", status=State.RESOLVED, updated=1), False),
    ],
)
def test_which_sagas_may_be_stuck(view: View, wanted: bool) -> None:
    """Open ones that have not moved for so long, and at once those that need an operator."""
    assert may_be_stuck(view, 61_000, 60_000) is wanted


def test_what_is_due_later_explains_it() -> None:
    """A saga that waits for an attempt or a planned event is not stuck before that is due."""
    later = [Awaited("step"), Awaited("retry", due=500)]
    assert is_explained(View("s"), later, 499)
    assert not is_explained(View("s"), later, 500)
    assert not is_explained(View("s", status=State.FAILED), later, 499)
    assert not is_explained(View("s", parked=["a/b"]), later, 499)


def test_an_entry_that_is_lost() -> None:
    """An open saga of which an entry was deleted needs an operator, at once, whatever else it waits for."""
    lost = Fact("lost:1", Kind.LOST, 150, "Placed", "e1", "payments", note="an entry was deleted")
    assert Awaited("damage", "Placed", "payments", 150, event="e1", note="an entry was deleted") in waits(PLACED, lost)
    timeline = {each.id: each for each in (PLACED, lost)}
    view = project("s1", timeline)
    assert may_be_stuck(view, 151, 60_000)
    assert not is_explained(view, [Awaited("plan", due=9_000)], 151)
