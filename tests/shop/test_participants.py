"""The shop's handlers, called as a worker calls them: repeatedly, late, at once and in any order."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shop_calls import (
    PAIRS,
    Pair,
    book,
    charge,
    context,
    goods,
    hand_over,
    money,
    order,
    refund,
    release,
    reserve,
)

from choreo import Abort, Event
from participants import inventory, orders, payments
from participants.contracts import (
    OrderPlaced,
    OrderShipped,
    OutOfStock,
    PaymentDeclined,
    ShipmentBooked,
    StockReleased,
    StockReserved,
)
from participants.store import Store

THREADS = 8


def test_step_repeated(pair: Pair, store: Store, tmp_path: Path) -> None:
    """A step that runs three times for one key has one effect and gives the same answer each time."""
    answers = [pair.step(store, order()) for _ in range(3)]
    assert type(answers[0]) is pair.done
    assert answers == [answers[0]] * 3
    assert pair.held(tmp_path) == {"order-1": pair.once(order())}


def test_undo_after_step(pair: Pair, store: Store, tmp_path: Path) -> None:
    """An undo restores what was before, each time with the same answer; another order's effect stays."""
    pair.step(store, order(2))
    before = pair.held(tmp_path)
    pair.step(store, order())
    answers = [pair.undo(store, order()) for _ in range(3)]
    assert type(answers[0]) is pair.undone
    assert answers == [answers[0]] * 3
    assert pair.held(tmp_path) == before
    assert list(before) == ["order-2"]


def test_undo_before_step(pair: Pair, store: Store, tmp_path: Path) -> None:
    """An undo of what has not happened does nothing, and keeps a late attempt of the step from its effect."""
    assert [pair.undo(store, order()) for _ in range(2)] == [None, None]
    with pytest.raises(Abort, match="undone already"):
        pair.step(store, order())
    assert pair.undo(store, order()) is None
    assert pair.held(tmp_path) == {}


def test_step_after_undo(pair: Pair, store: Store, tmp_path: Path) -> None:
    """A late attempt of a step that was done and undone does not do it again."""
    pair.step(store, order())
    pair.undo(store, order())
    with pytest.raises(Abort, match="undone already"):
        pair.step(store, order())
    assert pair.held(tmp_path) == {}


def test_threads_same_key(pair: Pair, store: Store, tmp_path: Path) -> None:
    """Attempts of one step that run at the same time have one effect between them."""
    barrier = threading.Barrier(THREADS)

    def attempt(_: int) -> Event:
        barrier.wait()
        return pair.step(store, order())

    with ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(attempt, range(THREADS)))
    assert type(answers[0]) is pair.done
    assert answers == [answers[0]] * THREADS
    assert pair.held(tmp_path) == {"order-1": pair.once(order())}


def test_threads_step_against_undo(pair: Pair, store: Store, tmp_path: Path) -> None:
    """Whichever comes first, a step that races its own undo leaves nothing behind."""
    barrier = threading.Barrier(2)

    def race(call: Callable[[Store, OrderPlaced], Event | None], placed: OrderPlaced) -> None:
        barrier.wait()
        with suppress(Abort):
            call(store, placed)

    with ThreadPoolExecutor(2) as pool:
        for number in range(25):
            racers = [pool.submit(race, call, order(number)) for call in (pair.step, pair.undo)]
            for racer in racers:
                racer.result()
    assert pair.held(tmp_path) == {}


def test_threads_last_pieces(stores: dict[str, Store], tmp_path: Path) -> None:
    """Of many orders for the last three gramophones exactly three get one."""
    wanted = [order(number, sku="gramophone", quantity=1) for number in range(20)]
    with ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(lambda placed: reserve(stores["inventory"], placed), wanted))
    assert sum(isinstance(answer, StockReserved) for answer in answers) == 3
    assert len(goods(tmp_path)) == 3


def test_declined_card(stores: dict[str, Store], tmp_path: Path) -> None:
    """The declined card is declined, and moves no money."""
    assert charge(stores["payments"], order(card="declined")) == PaymentDeclined("order-1", "card declined")
    assert money(tmp_path) == {}


def test_decline_stands(stores: dict[str, Store], tmp_path: Path) -> None:
    """A decline is final for its key: an attempt that comes later declines too, though there is money now.

    A decline leaves nothing to undo, so money taken after it would never be given back.
    """
    store, dear = stores["payments"], order(2, amount_cents=payments.OPENING_CENTS)
    charge(store, dear)
    assert charge(store, order()) == PaymentDeclined("order-1", "not enough money")
    refund(store, dear)
    assert charge(store, order()) == PaymentDeclined("order-1", "not enough money")
    assert refund(store, order()) is None
    assert money(tmp_path) == {}


def test_out_of_stock_stands(stores: dict[str, Store], tmp_path: Path) -> None:
    """A refusal for want of goods is final for its key, though goods come back."""
    store = stores["inventory"]
    others, late = order(2, sku="gramophone", quantity=3), order(sku="gramophone", quantity=1)
    reserve(store, others)
    assert reserve(store, late) == OutOfStock("order-1", "gramophone")
    release(store, others)
    assert reserve(store, late) == OutOfStock("order-1", "gramophone")
    assert release(store, late) is None
    assert goods(tmp_path) == {}


def test_unknown_sku(stores: dict[str, Store]) -> None:
    """What the shop does not sell is out of stock."""
    assert reserve(stores["inventory"], order(sku="unicorn")) == OutOfStock("order-1", "unicorn")


