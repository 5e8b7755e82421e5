"""Inventory: sets goods aside for an order, puts them back, or hands them over."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Connection

from choreo import Abort, Context, Participant
from participants.contracts import OrderPlaced, OrderShipped, OutOfStock, StockReleased, StockReserved
from participants.store import Store, by_order, lifespan, total

# A reservation's key is its step's idempotency key: however often the step runs, it decides once.
SCHEMA = """
CREATE TABLE IF NOT EXISTS stock (
    sku TEXT PRIMARY KEY,
    delivered INTEGER NOT NULL,
    on_hand INTEGER NOT NULL CHECK (on_hand >= 0),
    reserved INTEGER NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    shipped INTEGER NOT NULL DEFAULT 0 CHECK (shipped >= 0)
);
CREATE TABLE IF NOT EXISTS reservations (
    key TEXT PRIMARY KEY,
    saga_id TEXT NOT NULL,
    order_id TEXT NOT NULL,
    sku TEXT NOT NULL,
    quantity INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('reserved', 'refused', 'shipped', 'released', 'void'))
);
CREATE INDEX IF NOT EXISTS reservations_by_saga ON reservations (saga_id);
INSERT OR IGNORE INTO stock (sku, delivered, on_hand) VALUES
    ('mug', 1000000, 1000000), ('lamp', 10000, 10000), ('gramophone', 3, 3);
"""


def open_store(folder: Path | None = None) -> Store:
    """The inventory's database, in ``folder`` or where the environment says."""
    return Store("inventory", SCHEMA, folder)


inventory = Participant("inventory", lifespan=lifespan(open_store))


@inventory.on(OrderPlaced)
def reserve(order: OrderPlaced, ctx: Context) -> StockReserved | OutOfStock:
    """Set the goods aside, all of them or none."""
    with ctx.resources.transaction() as db:
        state = find_reservation(db, ctx.key)
        if state is None:
            taken = db.execute(
                "UPDATE stock SET on_hand = on_hand - :n, reserved = reserved + :n"
                " WHERE sku = :sku AND on_hand >= :n",
                {"sku": order.sku, "n": order.quantity},
            )
            state = "reserved" if taken.rowcount else "refused"
            add_reservation(db, ctx.key, order, ctx, state)
    if state == "refused":
        return OutOfStock(order.order_id, order.sku)
    if state not in ("reserved", "shipped"):
        raise Abort("this reservation has been undone already")
    return StockReserved(order.order_id, order.sku, order.quantity)


@reserve.undo
def release(order: OrderPlaced, reserved: StockReserved | None, ctx: Context) -> StockReleased | None:
    """Put the goods back if they were set aside. If not, the void entry keeps a late attempt from it."""
    with ctx.resources.transaction() as db:
        state = find_reservation(db, ctx.undoes)
        if state is None:
            add_reservation(db, ctx.undoes, order, ctx, "void")
        elif state == "reserved":
            db.execute(
                "UPDATE stock SET on_hand = on_hand + :n, reserved = reserved - :n WHERE sku = :sku",
                {"sku": order.sku, "n": order.quantity},
            )
            db.execute("UPDATE reservations SET state = 'released' WHERE key = ?", (ctx.undoes,))
    if state in ("reserved", "released"):
        return StockReleased(order.order_id, order.sku, order.quantity)
    return None


@inventory.on(OrderShipped)
def hand_over(shipped: OrderShipped, ctx: Context) -> None:
    """Give the goods to the carrier. There is no way back, so this waits until the order is complete."""
    with ctx.resources.transaction() as db:
        handed_over = db.execute(
            "UPDATE reservations SET state = 'shipped' WHERE saga_id = ? AND state = 'reserved'"
            " RETURNING sku, quantity",
            (ctx.saga_id,),
        ).fetchall()
        for sku, quantity in handed_over:
            db.execute(
                "UPDATE stock SET reserved = reserved - :n, shipped = shipped + :n WHERE sku = :sku",
                {"sku": sku, "n": quantity},
            )


def find_reservation(db: Connection, key: str | None) -> str | None:
    """The state of the reservation with this key, ``None`` if there is none."""
    row = db.execute("SELECT state FROM reservations WHERE key = ?", (key,)).fetchone()
    return str(row[0]) if row else None


def add_reservation(db: Connection, key: str | None, order: OrderPlaced, ctx: Context, state: str) -> None:
    """Note what was decided about a reservation."""
    db.execute(
        "INSERT INTO reservations VALUES (?, ?, ?, ?, ?, ?)",
        (key, ctx.saga_id, order.order_id, order.sku, order.quantity, state),
    )


@dataclass(frozen=True, slots=True)
class Stock:
    """Where the pieces of one sku are."""

    delivered: int
    on_hand: int
    reserved: int
    shipped: int


@dataclass(frozen=True, slots=True)
class Totals:
    """All the goods there are, in pieces."""

    stock: dict[str, Stock]
    reserved: dict[str, tuple[int, ...]]
    """Order id -> the quantities that are set aside for it now."""
    shipped: dict[str, tuple[int, ...]]
    """Order id -> the quantities that were handed over for it."""

    @property
    def conserved(self) -> bool:
        """Whether no piece was made or lost, and each that has left the shelf is some order's."""
        skus = self.stock.values()
        return (
            all(sku.on_hand + sku.reserved + sku.shipped == sku.delivered for sku in skus)
            and sum(sku.reserved for sku in skus) == total(self.reserved)
            and sum(sku.shipped for sku in skus) == total(self.shipped)
        )


def totals(folder: Path | None = None) -> Totals:
    """Add up the goods, in ``folder`` or where the environment says."""
    held = "SELECT order_id, quantity FROM reservations WHERE state = ?"
    with closing(open_store(folder)) as store, store.transaction() as db:
        rows = db.execute("SELECT sku, delivered, on_hand, reserved, shipped FROM stock")
        return Totals(
            stock={sku: Stock(*counts) for sku, *counts in rows},
            reserved=by_order(db.execute(held, ("reserved",))),
            shipped=by_order(db.execute(held, ("shipped",))),
        )
