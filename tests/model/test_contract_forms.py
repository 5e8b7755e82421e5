"""Contracts at import: the forms that a handler may have, and modules as users write them."""

from __future__ import annotations

import collections.abc
import functools
import importlib.util
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Optional, Union

import pytest

from choreo import Context, Event, Participant
from choreo.errors import ContractError
from choreo.model.participant import Step

# ruff: noqa: UP007, UP045 - the older ways to write annotations are what is tested here


class Placed(Event):
    amount: int = 0


class BigPlaced(Placed):
    note: str = ""


class Paid(Event):
    pass


class Declined(Event):
    pass


def refusal(declare: Callable[[Any], object], handler: Any) -> str:
    """What is said about ``handler``, which must be refused."""
    with pytest.raises(ContractError) as caught:
        declare(handler)
    return str(caught.value)


def settle(either: Placed | Paid) -> None: ...


# -- what is allowed ---------------------------------------------------------------------------------


def one(placed: Placed) -> Paid: ...
def optional(placed: Placed) -> Optional[Paid]: ...
def either(placed: Placed) -> Union[Paid, Declined]: ...
def either_or_none(placed: Placed) -> Paid | Declined | None: ...
def nothing(placed: Placed) -> None: ...
def a_pair(placed: Placed) -> tuple[Paid, Declined]: ...
def any_tuple(placed: Placed) -> tuple[Paid | Declined, ...]: ...
def an_empty_tuple(placed: Placed) -> tuple[()]: ...
def a_list(placed: Placed) -> list[Paid]: ...
def a_sequence(placed: Placed) -> Sequence[Paid | Declined]: ...
def an_iterable(placed: Placed) -> collections.abc.Iterable[Paid]: ...
def one_or_many(placed: Placed) -> Paid | list[Declined] | None: ...
def quoted(placed: "Placed") -> "Paid | None": ...  # noqa: UP037
def annotated(placed: Annotated[Placed, "x"]) -> Annotated[Paid | None, "y"]: ...


