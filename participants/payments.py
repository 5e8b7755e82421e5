"""Payments: takes the price of an order from the customer's wallet, and gives it back."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from sqlite3 import Connection

from choreo import Abort, Context, Participant
from participants.contracts import OrderPlaced, PaymentCaptured, PaymentDeclined, PaymentRefunded
from participants.store import Store, by_order, lifespan, total

MERCHANT = "merchant"
#: What a customer's wallet holds when it is first used.
OPENING_CENTS = 10_000_000
#: The card that its issuer always declines.
DECLINED_CARD = "declined"

# A charge's key is its step's idempotency key: however often the step runs, it decides once.
SCHEMA = """
CREATE TABLE IF NOT EXISTS accounts (
    name TEXT PRIMARY KEY,
    opened_cents INTEGER NOT NULL,
    cents INTEGER NOT NULL CHECK (cents >= 0)
);
CREATE TABLE IF NOT EXISTS charges (
    key TEXT PRIMARY KEY,
    order_id TEXT NOT NULL,
    cents INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('captured', 'declined', 'refunded', 'void'))
);
INSERT OR IGNORE INTO accounts VALUES ('merchant', 0, 0);
"""


def open_store(folder: Path | None = None) -> Store:
    """The payments' database, in ``folder`` or where the environment says."""
    return Store("payments", SCHEMA, folder)


payments = Participant("payments", lifespan=lifespan(open_store))


@payments.on(OrderPlaced)
def charge(order: OrderPlaced, ctx: Context) -> PaymentCaptured | PaymentDeclined:
    """Take the price from the customer's wallet."""
    if order.card == DECLINED_CARD:
        return PaymentDeclined(order.order_id, "card declined")
    with ctx.resources.transaction() as db:
        state = find_charge(db, ctx.key)
        if state is None:
            open_wallet(db, order.customer)
            paid = transfer(db, wallet(order.customer), MERCHANT, order.amount_cents)
            state = "captured" if paid else "declined"
            add_charge(db, ctx.key, order, state)
    if state == "declined":
        return PaymentDeclined(order.order_id, "not enough money")
    if state != "captured":
        raise Abort("this charge has been undone already")
    return PaymentCaptured(order.order_id, order.amount_cents)


@charge.undo
def refund(order: OrderPlaced, captured: PaymentCaptured | None, ctx: Context) -> PaymentRefunded | None:
    """Give the price back if it was taken. If it was not, the void charge keeps a late attempt from it."""
    with ctx.resources.transaction() as db:
        state = find_charge(db, ctx.undoes)
        if state is None:
            add_charge(db, ctx.undoes, order, "void")
        elif state == "captured":
            transfer(db, MERCHANT, wallet(order.customer), order.amount_cents)
            db.execute("UPDATE charges SET state = 'refunded' WHERE key = ?", (ctx.undoes,))
    if state in ("captured", "refunded"):
        return PaymentRefunded(order.order_id, order.amount_cents)
    return None


def find_charge(db: Connection, key: str | None) -> str | None:
    """The state of the charge with this key, ``None`` if there is none."""
    row = db.execute("SELECT state FROM charges WHERE key = ?", (key,)).fetchone()
    return str(row[0]) if row else None


def add_charge(db: Connection, key: str | None, order: OrderPlaced, state: str) -> None:
    """Note what was decided about a charge."""
    db.execute("INSERT INTO charges VALUES (?, ?, ?, ?)", (key, order.order_id, order.amount_cents, state))


def wallet(customer: str) -> str:
    """The name of a customer's account."""
    return f"wallet:{customer}"


def open_wallet(db: Connection, customer: str) -> None:
    """Give a new customer a wallet with something in it."""
    db.execute(
        "INSERT OR IGNORE INTO accounts VALUES (?, ?, ?)", (wallet(customer), OPENING_CENTS, OPENING_CENTS)
    )


def transfer(db: Connection, source: str, target: str, cents: int) -> bool:
    """Move ``cents`` between two accounts; ``False``, and nothing moves, if the source holds less."""
    taken = db.execute(
        "UPDATE accounts SET cents = cents - ? WHERE name = ? AND cents >= ?", (cents, source, cents)
    )
    if taken.rowcount:
        db.execute("UPDATE accounts SET cents = cents + ? WHERE name = ?", (cents, target))
    return taken.rowcount == 1


@dataclass(frozen=True, slots=True)
class Totals:
    """All the money there is, in cents."""

    opened: int
    """What all wallets held when they were opened."""
    wallets: int
    """What they hold now."""
    merchant: int
    """What the shop holds now."""
    captured: dict[str, tuple[int, ...]]
    """Order id -> its charges that were captured and not refunded."""

    @property
    def conserved(self) -> bool:
        """Whether no cent was made or lost, and the shop holds what it was paid for and no more."""
        return self.wallets + self.merchant == self.opened and self.merchant == total(self.captured)


def totals(folder: Path | None = None) -> Totals:
    """Add up the money, in ``folder`` or where the environment says."""
    with closing(open_store(folder)) as store, store.transaction() as db:
        opened, everything = db.execute("SELECT sum(opened_cents), sum(cents) FROM accounts").fetchone()
        (merchant,) = db.execute("SELECT cents FROM accounts WHERE name = ?", (MERCHANT,)).fetchone()
        captured = by_order(db.execute("SELECT order_id, cents FROM charges WHERE state = 'captured'"))
    return Totals(opened, everything - merchant, merchant, captured)
