"""Orders for the reference shop in any number, and what its books must say in the end."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from participants import inventory, orders, payments, shipping
from participants.contracts import OrderPlaced

PARTICIPANTS = ("orders", "payments", "inventory", "shipping")
#: Ways in which an order fails, by what is wrong with it. Every third order fails in one of them.
FAILURES: tuple[dict[str, Any], ...] = (
    {"card": "declined"},
    {"amount_cents": 10**9},
    {"sku": "gramophone", "quantity": 50},
    {"country": "AQ"},
    {"country": "PT", "deliver_within_days": 2},
)


def order(number: int) -> OrderPlaced:
    """Order ``number``: every third one fails, in turn at each step."""
    wrong = FAILURES[number // 3 % len(FAILURES)] if fails(number) else {}
    fields: dict[str, Any] = {
        "order_id": order_id(number), "customer": f"customer-{number // 50}", "sku": "mug", "quantity": 1,
        "amount_cents": 1000 + number, "card": "visa-4242", "country": "DE", "deliver_within_days": 9,
    }  # fmt: skip
    return OrderPlaced(**{**fields, **wrong})


def order_id(number: int) -> str:
    """The id of order ``number``, and of its saga."""
    return f"order-{number}"


def fails(number: int) -> bool:
    """Whether order ``number`` must end compensated, and not completed."""
    return number % 3 == 0


def unbalanced(folder: Path, shipped: Iterable[int]) -> str:
    """What is wrong with the books if exactly the orders ``shipped`` were fulfilled; nothing if all is well.

    Money and stock are conserved; shipped orders are paid and booked once, others not at all. Some of
    it happens after an order's end: ask again until it comes true.
    """
    amounts = {order_id(number): 1000 + number for number in shipped}
    money, stock = payments.totals(folder), inventory.totals(folder)
    statuses = orders.statuses(folder)
    found = {
        "money is conserved": money.conserved,
        "stock is conserved": stock.conserved,
        "each is paid once": money.captured == {each: (cents,) for each, cents in amounts.items()},
        "nothing stays reserved": not stock.reserved,
        "each is handed over once": stock.shipped == dict.fromkeys(amounts, (1,)),
        "each has one carrier": shipping.booked(folder) == dict.fromkeys(amounts, 1),
        "each is closed": {each for each, said in statuses.items() if said == "shipped"} == amounts.keys(),
    }
    return ", ".join(f"not so: {what}" for what, holds in found.items() if not holds)
