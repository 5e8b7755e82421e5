"""Calling the shop's handlers as a worker would: with the keys that it hands out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from choreo import Context, Event
from participants import inventory, payments, shipping
from participants.contracts import (
    OrderPlaced,
    OrderShipped,
    PaymentCaptured,
    PaymentRefunded,
    ShipmentBooked,
    ShipmentCancelled,
    StockReleased,
    StockReserved,
)
from participants.store import Store


def order(number: int = 1, **changes: Any) -> OrderPlaced:
    """An order that ships, unless ``changes`` say otherwise."""
    fields: dict[str, Any] = {
        "order_id": f"order-{number}",
        "customer": "ada",
        "sku": "mug",
        "quantity": 2,
        "amount_cents": 2400,
        "card": "4242",
        "country": "DE",
    }
    return OrderPlaced(**fields | changes)


def context(store: Store, step: str, placed: OrderPlaced, *, undo: bool = False) -> Context:
    """What a worker hands to ``step`` (or to its undo) for this order, in every attempt."""
    key = f"{placed.order_id}/{step}"
    return Context(
        saga_id=f"saga-of-{placed.order_id}",
        saga_type="order",
        participant="",
        step=step,
        event_id="",
        key=f"{key}/undo" if undo else key,
        undoes=key if undo else None,
        resources=store,
    )


def charge(store: Store, placed: OrderPlaced) -> Event:
    return payments.charge(placed, context(store, "charge", placed))


def refund(store: Store, placed: OrderPlaced) -> Event | None:
    return payments.refund(placed, None, context(store, "charge", placed, undo=True))


def reserve(store: Store, placed: OrderPlaced) -> Event:
    return inventory.reserve(placed, context(store, "reserve", placed))


def release(store: Store, placed: OrderPlaced) -> Event | None:
    return inventory.release(placed, None, context(store, "reserve", placed, undo=True))


def hand_over(store: Store, placed: OrderPlaced) -> None:
    inventory.hand_over(OrderShipped(placed.order_id, "parcel"), context(store, "hand_over", placed))


def book(store: Store, placed: OrderPlaced) -> Event:
    return shipping.book(*_causes(placed), context(store, "book", placed))


def cancel_shipment(store: Store, placed: OrderPlaced) -> Event | None:
    return shipping.cancel_shipment(*_causes(placed), None, context(store, "book", placed, undo=True))


def _causes(placed: OrderPlaced) -> tuple[OrderPlaced, PaymentCaptured, StockReserved]:
    return (
        placed,
        PaymentCaptured(placed.order_id, placed.amount_cents),
        StockReserved(placed.order_id, placed.sku, placed.quantity),
    )


def money(folder: Path) -> dict[str, Any]:
    """Order id -> what it has paid. Fails if a cent was made or lost."""
    totals = payments.totals(folder)
    assert totals.conserved, totals
    return totals.captured


def goods(folder: Path) -> dict[str, Any]:
    """Order id -> what is set aside for it. Fails if a piece was made or lost."""
    totals = inventory.totals(folder)
    assert totals.conserved, totals
    return totals.reserved


@dataclass(frozen=True)
class Pair:
    """A step with an undo, and how to see what they did."""

    participant: str
    open_store: Callable[[Path], Store]
    step: Callable[[Store, OrderPlaced], Event]
    undo: Callable[[Store, OrderPlaced], Event | None]
    done: type[Event]
    undone: type[Event]
    held: Callable[[Path], dict[str, Any]]
    """Order id -> what it holds, in a folder."""
    once: Callable[[OrderPlaced], Any]
    """What an order holds when the step took effect once."""


PAIRS = [
    Pair(
        "payments",
        payments.open_store,
        charge,
        refund,
        PaymentCaptured,
        PaymentRefunded,
        held=money,
        once=lambda placed: (placed.amount_cents,),
    ),
    Pair(
        "inventory",
        inventory.open_store,
        reserve,
        release,
        StockReserved,
        StockReleased,
        held=goods,
        once=lambda placed: (placed.quantity,),
    ),
    Pair(
        "shipping",
        shipping.open_store,
        book,
        cancel_shipment,
        ShipmentBooked,
        ShipmentCancelled,
        held=shipping.booked,
        once=lambda placed: 1,
    ),
]