def test_hand_over(stores: dict[str, Store], tmp_path: Path) -> None:
    """Goods are handed over once however often that is tried, and only those of the saga that shipped."""
    store = stores["inventory"]
    reserve(store, order())
    reserve(store, order(2))
    for _ in range(3):
        hand_over(store, order())
    totals = inventory.totals(tmp_path)
    assert totals.conserved
    assert (totals.reserved, totals.shipped) == ({"order-2": (2,)}, {"order-1": (2,)})
    mugs = totals.stock["mug"]
    assert (mugs.delivered - mugs.on_hand, mugs.reserved, mugs.shipped) == (4, 2, 2)


def test_address_refused(stores: dict[str, Store]) -> None:
    """An address that the carrier does not serve aborts."""
    with pytest.raises(Abort, match="does not deliver to AQ"):
        book(stores["shipping"], order(country="AQ"))


@pytest.mark.parametrize(("wanted", "late"), [(1, 3), (3, 1), (4, 0), (9, 0)])
def test_days_late(stores: dict[str, Store], wanted: int, late: int) -> None:
    """A shipment says how many days after the customer's wish it arrives."""
    shipment = book(stores["shipping"], order(country="PT", deliver_within_days=wanted))
    assert isinstance(shipment, ShipmentBooked)
    assert (shipment.days, shipment.days_late) == (4, late)


@pytest.mark.anyio
async def test_confirm() -> None:
    """Orders lets a shipment in time go, and aborts on a late one."""
    in_time = ShipmentBooked("order-1", "parcel", days=4, days_late=0)
    assert await orders.confirm(in_time) == OrderShipped("order-1", "parcel")
    with pytest.raises(Abort, match="2 days late"):
        await orders.confirm(ShipmentBooked("order-1", "parcel", days=4, days_late=2))


def accept(store: Store) -> None:
    orders.accept(order(), context(store, "accept", order()))


def cancel(store: Store) -> None:
    orders.cancel(order(), context(store, "accept", order(), undo=True))


def close(store: Store) -> None:
    orders.close(OrderShipped("order-1", "parcel"), context(store, "close", order()))


@pytest.mark.parametrize(
    ("calls", "status"),
    [
        ([accept], "placed"),
        ([accept, accept], "placed"),
        ([accept, close], "shipped"),
        ([close, accept], "shipped"),
        ([accept, cancel, cancel], "cancelled"),
        ([cancel, accept], "cancelled"),
    ],
)
def test_order_status(tmp_path: Path, calls: list[Callable[[Store], None]], status: str) -> None:
    """An order's status follows what happened, also when it is accepted only after it has ended."""
    with closing(orders.open_store(tmp_path)) as store:
        for call in calls:
            call(store)
    assert orders.statuses(tmp_path) == {"order-1": status}


def test_setbacks_are_noted_once(tmp_path: Path) -> None:
    """Each setback is noted once, however often it is delivered."""
    setbacks = [PaymentDeclined("order-1", "card declined"), StockReleased("order-1", "mug", 2)]
    with closing(orders.open_store(tmp_path)) as store:
        for setback in setbacks * 2:
            orders.note(setback, context(store, f"note {type(setback).__name__}", order()))
        with store.transaction() as db:
            noted = db.execute("SELECT order_id, what FROM setbacks ORDER BY what").fetchall()
    assert noted == [("order-1", "PaymentDeclined"), ("order-1", "StockReleased")]


ORDERS = [
    order(0),
    order(1, card="declined"),
    order(2, sku="gramophone", quantity=2),
    order(3, sku="gramophone", quantity=2),
    order(4, amount_cents=payments.OPENING_CENTS - 1000),
    order(5, customer="grace", amount_cents=payments.OPENING_CENTS + 1),
    order(6, customer="merchant", country="AQ"),
]
CALLS = st.lists(
    st.tuples(st.sampled_from(PAIRS), st.booleans(), st.integers(0, len(ORDERS) - 1)), max_size=60
)


@given(calls=CALLS)
@settings(max_examples=60, deadline=None)
def test_any_sequence(calls: list[tuple[Pair, bool, int]]) -> None:
    """After any calls in any order: nothing was made or lost, and an order holds exactly what it was told.

    That is: once what a step answered that it did, and nothing as soon as its undo was called.
    """
    expected: dict[str, dict[str, object]] = {pair.participant: {} for pair in PAIRS}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        stores = {pair.participant: stack.enter_context(closing(pair.open_store(folder))) for pair in PAIRS}
        for pair, forward, number in calls:
            store, placed, holds = stores[pair.participant], ORDERS[number], expected[pair.participant]
            if not forward:
                pair.undo(store, placed)
                holds.pop(placed.order_id, None)
                continue
            with suppress(Abort):
                if type(pair.step(store, placed)) is pair.done:
                    holds[placed.order_id] = pair.once(placed)
        assert {pair.participant: pair.held(folder) for pair in PAIRS} == expected


def test_wrong_totals_are_seen(stores: dict[str, Store], tmp_path: Path) -> None:
    """Money or goods out of nothing do not pass for conserved."""
    for name, change in (
        ("payments", "UPDATE accounts SET cents = cents + 1 WHERE name = 'merchant'"),
        ("inventory", "UPDATE stock SET on_hand = on_hand - 1, reserved = reserved + 1 WHERE sku = 'mug'"),
    ):
        with stores[name].transaction() as db:
            db.execute(change)
    assert not payments.totals(tmp_path).conserved
    assert not inventory.totals(tmp_path).conserved
