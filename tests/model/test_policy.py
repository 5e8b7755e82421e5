"""Policies: what a Retry may say, when the next attempt comes, and whether there is one."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from choreo import Abort, Event, Participant
from choreo.errors import ContractError, PayloadTooLarge, UnroutableEvent
from choreo.model.policy import Policy, Retry, make_policy, seconds_of


class Placed(Event):
    pass


def refusal(**values: Any) -> str:
    """What is said about a Retry that is wrong."""
    with pytest.raises(ContractError) as caught:
        Retry(**values)
    return str(caught.value)


# -- what a policy may say ---------------------------------------------------------------------------


def test_durations_are_seconds_or_timedeltas() -> None:
    """Both mean the same everywhere a duration is taken."""
    assert seconds_of(timedelta(minutes=1, milliseconds=500)) == 60.5
    assert seconds_of(2) == 2.0
    told = Retry(first=timedelta(milliseconds=200), limit=timedelta(seconds=30))
    assert told.delay(3, 0.5) == Retry(first=0.2, limit=30).delay(3, 0.5)
    assert make_policy("here", None, timedelta(seconds=3)).timeout == 3.0


def test_the_default() -> None:
    """Five attempts, half a minute apart at most, of any exception."""
    retry = Retry()
    assert (retry.attempts, retry.first, retry.factor, retry.limit, retry.jitter) == (5, 0.2, 2.0, 30.0, 0.5)
    assert retry.on == (Exception,)


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"attempts": 0}, "attempts is 0; a whole number, at least 1"),
        ({"attempts": -3}, "attempts is -3; a whole number, at least 1"),
        ({"first": -0.1}, "first is -0.1; not negative, at most a year"),
        ({"factor": 0.5}, "factor is 0.5; at least 1"),
        ({"first": 2, "limit": 1}, "limit is 1; at least first, 2, and at most a year"),
        ({"first": timedelta(hours=1)}, "limit is 30.0; at least first, 1:00:00, and at most a year"),
        ({"jitter": 1.01}, "jitter is 1.01; between 0 and 1"),
        ({"jitter": -0.5}, "jitter is -0.5; between 0 and 1"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any], what: str) -> None:
    """The message names the value and what would be right."""
    assert refusal(**values) == f"Retry: {what}"


def test_everything_that_is_wrong_is_named_at_once() -> None:
    """One look at the message suffices to put all of it right."""
    said = refusal(attempts=0, first=-1, factor=0, limit=-2, jitter=2)
    for name in ("attempts is 0", "first is -1", "factor is 0", "limit is -2", "jitter is 2"):
        assert name in said


@pytest.mark.parametrize(
    "values",
    [
        {"attempts": 1},
        {"first": 0, "limit": 0},
        {"first": 30, "limit": 30},
        {"factor": 1},
        {"jitter": 0},
        {"jitter": 1},
        {"attempts": 9999, "limit": 86_400},
    ],
)
def test_the_edges_are_allowed(values: dict[str, Any]) -> None:
    """A single attempt, no pause, no growth, no jitter, jitter alone."""
    assert Retry(**values)


@pytest.mark.parametrize("name", ["first", "factor", "limit", "jitter"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_no_number_is_no_duration(name: str, value: float) -> None:
    """NaN and infinity are refused where they are written, not at the first failed attempt."""
    assert name in refusal(**{name: value})


@pytest.mark.parametrize("attempts", [2.5, "3", None])
def test_attempts_are_a_whole_number(attempts: object) -> None:
    """Anything else is refused as a fault of the contract."""
    assert "attempts" in refusal(attempts=attempts)


@pytest.mark.parametrize(
    "errors", ["ConnectionError", (ConnectionError, "TimeoutError"), [ConnectionError], (int,), None]
)
def test_on_is_a_tuple_of_exception_classes(errors: object) -> None:
    """What `isinstance` would trip over when the first attempt fails is refused where it is written."""
    assert "on is" in refusal(on=errors)


# -- when the next attempt comes ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attempt", "seconds"), [(1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (5, 5.0), (6, 5.0), (10_000, 5.0)]
)
def test_the_pause_doubles_up_to_the_limit(attempt: int, seconds: float) -> None:
    """Without jitter: `first`, then times `factor`, then `limit` for ever."""
    assert Retry(attempts=9999, first=0.5, factor=2, limit=5, jitter=0).delay(attempt, 0.7) == seconds


def test_the_first_pause_is_first() -> None:
    """Whatever the factor."""
    assert Retry(first=0.3, factor=10, jitter=0).delay(1, 0.0) == 0.3


durations = st.floats(0, 1e6, allow_subnormal=False)
chances = st.floats(0, 1, exclude_max=True)


@st.composite
def retries(draw: st.DrawFn) -> Retry:
    """Any Retry that is allowed."""
    first = draw(durations)
    return Retry(
        attempts=draw(st.integers(1, 9999)),
        first=first,
        factor=draw(st.floats(1, 1e6)),
        limit=draw(st.floats(first, 2e6)),
        jitter=draw(st.floats(0, 1)),
    )


@given(retry=retries(), attempt=st.integers(1, 9999), chance=chances)
def test_jitter_only_shortens_and_stays_within_its_share(retry: Retry, attempt: int, chance: float) -> None:
    """A pause is never longer than without jitter, nor shorter than that by more than jitter's share."""
    full = retry.delay(attempt, 0.0)
    pause = retry.delay(attempt, chance)
    assert full * (1 - retry.jitter) <= pause <= full


