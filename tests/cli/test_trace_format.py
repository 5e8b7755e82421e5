"""The causal tree, as a person sees it."""

from __future__ import annotations

from textwrap import dedent

import pytest
from drawn import draw
from rich.cells import cell_len
from traces import START, emitted, handled, published, trace_of, view_of

from choreo.drawing.trace_format import format_trace, ordinal
from choreo.model.facts import Fact, Kind
from choreo.model.saga import State
from choreo.model.trace import EventNode, Reaction, Trace

PLACED = published("OrderPlaced", 0, participant="client", saga_type="order")


def tree(trace: Trace, width: int = 100, *, errors: bool = False) -> str:
    """What is drawn below the header, with nothing before the first time."""
    shown = draw(format_trace(trace, now=START + 5000, errors=errors), width)
    return shown.partition("\n\n")[2].rstrip("\n")


def expect(text: str) -> str:
    return dedent(text).strip("\n")


def test_a_chain_that_completes() -> None:
    """Each event hangs below the step that emitted it; steps without events say so; times are at the left."""
    trace = trace_of(
        PLACED,
        emitted("PaymentCaptured", "payments/charge", "OrderPlaced", 3, 15),
        emitted("OrderShipped", "shipping/ship", "PaymentCaptured", 16, 20, state="completed", seq=1),
        handled(Kind.DONE, "orders/close", "OrderShipped", 1220, 1221),
    )
    shown = draw(format_trace(trace, now=START + 5000), 100)
    assert shown.startswith("order-1  order\n✓ completed in 20 ms   started 20")
    assert tree(trace) == expect("""
  +0 ms  ● OrderPlaced  from client
         └─ ✓ payments/charge  waited 3 ms, worked 12 ms
 +15 ms     ● PaymentCaptured
            └─ ✓ shipping/ship  waited 1 ms, worked 4 ms
 +20 ms        ● OrderShipped  completes the saga
 +1.2 s        └─ ✓ orders/close  waited 1.2 s, worked 1 ms, no event
    """)


def test_two_branches_of_which_one_aborts() -> None:
    """The abort names its reason; what was undone says when in the order, below the step that it undoes."""
    trace = trace_of(
        PLACED,
        emitted("PaymentCaptured", "payments/charge", "OrderPlaced", 3, 15),
        handled(
            Kind.ABORTED, "inventory/reserve", "OrderPlaced", 3, 22, note="nothing left",
            state="compensating", seq=1, asks=("payments/charge:OrderPlaced",),
        ),
        handled(Kind.UNDONE, "payments/charge", "OrderPlaced", 24, 40, undo="refund"),
        emitted("PaymentRefunded", "payments/charge", "OrderPlaced", 24, 40, undo="refund", back=True),
    )  # fmt: skip
    shown = draw(format_trace(trace, now=START + 5000), 100)
    assert "↶ compensating for 5.0 s" in shown
    assert "because inventory/reserve: nothing left" in shown
    assert tree(trace).startswith(
        expect("""
 +0 ms  ● OrderPlaced  from client
        ├─ ✓ payments/charge  waited 3 ms, worked 12 ms
+15 ms  │  ● PaymentCaptured
+40 ms  │  ↶ refund  undone 1st, waited 2 ms, worked 16 ms
+40 ms  │    ● PaymentRefunded
+22 ms  └─ ✗ inventory/reserve  waited 3 ms, worked 19 ms
             aborted: nothing left
    """)
    )


def test_joins_say_what_they_lack() -> None:
    """A join waits, waited in vain when the saga has ended, and lacked something if it ran in the end."""
    first = handled(Kind.WAITING, "shipping/book", "OrderPlaced", 4, 4, note="StockReserved PaymentCaptured")
    aborted = handled(Kind.ABORTED, "a/b", "OrderPlaced", 5, 6, state="compensated", seq=2)
    ran = handled(Kind.DONE, "shipping/book", "StockReserved", 9, 10)
    waits = trace_of(PLACED, first)
    assert "⋯ shipping/book  waits for StockReserved and PaymentCaptured" in tree(waits)
    assert "→ waits for StockReserved, which shipping/book needs (for 4.9 s)" in tree(waits)
    assert "⋯ shipping/book  waited in vain for StockReserved and" in tree(trace_of(PLACED, first, aborted))
    reserved = published("StockReserved", 8)
    assert "⋯ shipping/book  then lacked StockReserved and" in tree(trace_of(PLACED, first, reserved, ran))


@pytest.mark.parametrize(
    ("kind", "note", "said"),
    [
        (Kind.DEAD, "ValueError: boom", "failed, now a dead letter: ValueError: boom"),
        (Kind.LATE, "StockReserved", "too late, the saga was unwinding already; withheld: StockReserved"),
        (Kind.LATE, "", "too late, the saga was unwinding already"),
        (Kind.ABORTED, "aborted", "aborted"),
        (Kind.SKIPPED, "", "not run, the saga was unwinding already"),
    ],
)
def test_what_a_step_came_to_is_said(kind: Kind, note: str, said: str) -> None:
    """A failure, a step that came too late and one that was skipped each say so on a line of their own."""
    shown = tree(trace_of(PLACED, handled(kind, "payments/charge", "OrderPlaced", 3, 9, note=note)))
    assert f"{' ' * 12}{said}" in shown.split("\n")