@pytest.mark.parametrize(
    ("handler", "types", "single", "several", "none"),
    [
        (one, {Paid}, True, False, False),
        (optional, {Paid}, True, False, True),
        (either, {Paid, Declined}, True, False, False),
        (either_or_none, {Paid, Declined}, True, False, True),
        (nothing, set(), False, False, True),
        (a_pair, {Paid, Declined}, False, True, False),
        (any_tuple, {Paid, Declined}, False, True, False),
        (an_empty_tuple, set(), False, True, False),
        (a_list, {Paid}, False, True, False),
        (a_sequence, {Paid, Declined}, False, True, False),
        (an_iterable, {Paid}, False, True, False),
        (one_or_many, {Paid, Declined}, True, True, True),
        (quoted, {Paid}, True, False, True),
        (annotated, {Paid}, True, False, True),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_return_annotations_are_the_contract(
    handler: Callable[..., Any], types: set[type[Event]], single: bool, several: bool, none: bool
) -> None:
    """Every usual way to say one event, several or none is understood."""
    outcome = Participant("payments").on(Placed)(handler).outcome
    assert outcome.types == types
    assert (outcome.single, outcome.several, outcome.nothing) == (single, several, none)


def test_parameters_may_be_wider_than_the_event() -> None:
    """A parameter may take a base class, a union, any event or anything: what comes always fits."""

    def base(placed: Placed) -> None: ...
    def union(placed: Paid | Placed | None) -> None: ...
    def event(placed: Event) -> None: ...
    def thing(placed: object) -> None: ...
    def anything(placed: Any) -> None: ...
    def positional(placed: Placed, /) -> None: ...
    def untyped_context(placed: Placed, ctx) -> None: ...

    for handler in (base, union, event, thing, anything, positional, untyped_context):
        step = Participant("payments").on(Placed)(handler)
        assert step.takes_context == (handler is untyped_context)
    assert Participant("payments").on(BigPlaced)(base).on == (BigPlaced,)


def test_a_step_on_several_events_takes_each_of_them() -> None:
    """`on(A, B)` needs a parameter that takes A as well as B."""

    def only_one(placed: Placed) -> None: ...

    why = refusal(Participant("payments").on(Placed, Paid), only_one)
    assert why.endswith("only_one: parameter 'placed' does not take Paid; annotate it with Paid | Placed")
    step = Participant("payments").on(Placed, Paid)(settle)
    assert not step.is_join
    assert step.arity == 1


def test_a_join_takes_its_events_in_order() -> None:
    """`on_all(A, B)` needs a parameter for each, in that order."""

    def in_order(placed: Placed, paid: Paid, ctx: Context) -> None: ...
    def swapped(paid: Paid, placed: Placed) -> None: ...

    step = Participant("shipping").on_all(Placed, Paid)(in_order)
    assert step.is_join
    assert step.arity == 2
    assert "parameter 'paid' does not take Placed" in refusal(Participant("p").on_all(Placed, Paid), swapped)
    assert "takes 1 events, but it gets 2" in refusal(Participant("p").on_all(Placed, Paid), settle)


def test_a_decorated_handler_keeps_its_contract() -> None:
    """A wrapper made with functools.wraps is judged, and found, by what it wraps."""

    def logged(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        async def wrapper(*args: Any) -> Any:
            return function(*args)

        return wrapper

    step = Participant("payments").on(Placed)(logged(either))
    assert step.outcome.types == {Paid, Declined}
    assert step.is_async
    assert step.location == f"{__file__}:{either.__code__.co_firstlineno}"


def test_a_step_is_still_its_handler() -> None:
    """Calling a step calls the handler, so that it can be tested without a server."""
    payments = Participant("payments")

    @payments.on(Placed)
    def double(placed: Placed) -> Placed:
        return Placed(placed.amount * 2)

    assert double(Placed(4)) == Placed(8)
    assert isinstance(double, Step)
    assert payments.steps == (double,)
    assert payments.reactions == {"Placed": double}
    assert repr(double) == "<Step payments/double on Placed>"
    assert repr(payments) == "<Participant payments: double>"


# -- modules as users write them ---------------------------------------------------------------------

LOCAL = """
from choreo import Context, Event, Participant

def build():
    class Asked(Event):
        what: str

    class Told(Event):
        what: str

    talker = Participant("talker")

    @talker.on(Asked)
    async def answer(asked: Asked, ctx: Context) -> Told | None:
        return None

    @answer.undo
    async def forget(asked: Asked, told: Told | None) -> None:
        pass

    return answer

step = build()
"""

FORWARD = """
from choreo import Event, Participant

talker = Participant("talker")

class Asked(Event):
    pass

@talker.on(Asked)
def answer(asked: Asked) -> "Told": ...

class Told(Event):
    pass
"""


def load(path: Path, source: str) -> Any:
    """Import ``source`` as a module of its own."""
    path.write_text(textwrap.dedent(source))
    spec = importlib.util.spec_from_file_location("written_by_a_user", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.pop("written_by_a_user", None)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("head", ["", "from __future__ import annotations\n"])
def test_events_that_are_local_to_a_function_are_found(tmp_path: Path, head: str) -> None:
    """Classes next to the handler are understood, with and without postponed annotations."""
    step = load(tmp_path / "local.py", head + LOCAL).step
    assert [event.__name__ for event in step.outcome.types] == ["Told"]
    assert [event.__name__ for event in step.compensation.types] == ["Told"]


@pytest.mark.parametrize("head", ["", "from __future__ import annotations\n"])
def test_an_event_that_is_declared_too_late_is_named(tmp_path: Path, head: str) -> None:
    """An annotation that names what comes later in the module cannot be read, and says so with its line."""
    path = tmp_path / "forward.py"
    with pytest.raises(ContractError) as caught:
        load(path, head + FORWARD)
    line = 9 + len(head.splitlines())
    assert str(caught.value).startswith(f"{path}:{line}: answer: its annotations cannot be read: name 'Told'")
