"""Contracts at import: what a participant may declare, and how each mistake says where it stands."""

from __future__ import annotations

import collections.abc
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Literal, Protocol, TypeVar

import pytest

from choreo import Context, Event, Participant, SagaTimedOut
from choreo.errors import ContractError


class Placed(Event):
    amount: int = 0


class BigPlaced(Placed):
    note: str = ""


class Paid(Event):
    pass


class Declined(Event):
    pass


class Refunded(Event):
    pass


class Quacks(Protocol):
    amount: int


AnyEvent = TypeVar("AnyEvent", bound=Event)


def refusal(declare: Callable[[Any], object], handler: Any) -> str:
    """What is said about ``handler``, which must be refused with the place where it stands."""
    with pytest.raises(ContractError) as caught:
        declare(handler)
    said = str(caught.value)
    place = f"{__file__}:{handler.__code__.co_firstlineno}: {handler.__name__}: "
    assert said.startswith(place), said
    return said.removeprefix(place)


def refusal_here(declare: Callable[[], object]) -> str:
    """What is said about something in this file that no handler's place can be given for."""
    with pytest.raises(ContractError) as caught:
        declare()
    file, line, said = str(caught.value).split(":", 2)
    assert file == __file__, caught.value
    assert line.isdigit(), caught.value
    return said.strip()


# -- handlers that cannot hold -----------------------------------------------------------------------


def returns_unannotated(placed: Placed): ...


def takes_unannotated(placed) -> Paid: ...


def takes_another(paid: Paid) -> None: ...


def takes_none(placed: None) -> None: ...


def takes_a_subclass(placed: BigPlaced) -> None: ...


def takes_text(placed: str) -> None: ...


def takes_a_variable(placed: AnyEvent) -> None: ...


def takes_what_quacks(placed: Quacks) -> None: ...


def takes_nothing() -> None: ...


def takes_only_context(ctx: Context) -> None: ...


def takes_two(placed: Placed, paid: Paid) -> None: ...


def takes_a_default(placed: Placed, retries: int = 3) -> None: ...


def takes_by_keyword(*, placed: Placed) -> None: ...


def takes_context_by_keyword(placed: Placed, *, ctx: Context) -> None: ...


def takes_all(*placed: Placed) -> None: ...


def takes_names(placed: Placed, **more: Any) -> None: ...


def context_first(ctx: Context, placed: Placed) -> None: ...


def context_of_another_type(placed: Placed, ctx: dict[str, str]) -> None: ...


def context_or_none(placed: Placed, ctx: Context | None) -> None: ...


def context_of_another_name(placed: Placed, context: Context) -> None: ...


def returns_text(placed: Placed) -> str: ...


def returns_anything(placed: Placed) -> Any: ...


def returns_the_base(placed: Placed) -> Event: ...


def returns_a_literal(placed: Placed) -> Literal["paid"]: ...


def returns_choreos_own(placed: Placed) -> SagaTimedOut | None: ...


def returns_an_instance(placed: Placed) -> Paid | Literal[1]: ...


def returns_a_bare_list(placed: Placed) -> list: ...


def returns_a_list_of_text(placed: Placed) -> list[str]: ...


def returns_a_list_with_none(placed: Placed) -> list[Paid | None]: ...


def returns_a_dict(placed: Placed) -> dict[str, Paid]: ...


def returns_a_set(placed: Placed) -> set[Paid]: ...


def returns_a_type(placed: Placed) -> type[Paid]: ...


def returns_an_awaitable(placed: Placed) -> collections.abc.Awaitable[Paid]: ...


def yields(placed: Placed) -> Iterator[Paid]:
    yield Paid()


async def yields_asynchronously(placed: Placed) -> AsyncIterator[Paid]:
    yield Paid()


def names_what_is_not_there(placed: Placed) -> Payed: ...  # noqa: F821


def names_a_mistake(placed: Placed) -> "Paid |": ...  # noqa: F722


