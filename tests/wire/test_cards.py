"""Contract cards: what workers tell a namespace about their participant."""

from __future__ import annotations

import msgspec

from choreo import Event, Participant
from choreo.wire.cards import Card, StepCard, card_of, decode_card, encode_card


class Placed(Event):
    pass


class Paid(Event):
    pass


class Refunded(Event):
    pass


def shop() -> Participant:
    payments = Participant("payments")

    @payments.on(Placed)
    def charge(placed: Placed) -> Paid | None: ...

    @charge.undo
    def refund(placed: Placed, paid: Paid | None) -> list[Refunded]: ...

    @payments.on_all(Paid, Refunded)
    def settle(paid: Paid, refunded: Refunded) -> None: ...

    return payments


def test_a_card_tells_what_a_participant_hears_and_says() -> None:
    """Each step with its events, in order, what it may emit, and its undo."""
    assert card_of(shop()) == Card(
        "payments",
        (
            StepCard("charge", ("Placed",), False, ("Paid",), "refund", ("Refunded",)),
            StepCard("settle", ("Paid", "Refunded"), True),
        ),
    )


def test_a_card_survives_its_encoding() -> None:
    """What one process writes another reads, and equal cards are equal bytes."""
    assert decode_card(encode_card(card_of(shop()))) == card_of(shop())
    assert encode_card(card_of(shop())) == encode_card(card_of(shop()))


def test_a_card_of_a_newer_version_can_be_read() -> None:
    """Attributes that this version does not know are ignored."""
    newer = msgspec.json.decode(encode_card(card_of(shop())))
    newer["since"] = "2.0"
    newer["steps"][0]["retry"] = {"attempts": 5}
    assert decode_card(msgspec.json.encode(newer)) == card_of(shop())
