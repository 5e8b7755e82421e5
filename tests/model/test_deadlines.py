"""Which deadline of a saga is due next: a function of the set of its facts."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from choreo import SagaTimedOut
from choreo.model.deadlines import Deadlines, Due, Expectation, describe, next_due
from choreo.model.facts import Fact, Kind, project

PAID = Expectation("Placed", 100, ("Paid", "Declined"))


def event(name: str, time: int, event_type: str, *, cause: str = "", state: str = "", seq: int = 0) -> Fact:
    return Fact(name, Kind.EVENT, time, event_type, cause, state=state, seq=seq, saga_type="order")


def due(deadlines: Deadlines, *facts: Fact) -> Due | None:
    return next_due(project("s1", {fact.id: fact for fact in facts}), facts, deadlines)


PLACED = event("p", 1000, "Placed")


def test_a_saga_without_deadlines() -> None:
    """Nothing is ever due."""
    assert due(Deadlines(), PLACED) is None


def test_the_deadline_of_the_whole_saga() -> None:
    """It counts from the saga's first fact, whatever happens later."""
    deadlines = Deadlines(whole=500)
    assert due(deadlines, PLACED) == Due(1500, "saga")
    assert due(deadlines, PLACED, event("x", 1400, "Paid", cause="p")) == Due(1500, "saga")


@pytest.mark.parametrize("state", ["completed", "compensating", "compensated", "failed"])
def test_nothing_is_due_when_the_saga_does_not_run(state: str) -> None:
    """Whoever unwinds or has ended cannot be late any more."""
    ended = event("x", 1100, "Shipped", state=state, seq=1)
    assert due(Deadlines(500, (PAID,)), PLACED, ended) is None


def test_what_is_expected() -> None:
    """It is due so long after the event, until one of the awaited ones has come."""
    deadlines = Deadlines(expects=(PAID,))
    assert due(deadlines, PLACED) == Due(1100, "Paid, Declined after Placed", ("Paid", "Declined"))
    assert due(deadlines, PLACED, event("x", 1050, "Paid")) is None
    assert due(deadlines, PLACED, event("x", 1050, "Declined")) is None
    assert due(deadlines, PLACED, event("x", 1050, "Reserved")) == due(deadlines, PLACED)


def test_each_event_begins_to_wait() -> None:
    """What came before an event does not meet what is expected after it."""
    deadlines = Deadlines(expects=(PAID,))
    again = event("p2", 2000, "Placed")
    assert due(deadlines, PLACED, event("x", 1050, "Paid"), again) == Due(2100, PAID.name, PAID.one_of)
    assert due(deadlines, PLACED, event("x", 2050, "Paid"), again) is None


def test_what_an_event_has_caused_came_after_it() -> None:
    """Also if the clock of the participant that emitted it is behind, and also at one remove."""
    deadlines = Deadlines(expects=(PAID,))
    between = event("b", 990, "Reserved", cause="p")
    assert due(deadlines, PLACED, event("x", 980, "Paid", cause="p")) is None
    assert due(deadlines, PLACED, between, event("x", 980, "Paid", cause="b")) is None
    assert due(deadlines, PLACED, event("x", 980, "Paid")) is not None


def test_causes_in_a_circle() -> None:
    """What foreign producers claim must not keep anybody busy for ever."""
    one, other = event("x", 980, "Paid", cause="y"), event("y", 980, "Paid", cause="x")
    assert due(Deadlines(expects=(PAID,)), PLACED, one, other) is not None


def test_the_earliest_one_is_next() -> None:
    """Of several that are pending."""
    later = Expectation("Placed", 300, ("Shipped",))
    assert due(Deadlines(200, (PAID, later)), PLACED) == Due(1100, PAID.name, PAID.one_of)
    assert due(Deadlines(200, (PAID, later)), PLACED, event("x", 1000, "Paid")) == Due(1200, "saga")


EVENTS = st.lists(
    st.tuples(st.integers(0, 30), st.sampled_from(["Placed", "Paid", "Declined", "Other"]), st.integers(0, 9)),
    min_size=1, max_size=10,
)  # fmt: skip


@given(EVENTS, st.integers(0, 1000))
def test_a_function_of_the_set_of_facts(drawn: list[tuple[int, str, int]], seed: int) -> None:
    """Whatever their order, and as a slow account of the rule says."""
    facts = [
        event(str(number), time, event_type, cause=str(cause))
        for number, (time, event_type, cause) in enumerate(drawn)
    ]
    by_id = {fact.id: fact for fact in facts}

    def led_to(cause: Fact, effect: Fact) -> bool:
        seen: list[str] = []
        while effect.cause in by_id and effect.cause not in seen:
            seen.append(effect.cause)
            effect = by_id[effect.cause]
        return cause.id in seen

    unmet = [
        after.time for after in facts
        if after.type == "Placed" and not any(
            each.type in PAID.one_of and (each.time >= after.time or led_to(after, each)) for each in facts
        )
    ]  # fmt: skip
    shuffled = random.Random(seed).sample(facts, len(facts))
    found = due(Deadlines(expects=(PAID,)), *shuffled)
    assert (found and found.at) == (min(unmet) + PAID.within if unmet else None)


@pytest.mark.parametrize(
    ("deadline", "moment", "said"),
    [
        ("saga", 1_800_000_000_000, "deadline passed at 2027-01-15T08:00:00.000Z"),
        ("Paid after Placed", 1_800_000_000_500, "no Paid after Placed by 2027-01-15T08:00:00.500Z"),
        ("saga", 10**18, "deadline passed at 1000000000000000000 ms"),
    ],
)
def test_what_people_are_told(deadline: str, moment: int, said: str) -> None:
    """Which deadline it was, and when it passed; also if somebody claims a time that no calendar has."""
    assert describe(SagaTimedOut(saga_type="order", deadline=deadline, due=moment)) == said
