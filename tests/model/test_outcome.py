"""What a handler returns, held against what its annotation allows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from choreo import Event, Participant
from choreo.errors import ContractError
from choreo.model.contract import check_emitted, check_outcome


class Placed(Event):
    pass


class Paid(Event):
    amount: int = 0


class PaidInParts(Paid):
    pass


class Declined(Event):
    pass


def one(placed: Placed) -> Paid: ...
def either(placed: Placed) -> Paid | Declined: ...
def one_or_none(placed: Placed) -> Paid | None: ...
def nothing(placed: Placed) -> None: ...
def several(placed: Placed) -> list[Paid]: ...
def one_or_several(placed: Placed) -> Paid | list[Paid] | None: ...


def generated() -> Iterator[Paid]:
    yield Paid(1)
    yield Paid(2)


def judge(handler: Callable[..., Any], returned: Any) -> tuple[Event, ...]:
    outcome = Participant("payments").on(Placed)(handler).outcome
    return check_outcome(handler, outcome, returned)


@pytest.mark.parametrize(
    ("handler", "returned", "events"),
    [
        (one, Paid(), (Paid(),)),
        (either, Declined(), (Declined(),)),
        (one_or_none, None, ()),
        (nothing, None, ()),
        (several, [], ()),
        (several, [Paid(1), Paid(2)], (Paid(1), Paid(2))),
        (several, (Paid(1),), (Paid(1),)),
        (several, generated(), (Paid(1), Paid(2))),
        (one_or_several, Paid(), (Paid(),)),
        (one_or_several, [Paid()], (Paid(),)),
        (one_or_several, None, ()),
    ],
)
def test_what_the_annotation_allows_is_taken(
    handler: Callable[..., Any], returned: Any, events: tuple[Event, ...]
) -> None:
    """One event, several or none come out as a tuple, in order."""
    assert judge(handler, returned) == events


@pytest.mark.parametrize(
    ("handler", "returned", "why"),
    [
        (one, None, "returned None; its annotation allows one of Paid"),
        (one, Declined(), "returned Declined; its annotation allows one of Paid"),
        (one, PaidInParts(), "returned PaidInParts; its annotation allows one of Paid"),
        (one, [Paid()], "returned several events; its annotation allows one of Paid"),
        (one, [], "returned several events; its annotation allows one of Paid"),
        (one, "paid", "returned str, which is not an event; its annotation allows one of Paid"),
        (one, {"amount": 1}, "returned dict, which is not an event"),
        (one, 5, "returned int, which is not an event"),
        (either, None, "returned None; its annotation allows one of Declined, Paid"),
        (one_or_none, Declined(), "returned Declined; its annotation allows one of Paid or nothing"),
        (nothing, Paid(), "returned Paid; its annotation allows nothing"),
        (several, Paid(), "returned Paid; its annotation allows several of Paid"),
        (several, None, "returned None; its annotation allows several of Paid"),
        (several, [Paid(), Declined()], "returned Declined; its annotation allows several of Paid"),
        (several, [Paid(), "paid"], "returned list, which is not an event"),
        (one_or_several, Declined(), "its annotation allows one or several of Paid or nothing"),
    ],
)
def test_anything_else_is_an_error_that_says_where(
    handler: Callable[..., Any], returned: Any, why: str
) -> None:
    """What the annotation does not allow is refused, with the handler, its place and what is allowed."""
    with pytest.raises(ContractError) as caught:
        judge(handler, returned)
    said = str(caught.value)
    assert said.startswith(f"{__file__}:{handler.__code__.co_firstlineno}: {handler.__name__}: ")
    assert why in said


def test_emitted_events_are_held_against_the_annotation_too() -> None:
    """`ctx.emit` is no way around the contract."""
    outcome = Participant("payments").on(Placed)(one).outcome
    check_emitted(one, outcome, [Paid(), Paid()])
    with pytest.raises(ContractError, match="one: emitted Declined; its annotation allows one of Paid"):
        check_emitted(one, outcome, [Paid(), Declined()])