@given(retry=retries(), attempt=st.integers(1, 9999), chance=chances)
def test_a_pause_is_between_nothing_and_the_limit(retry: Retry, attempt: int, chance: float) -> None:
    """Also for the 9,999th attempt, when nothing that doubles each time fits into a number any more."""
    assert 0 <= retry.delay(attempt, chance) <= seconds_of(retry.limit)


@given(retry=retries(), attempt=st.integers(1, 9998), chance=chances)
def test_pauses_never_shrink(retry: Retry, attempt: int, chance: float) -> None:
    """With the same chance, the pause after a later attempt is at least as long."""
    assert retry.delay(attempt, chance) <= retry.delay(attempt + 1, chance)


@given(retry=retries(), chance=chances, other=chances)
def test_chance_spreads_the_attempts(retry: Retry, chance: float, other: float) -> None:
    """More chance, more taken off: workers that failed together do not come back together."""
    assume(chance < other)
    assert retry.delay(2, chance) >= retry.delay(2, other)


def test_full_jitter_reaches_the_whole_span() -> None:
    """With `jitter=1` the pause may be anything from nothing to the full one."""
    retry = Retry(first=10, limit=10, jitter=1)
    assert retry.delay(1, 0.0) == 10
    assert retry.delay(1, 0.75) == 2.5


# -- whether there is a next attempt -----------------------------------------------------------------


def test_again_until_the_attempts_are_used_up() -> None:
    """Attempt number `attempts` is the last one."""
    retry = Retry(attempts=3)
    assert [retry.again(attempt, OSError()) for attempt in (1, 2, 3, 4)] == [True, True, False, False]


def test_one_attempt_is_no_retry() -> None:
    """`attempts=1` says that the first failure is final."""
    assert not Retry(attempts=1).again(1, OSError())


def test_again_by_the_errors_class() -> None:
    """Only what `on` names, and what derives from it, is worth another attempt."""
    retry = Retry(on=(ConnectionError, KeyError))
    assert retry.again(1, ConnectionResetError())
    assert retry.again(1, KeyError("x"))
    assert not retry.again(1, OSError())
    assert not retry.again(1, TimeoutError())
    assert not Retry(on=()).again(1, OSError())


@pytest.mark.parametrize("error", [ContractError("no"), PayloadTooLarge("no"), UnroutableEvent("no")])
@pytest.mark.parametrize("on", [(Exception,), (ContractError, PayloadTooLarge, UnroutableEvent)])
def test_the_handlers_own_mistakes_are_never_tried_again(
    error: Exception, on: tuple[type[Exception], ...]
) -> None:
    """What breaks the contract, or cannot be published, would be the same again, whatever `on` says."""
    assert not Retry(on=on).again(1, error)


@pytest.mark.parametrize("on", [(Exception,), (Abort,)])
def test_an_abort_is_never_tried_again(on: tuple[type[Exception], ...]) -> None:
    """The business said no; in an undo, too, another attempt would hear the same."""
    assert not Retry(on=on).again(1, Abort("closed"))


# -- policies over policies --------------------------------------------------------------------------


def test_what_a_handler_says_wins_over_the_default() -> None:
    """Retry and timeout are taken over one by one."""
    mine, default = Policy(Retry(attempts=2)), Policy(Retry(attempts=9), timeout=30.0)
    assert mine.over(default) == Policy(Retry(attempts=2), 30.0)
    assert Policy(timeout=1.0).over(default) == Policy(Retry(attempts=9), 1.0)
    assert Policy().over(default) == default
    assert default.over(Policy(Retry(attempts=1), 1.0)) == default
    assert Policy().over(Policy()) == Policy(None, None)


@pytest.mark.parametrize("timeout", [0, -1, timedelta(0), timedelta(seconds=-2), math.nan, math.inf])
def test_a_timeout_is_positive(timeout: float | timedelta) -> None:
    """Otherwise no attempt could ever succeed (or, with NaN, nobody knows)."""
    with pytest.raises(ContractError, match=r"here: timeout is .*; it must be positive"):
        make_policy("here", None, timeout)


def test_the_decorators_take_policies() -> None:
    """`on`, `on_all` and `undo` keep what they were given; the undo's is its own."""
    shop = Participant("shop")

    @shop.on(Placed, timeout=timedelta(minutes=1), retry=Retry(attempts=2))
    def charge(placed: Placed) -> None: ...

    @charge.undo(timeout=5, retry=Retry(attempts=7))
    def refund(placed: Placed) -> None: ...

    assert charge.policy == Policy(Retry(attempts=2), 60.0)
    assert charge.compensation is not None
    assert charge.compensation.policy == Policy(Retry(attempts=7), 5.0)


def test_an_undo_without_options_takes_the_defaults_not_the_steps_policy() -> None:
    """`@charge.undo` leaves everything open, whatever the step says."""
    shop = Participant("shop")

    @shop.on(Placed, retry=Retry(attempts=1))
    def charge(placed: Placed) -> None: ...

    @charge.undo
    def refund(placed: Placed) -> None: ...

    assert charge.compensation is not None
    assert charge.compensation.policy == Policy()


def test_a_wrong_timeout_says_where_it_stands() -> None:
    """The place in the code is named, as it is for every other fault of a contract."""
    shop = Participant("shop")
    with pytest.raises(ContractError, match=r"test_policy\.py:\d+"):
        shop.on(Placed, timeout=0)
