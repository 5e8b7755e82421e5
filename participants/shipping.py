"""Shipping: books a carrier for what is paid and set aside."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from sqlite3 import Connection

from choreo import Abort, Context, Participant
from participants.contracts import (
    OrderPlaced,
    PaymentCaptured,
    ShipmentBooked,
    ShipmentCancelled,
    StockReserved,
)
from participants.store import Store, lifespan

#: The countries where the carrier delivers, and how many days that takes.
CARRIER_DAYS = {"AT": 2, "DE": 1, "FR": 2, "IE": 4, "PT": 4}

# A shipment's key is its step's idempotency key: however often the step runs, one carrier comes.
SCHEMA = """
CREATE TABLE IF NOT EXISTS shipments (
    key TEXT PRIMARY KEY,
    order_id TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('booked', 'cancelled', 'void'))
);
"""


def open_store(folder: Path | None = None) -> Store:
    """The shipping's database, in ``folder`` or where the environment says."""
    return Store("shipping", SCHEMA, folder)


shipping = Participant("shipping", lifespan=lifespan(open_store))


@shipping.on_all(OrderPlaced, PaymentCaptured, StockReserved)
def book(order: OrderPlaced, payment: PaymentCaptured, stock: StockReserved, ctx: Context) -> ShipmentBooked:
    """Book a carrier. Payment and stock must both be there; the order itself tells where to deliver."""
    days = CARRIER_DAYS.get(order.country)
    if days is None:
        raise Abort(f"the carrier does not deliver to {order.country}")
    with ctx.resources.transaction() as db:
        state = find_shipment(db, ctx.key)
        if state is None:
            state = "booked"
            add_shipment(db, ctx.key, order, state)
    if state != "booked":
        raise Abort("this shipment has been undone already")
    days_late = max(0, days - order.deliver_within_days)
    return ShipmentBooked(order.order_id, f"parcel-{ctx.key[:8]}", days, days_late)


@book.undo
def cancel_shipment(
    order: OrderPlaced,
    payment: PaymentCaptured,
    stock: StockReserved,
    booked: ShipmentBooked | None,
    ctx: Context,
) -> ShipmentCancelled | None:
    """Send the carrier away if one was booked. If not, the void shipment keeps a late attempt from it."""
    with ctx.resources.transaction() as db:
        state = find_shipment(db, ctx.undoes)
        if state is None:
            add_shipment(db, ctx.undoes, order, "void")
        elif state == "booked":
            db.execute("UPDATE shipments SET state = 'cancelled' WHERE key = ?", (ctx.undoes,))
    if state in ("booked", "cancelled"):
        return ShipmentCancelled(order.order_id)
    return None


def find_shipment(db: Connection, key: str | None) -> str | None:
    """The state of the shipment with this key, ``None`` if there is none."""
    row = db.execute("SELECT state FROM shipments WHERE key = ?", (key,)).fetchone()
    return str(row[0]) if row else None


def add_shipment(db: Connection, key: str | None, order: OrderPlaced, state: str) -> None:
    """Note what was decided about a shipment."""
    db.execute("INSERT INTO shipments VALUES (?, ?, ?)", (key, order.order_id, state))


def booked(folder: Path | None = None) -> dict[str, int]:
    """Order id -> how many carriers will come for it, in ``folder`` or where the environment says."""
    with closing(open_store(folder)) as store, store.transaction() as db:
        return dict(
            db.execute("SELECT order_id, count(*) FROM shipments WHERE state = 'booked' GROUP BY order_id")
        )