@pytest.mark.parametrize(
    ("handler", "why"),
    [
        (returns_unannotated, "needs a return annotation"),
        (takes_unannotated, "parameter 'placed' needs an annotation with its event type"),
        (takes_another, "parameter 'paid' does not take Placed; annotate it with Placed"),
        (takes_none, "parameter 'placed' does not take Placed"),
        (takes_a_subclass, "parameter 'placed' does not take Placed"),
        (takes_text, "parameter 'placed' does not take Placed"),
        (takes_a_variable, "parameter 'placed' does not take Placed"),
        (takes_what_quacks, "parameter 'placed' does not take Placed"),
        (takes_nothing, "takes 0 events, but it gets 1 (Placed)"),
        (takes_only_context, "takes 0 events, but it gets 1 (Placed)"),
        (takes_two, "takes 2 events, but it gets 1 (Placed)"),
        (takes_a_default, "takes 2 events, but it gets 1 (Placed)"),
        (takes_by_keyword, "parameter 'placed' must be a plain positional one"),
        (takes_context_by_keyword, "parameter 'ctx' must be a plain positional one"),
        (takes_all, "parameter 'placed' must be a plain positional one"),
        (takes_names, "parameter 'more' must be a plain positional one"),
        (context_first, "'ctx' must be the last parameter"),
        (context_of_another_type, "'ctx' must be annotated with choreo.Context"),
        (context_or_none, "'ctx' must be annotated with choreo.Context"),
        (context_of_another_name, "takes 2 events, but it gets 1 (Placed)"),
        (returns_text, "its return annotation holds <class 'str'>, which is not an event type"),
        (returns_anything, "its return annotation holds typing.Any"),
        (returns_the_base, "its return annotation holds <class 'choreo.model.event.Event'>"),
        (returns_a_literal, "its return annotation holds typing.Literal['paid']"),
        (returns_choreos_own, "its return annotation holds SagaTimedOut, which only choreo itself emits"),
        (returns_an_instance, "its return annotation holds typing.Literal[1]"),
        (returns_a_bare_list, "its return annotation holds <class 'list'>"),
        (returns_a_list_of_text, "its return annotation holds <class 'str'>"),
        (returns_a_list_with_none, "its return annotation holds <class 'NoneType'>"),
        (returns_a_dict, "its return annotation holds dict["),
        (returns_a_set, "its return annotation holds set["),
        (returns_a_type, "its return annotation holds type["),
        (returns_an_awaitable, "its return annotation holds collections.abc.Awaitable["),
        (yields, "must return its events, not yield them; return a list"),
        (yields_asynchronously, "must return its events, not yield them; return a list"),
        (names_what_is_not_there, "its annotations cannot be read: name 'Payed' is not defined"),
        (names_a_mistake, "its annotations cannot be read: "),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_step_that_cannot_hold_says_where_and_why(handler: Callable[..., Any], why: str) -> None:
    """A handler whose signature does not fit is refused at import, with its file, line and name."""
    assert why in refusal(Participant("payments").on(Placed), handler)


def test_a_refused_step_leaves_nothing_behind() -> None:
    """After a refusal the participant is as before."""
    payments = Participant("payments")
    refusal(payments.on(Placed), returns_text)
    assert payments.steps == ()
    assert payments.reactions == {}


def test_a_handler_that_is_no_function_is_refused() -> None:
    """Partials, callable objects and other participants' steps are refused in plain words."""
    payments, audit = Participant("payments"), Participant("audit")

    def charge(placed: Placed) -> Paid: ...

    class Charger:
        def __call__(self, placed: Placed) -> Paid: ...

    for handler in (functools.partial(charge), Charger(), audit.on(Placed)(charge), 5):
        said = refusal_here(lambda handler=handler: payments.on(Placed)(handler))  # type: ignore[misc]
        assert said.startswith("payments: ")
        assert "is not a function" in said
    assert payments.steps == ()


# -- which events ------------------------------------------------------------------------------------


def charge(placed: Placed) -> None: ...


def charge_again(placed: Placed) -> None: ...


def settle(either: Placed | Paid) -> None: ...


def settle_twice(first: Placed, second: Placed) -> None: ...


def test_two_steps_on_one_event_are_refused() -> None:
    """A second step on an event type names the first one and where that stands."""
    payments = Participant("payments")
    payments.on(Placed)(charge)
    said = refusal(payments.on(Placed), charge_again)
    line = charge.__code__.co_firstlineno
    assert said == (
        f"participant 'payments' reacts to Placed already, in charge ({__file__}:{line});"
        " one step per event type"
    )
    assert "Placed" in refusal(payments.on(Paid, Placed), settle)


def test_a_join_and_a_step_do_not_share_an_event() -> None:
    """The rule of one step per event type holds between joins and plain steps as well."""
    payments = Participant("payments")

    @payments.on_all(Placed, Paid)
    def both(placed: Placed, paid: Paid) -> None: ...

    assert "reacts to Placed already, in both" in refusal(payments.on(Placed), charge)


def test_two_event_types_of_one_name_are_one() -> None:
    """Types are known by name on the wire, so two classes of one name collide."""
    namesake = type("Placed", (Event,), {})
    payments = Participant("payments")
    payments.on(Placed)(charge)

    def other(placed: Event) -> None: ...

    assert "reacts to Placed already" in refusal(payments.on(namesake), other)
    assert "Placed is listed twice" in refusal(Participant("audit").on(Placed, namesake), other)


def test_two_steps_of_one_name_are_refused() -> None:
    """A step is known by its handler's name, so two handlers of one name are refused."""
    payments = Participant("payments")
    payments.on(Placed)(charge)

    def renamed(paid: Paid) -> None: ...

    renamed.__name__ = "charge"
    assert refusal(payments.on(Paid), renamed) == "participant 'payments' has a step of this name already"


def test_an_event_listed_twice_is_refused() -> None:
    """`on(A, A)` and `on_all(A, A)` are mistakes."""
    assert "Placed is listed twice" in refusal(Participant("p").on(Placed, Placed), charge)
    assert "Placed is listed twice" in refusal(Participant("p").on_all(Placed, Placed), settle_twice)


@pytest.mark.parametrize("declare", [lambda p: p.on(), lambda p: p.on_all(), lambda p: p.on_all(Placed)])
def test_too_few_events_are_refused(declare: Callable[[Participant], object]) -> None:
    """`on` needs an event type, `on_all` two; the message names the participant."""
    said = refusal_here(lambda: declare(Participant("payments")))
    assert said.startswith("payments: on")
    assert " needs " in said


@pytest.mark.parametrize("event", [Event, int, "Placed", None, Placed | Paid, Placed()])
def test_what_is_no_event_type_is_refused(event: Any) -> None:
    """`on` takes subclasses of Event, and says so when given anything else, before any handler comes."""
    said = refusal_here(lambda: Participant("payments").on(event))
    assert said.startswith("payments: ")
    assert "is not a subclass of choreo.Event" in said


def test_on_without_parentheses_is_refused() -> None:
    """`@payments.on` without a call is refused: it would declare nothing."""
    said = refusal_here(lambda: Participant("payments").on(charge))  # type: ignore[arg-type]
    assert "charge" in said
    assert "is not a subclass of choreo.Event" in said


@pytest.mark.parametrize(
    "name", ["", "Payments", "pay ments", "pay:ments", "{p}", "-p", "p" * 65, "choreo:tracker"]
)
def test_a_participant_needs_a_proper_name(name: str) -> None:
    """A name becomes part of keys, so its shape is bounded."""
    assert "must match" in refusal_here(lambda: Participant(name))
