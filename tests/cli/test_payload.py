"""Checking a payload before it is sent."""

from __future__ import annotations

import enum
from typing import Annotated, Literal

import msgspec
import pytest

from choreo import Event, Participant
from choreo.cli.payload import check_payload, event_class, example
from choreo.errors import EventError


class Colour(enum.Enum):
    RED = "red"


class Address(msgspec.Struct):
    street: str
    floor: int = 0


class Ordered(Event):
    order_id: str
    count: Annotated[int, msgspec.Meta(gt=0)]
    price: float
    tags: list[str]
    colour: Colour
    kind: Literal["gift", "own"]
    address: Address
    prices: dict[str, int]
    express: bool
    voucher: str | None
    amount: int | str
    note: str = ""


class Sent(Event):
    pass


@pytest.mark.parametrize(
    ("payload", "said"),
    [
        (b"", "data-not-json"),
        (b"{", "data-not-json"),
        (b"NaN", "data-not-json"),
        (b'{"a": "\xff"}', "data-not-json"),
        (b"[" * 100_000, "data-too-deep"),
        (b'"' + b"x" * 1_000_000 + b'"', "data-too-large"),
        (b"[]", "Expected `object`"),
        (b"{}", "missing required field `order_id`"),
        (b'{"order_id": 7}', r"Expected `str`, got `int` - at `\$.order_id`"),
    ],
)
def test_what_does_not_fit_is_refused(payload: bytes, said: str) -> None:
    """The message says what is wrong with it, and names the field."""
    with pytest.raises(EventError, match=said):
        check_payload("Ordered", payload, Ordered)


def test_a_misfit_is_told_with_an_example() -> None:
    """Who gets it wrong sees what would be right."""
    with pytest.raises(EventError, match="It looks like this: ") as caught:
        check_payload("Ordered", b"{}", Ordered)
    shown = str(caught.value).partition("It looks like this: ")[2]
    assert msgspec.json.decode(shown, type=Ordered).count == 1


def test_the_example_shows_what_must_be_there() -> None:
    """Every required field with a value of its type; what has a default is left out."""
    shown = msgspec.json.decode(example(Ordered))
    assert list(shown) == [name for name in Ordered.__struct_fields__ if name != "note"]
    assert shown["address"] == {"street": "…"}


def test_what_fits_is_sent_as_the_class_writes_it() -> None:
    """So a saga begun by the command line and one begun by the library are the same saga."""
    assert check_payload("Sent", b" { } ", Sent) == b"{}"


def test_an_unknown_field_is_mentioned(capsys: pytest.CaptureFixture[str]) -> None:
    """A slip of the pen in a field that need not be there would go unnoticed otherwise."""
    assert check_payload("Sent", b'{"nto": 1}', Sent) == b"{}"
    assert "Sent has no field nto" in capsys.readouterr().err


def test_without_a_class_only_json_is_needed() -> None:
    """Where the participants cannot be imported, the payload goes as it is, if it is JSON."""
    assert check_payload("Foreign", b'{"a" : [1]}', None) == b'{"a" : [1]}'
    with pytest.raises(EventError, match="data-not-json"):
        check_payload("Foreign", b"{a: 1}", None)


def test_classes_are_found_where_they_are_used() -> None:
    """Those that steps react to, and those that they emit."""
    shop = Participant("shop")

    @shop.on(Ordered)
    def send(ordered: Ordered) -> Sent:
        return Sent()

    assert event_class([shop], "Ordered") is Ordered
    assert event_class([shop], "Sent") is Sent
    assert event_class([shop], "Nothing") is None
