"""Orders: knows how each order stands, and has the last word before it ships."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from sqlite3 import Connection

from choreo import Abort, Context, Participant
from participants.contracts import (
    OrderPlaced,
    OrderShipped,
    OutOfStock,
    PaymentDeclined,
    PaymentRefunded,
    ShipmentBooked,
    ShipmentCancelled,
    StockReleased,
)
from participants.store import Store, lifespan

Setback = PaymentDeclined | OutOfStock | ShipmentCancelled | PaymentRefunded | StockReleased

SCHEMA = """
CREATE TABLE IF NOT EXISTS orders (
    saga_id TEXT PRIMARY KEY,
    order_id TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('placed', 'shipped', 'cancelled'))
);
CREATE TABLE IF NOT EXISTS setbacks (
    key TEXT PRIMARY KEY,
    order_id TEXT NOT NULL,
    what TEXT NOT NULL
);
"""


def open_store(folder: Path | None = None) -> Store:
    """The orders' database, in ``folder`` or where the environment says."""
    return Store("orders", SCHEMA, folder)


orders = Participant("orders", lifespan=lifespan(open_store))


@orders.on(OrderPlaced)
def accept(order: OrderPlaced, ctx: Context) -> None:
    """Open the order's record."""
    with ctx.resources.transaction() as db:
        set_status(db, ctx, order.order_id, "placed")


@accept.undo
def cancel(order: OrderPlaced, ctx: Context) -> None:
    """Close the record: this order will not ship."""
    with ctx.resources.transaction() as db:
        set_status(db, ctx, order.order_id, "cancelled")


@orders.on(ShipmentBooked)
async def confirm(shipment: ShipmentBooked) -> OrderShipped:
    """Keep the promise to the customer, or call everything off."""
    if shipment.days_late:
        raise Abort(f"delivery would be {shipment.days_late} days late")
    return OrderShipped(shipment.order_id, shipment.tracking)


@orders.on(OrderShipped)
def close(shipped: OrderShipped, ctx: Context) -> None:
    """Close the record: the order is complete, and nothing can undo it any more."""
    with ctx.resources.transaction() as db:
        set_status(db, ctx, shipped.order_id, "shipped")


@orders.on(PaymentDeclined, OutOfStock, ShipmentCancelled, PaymentRefunded, StockReleased)
def note(setback: Setback, ctx: Context) -> None:
    """Remember what went wrong and what was put right, for whoever answers the customer's call."""
    with ctx.resources.transaction() as db:
        db.execute(
            "INSERT OR IGNORE INTO setbacks VALUES (?, ?, ?)",
            (ctx.key, setback.order_id, type(setback).__name__),
        )


def set_status(db: Connection, ctx: Context, order_id: str, status: str) -> None:
    """Set the status of a saga's order, unless it has ended: an end is final, also for a late ``accept``."""
    db.execute(
        "INSERT INTO orders VALUES (?, ?, ?) ON CONFLICT (saga_id)"
        " DO UPDATE SET status = excluded.status WHERE status = 'placed'",
        (ctx.saga_id, order_id, status),
    )


def statuses(folder: Path | None = None) -> dict[str, str]:
    """Order id -> ``placed``, ``shipped`` or ``cancelled``, in ``folder`` or where the environment says.

    An order that failed before it was accepted was never an order, and is not there.
    """
    with closing(open_store(folder)) as store, store.transaction() as db:
        return dict(db.execute("SELECT order_id, status FROM orders"))
