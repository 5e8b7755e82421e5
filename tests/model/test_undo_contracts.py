"""Undos at import: how a compensation fits its step, and how each mistake says where it stands."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from choreo import Context, Event, Participant
from choreo.errors import ContractError


class Placed(Event):
    pass


class Paid(Event):
    pass


class Declined(Event):
    pass


class Refunded(Event):
    pass


def refusal(declare: Callable[[Any], object], handler: Any) -> str:
    """What is said about ``handler``, which must be refused with the place where it stands."""
    with pytest.raises(ContractError) as caught:
        declare(handler)
    said = str(caught.value)
    place = f"{__file__}:{handler.__code__.co_firstlineno}: {handler.__name__}: "
    assert said.startswith(place), said
    return said.removeprefix(place)


def undo_of_nothing(ctx: Context) -> None: ...


def undo_of_another(paid: Paid) -> None: ...


def undo_without_return(placed: Placed, paid: Paid | None): ...


def undo_with_result_unannotated(placed: Placed, paid) -> None: ...


def undo_with_result_none(placed: Placed, paid: None) -> None: ...


def undo_without_none(placed: Placed, paid: Paid) -> None: ...


def undo_of_foreign_result(placed: Placed, declined: Declined | None) -> None: ...


def undo_of_some_foreign_result(placed: Placed, paid: Paid | Refunded | None) -> None: ...


def undo_of_several(placed: Placed, paid: list[Paid] | None) -> None: ...


def undo_of_text(placed: Placed, paid: str | None) -> None: ...


def undo_with_too_much(placed: Placed, paid: Paid | None, more: Paid | None) -> None: ...


def undo_with_context_first(ctx: Context, placed: Placed) -> None: ...


def undo_with_odd_context(placed: Placed, ctx: int) -> None: ...


def undo_by_keyword(placed: Placed, *, paid: Paid | None) -> None: ...


def undo_that_yields(placed: Placed) -> Iterator[Refunded]:
    yield Refunded()


def undo_that_returns_text(placed: Placed) -> str: ...


UNDO_ARITY = "an undo of charge_card takes the step's 1 and, after them, its result or None"


@pytest.mark.parametrize(
    ("undo", "why"),
    [
        (undo_of_nothing, f"takes 0 events, but {UNDO_ARITY}"),
        (undo_of_another, "parameter 'paid' does not take Placed; annotate it with Placed"),
        (undo_without_return, "needs a return annotation"),
        (undo_with_result_unannotated, "parameter 'paid' needs an annotation"),
        (undo_with_result_none, "parameter 'paid' takes no event, so nothing would ever be undone"),
        (undo_without_none, "parameter 'paid' must also allow None"),
        (
            undo_of_foreign_result,
            "'declined' takes Declined, which charge_card never returns; it returns Paid",
        ),
        (undo_of_some_foreign_result, "parameter 'paid' takes Refunded, which charge_card never returns"),
        (undo_of_several, "parameter 'paid' takes several events; charge_card returns one"),
        (undo_of_text, "parameter 'paid' holds <class 'str'>, which is not an event type"),
        (undo_with_too_much, f"takes 3 events, but {UNDO_ARITY}"),
        (undo_with_context_first, "'ctx' must be the last parameter"),
        (undo_with_odd_context, "'ctx' must be annotated with choreo.Context"),
        (undo_by_keyword, "parameter 'paid' must be a plain positional one"),
        (undo_that_yields, "must return its events, not yield them"),
        (undo_that_returns_text, "its return annotation holds <class 'str'>"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_an_undo_that_does_not_fit_its_step_says_where_and_why(undo: Callable[..., Any], why: str) -> None:
    """An undo takes the step's events, then its result or None, then ctx; anything else is refused."""

    def charge_card(placed: Placed) -> Paid: ...

    step = Participant("payments").on(Placed)(charge_card)
    assert why in refusal(step.undo, undo)
    assert step.compensation is None


def test_an_undo_takes_results_in_the_form_in_which_the_step_returns_them() -> None:
    """A step that may return several events cannot have an undo that takes one, nor the other way round."""

    def charge_parts(placed: Placed) -> list[Paid]: ...
    def charge_any(placed: Placed) -> Paid | list[Paid]: ...
    def takes_one(placed: Placed, paid: Paid | None) -> None: ...
    def takes_list(placed: Placed, paid: list[Paid] | None) -> None: ...
    def takes_both(placed: Placed, paid: Paid | list[Paid] | None) -> None: ...

    assert "takes one event" in refusal(Participant("p").on(Placed)(charge_parts).undo, takes_one)
    assert "takes one event" in refusal(Participant("p").on(Placed)(charge_any).undo, takes_one)
    assert "takes several events" in refusal(Participant("p").on(Placed)(charge_any).undo, takes_list)
    Participant("p").on(Placed)(charge_parts).undo(takes_list)
    Participant("p").on(Placed)(charge_any).undo(takes_both)


def test_a_step_has_one_undo() -> None:
    """A second undo is refused and names the first."""

    def charge(placed: Placed) -> None: ...

    step = Participant("payments").on(Placed)(charge)

    def refund(placed: Placed) -> None: ...
    def refund_again(placed: Placed) -> None: ...

    step.undo(refund)
    assert refusal(step.undo, refund_again) == "charge has an undo already: refund"
    assert step.compensation is not None
    assert step.compensation.name == "refund"


def test_an_undo_of_a_join_takes_every_event() -> None:
    """The undo of a join gets all of its events, in order, then the result."""
    shipping = Participant("shipping")

    @shipping.on_all(Placed, Paid)
    def send(placed: Placed, paid: Paid) -> Declined: ...

    def one(placed: Placed) -> None: ...
    def swapped(paid: Paid, placed: Placed) -> None: ...
    def recall(placed: Placed, paid: Paid, sent: Declined | None, ctx: Context) -> None: ...

    assert "takes 1 events, but an undo of send takes the step's 2" in refusal(send.undo, one)
    assert "parameter 'paid' does not take Placed" in refusal(send.undo, swapped)
    send.undo(recall)
    assert send.compensation is not None
    assert send.compensation.types == {Declined}


def test_an_undo_covers_the_results_that_it_takes() -> None:
    """A result that the undo does not take leaves nothing to undo; no result at all may have to be undone."""
    payments = Participant("payments")

    @payments.on(Placed)
    def charge_card(placed: Placed) -> Paid | Declined | None: ...

    @charge_card.undo
    def refund(placed: Placed, paid: Paid | None) -> Refunded: ...

    undo = charge_card.compensation
    assert undo is not None
    assert undo.covers((Paid(),))
    assert undo.covers(())
    assert not undo.covers((Declined(),))


def test_an_undo_without_result_covers_everything() -> None:
    """An undo that does not look at the result undoes any outcome of the step."""
    payments = Participant("payments")

    @payments.on(Placed)
    def charge_card(placed: Placed) -> Paid | Declined: ...

    @charge_card.undo
    def refund(placed: Placed, ctx: Context) -> None: ...

    undo = charge_card.compensation
    assert undo is not None
    assert not undo.takes_result
    assert undo.takes_context
    assert undo.covers((Declined(),))
