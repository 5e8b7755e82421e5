"""The events of the shop: all that its participants share.

An order goes like this. Indented events are caused by the one above; shipping waits for payment and
stock, which are seen to side by side::

    OrderPlaced                 the customer
    ├── PaymentCaptured         payments, or PaymentDeclined
    ├── StockReserved           inventory, or OutOfStock
    └── (both) ShipmentBooked   shipping, which may refuse the address
        └── OrderShipped        orders, which may find the delivery too late

and, if anything fails, back again: ShipmentCancelled, then PaymentRefunded and StockReleased.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from choreo import Event

Positive = Annotated[int, Meta(gt=0)]


class OrderPlaced(Event):
    """A customer wants goods. ``country`` has two letters; ``card`` is what its issuer knows it by."""

    order_id: str
    customer: str
    sku: str
    quantity: Positive
    amount_cents: Positive
    card: str
    country: str
    deliver_within_days: Positive = 7


class OrderShipped(Event):
    """The shop keeps its promise: from here on nothing is taken back."""

    order_id: str
    tracking: str


class PaymentCaptured(Event):
    """The customer has paid."""

    order_id: str
    amount_cents: int


class PaymentDeclined(Event):
    """The customer has not paid, and no money has moved."""

    order_id: str
    reason: str


class PaymentRefunded(Event):
    """The customer has the money back."""

    order_id: str
    amount_cents: int


class StockReserved(Event):
    """The goods are set aside for this order."""

    order_id: str
    sku: str
    quantity: int


class OutOfStock(Event):
    """There are fewer goods than were ordered, and none are set aside."""

    order_id: str
    sku: str


class StockReleased(Event):
    """The goods that were set aside can be sold to others."""

    order_id: str
    sku: str
    quantity: int


class ShipmentBooked(Event):
    """A carrier will bring the goods in ``days``; the customer wants them ``days_late`` days earlier."""

    order_id: str
    tracking: str
    days: int
    days_late: int


class ShipmentCancelled(Event):
    """The carrier will not come."""

    order_id: str