def test_an_undo_that_failed() -> None:
    """It names the error and the dead letter, and the footer says who has to act."""
    trace = trace_of(
        PLACED,
        handled(Kind.DONE, "payments/charge", "OrderPlaced", 3, 9),
        handled(
            Kind.STUCK, "payments/charge", "OrderPlaced", 10, 12, undo="refund", note="OSError: no bank",
            detail="Traceback:\n  here\n  ^^^^\nOSError: no bank", state="failed", seq=2,
        ),
    )  # fmt: skip
    shown = tree(trace)
    assert "✗ refund  waited 10 ms, worked 2 ms" in shown
    assert "could not undo, now a dead letter: OSError: no bank" in shown
    assert shown.endswith("1 dead letter: an operator has to look; see `choreo dlq list --saga order-1`")
    assert "Traceback" not in shown


def test_tracebacks_are_shown_on_demand() -> None:
    """They stand below what failed, without the lines that only underline."""
    failed = handled(
        Kind.DEAD, "payments/charge", "OrderPlaced", 3, 9, note="boom",
        detail="Traceback:\n  here\n  ~~^^^^\nValueError: boom\n",
    )  # fmt: skip
    shown = tree(trace_of(PLACED, failed), errors=True)
    assert "Traceback:" in shown
    assert "ValueError: boom" in shown
    assert "^^^" not in shown


def test_orders_and_refusals_stand_in_their_time() -> None:
    """What happened to the saga as a whole stands beside its events, with who ordered it and why."""
    trace = trace_of(
        PLACED,
        Fact("o", Kind.ORDERED, START + 9, note="customer called", detail="ada", state="compensated", seq=2,
             order="compensate"),
        Fact("r", Kind.REFUSED, START + 4, note="data-not-json: truncated"),
    )
    assert tree(trace).startswith(
        expect("""
+0 ms  ● OrderPlaced  from client
+4 ms  ✗ an entry was refused, now a dead letter: data-not-json: truncated
+9 ms  ! compensation was ordered by ada: customer called
    """)
    )


def test_what_is_awaited_stands_at_the_bottom() -> None:
    """Steps that have not reacted, events that nobody hears, undos under way: each with how long it takes."""
    listeners = {"OrderPlaced": [("payments", "charge")]}
    assert tree(trace_of(PLACED, listeners=listeners)).endswith(
        "→ waits for payments/charge to react to OrderPlaced (for 5.0 s)"
    )
    assert tree(trace_of(PLACED)).endswith("→ nobody listens to OrderPlaced")
    aborted = handled(
        Kind.ABORTED, "a/b", "OrderPlaced", 1, 2, state="compensating", seq=1, asks=("a/c:OrderPlaced",)
    )
    assert "→ waits for a/c to be undone (for 4.9 s)" in tree(trace_of(PLACED, aborted))


def test_a_saga_that_nothing_moves_says_so() -> None:
    """A running saga for which nobody will do anything any more is called by its name."""
    done = handled(Kind.DONE, "payments/charge", "OrderPlaced", 3, 9)
    shown = tree(trace_of(PLACED, done, listeners={"OrderPlaced": [("payments", "charge")]}))
    assert "Nothing that is known of will move this saga on" in shown


def test_very_many_things_awaited_are_counted() -> None:
    """A list that nobody would read is cut, and says how much is left out."""
    listeners = {"OrderPlaced": [("p", f"s{number}") for number in range(100)]}
    assert tree(trace_of(PLACED, listeners=listeners)).endswith("\nand 80 more")


@pytest.mark.parametrize("width", [40, 80, 120])
def test_nothing_is_wider_than_the_terminal(width: int) -> None:
    """Long labels go on below themselves, between the guides; also wide characters are counted right."""
    note = "the carrier does not deliver " + "東京" * 40
    trace = trace_of(
        PLACED,
        handled(Kind.ABORTED, "shipping/book", "OrderPlaced", 3, 5, note=note),
        handled(Kind.DONE, "orders/accept", "OrderPlaced", 3, 6),
        saga_id="x" * 128,
    )
    lines = tree(trace, width).split("\n")
    assert max(map(cell_len, lines)) <= width
    aborted = next(number for number, line in enumerate(lines) if "aborted:" in line)
    assert lines[aborted + 1].startswith("       │    ")
    assert "".join(line.strip(" │") for line in lines).count("東京") == 40


def test_a_deep_saga_keeps_its_labels() -> None:
    """Of a saga as long as you like every label can be read; guides are cut at the left."""
    root = node = EventNode("0", "Tick0", START, 0)
    for number in range(1, 3000):
        step = Reaction("clock", "tick", Kind.EVENT, emitted=[EventNode("x", f"Tick{number}", START, number)])
        node.reactions.append(step)
        node = step.emitted[0]
    shown = tree(Trace(view_of(PLACED), [root]), 80)
    lines = shown.split("\n")
    assert all(f"● Tick{number}" in shown for number in range(3000))
    assert max(map(cell_len, lines)) <= 80
    assert any(line.lstrip().startswith("…") for line in lines)


def test_a_pipe_gets_whole_lines() -> None:
    """Where there is no terminal, each label stands on one line, however long it is."""
    note = "word " * 60
    aborted = handled(Kind.ABORTED, "shipping/book", "OrderPlaced", 3, 5, note=note)
    assert f"aborted: {note.strip()}" in tree(trace_of(PLACED, aborted), 4000)


def test_every_state_has_its_look() -> None:
    """Each state of a saga is shown with a symbol and in a colour."""
    for state in State:
        shown = draw(
            format_trace(Trace(view_of(PLACED, published("X", 1, state=state, seq=9)), []), now=START)
        )
        assert f" {state} " in shown


def test_ordinals() -> None:
    """1st, 2nd, 3rd, 4th; 11th, 12th, 13th; 21st."""
    shown = [ordinal(number) for number in (1, 2, 3, 4, 11, 12, 13, 21, 102, 111)]
    assert shown == ["1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "102nd", "111th"]
