"""Orders, and steps that take too long. Time is the harness's: ten seconds pass in no time."""

import pytest
from warehouse.book import Book
from warehouse.contracts import OrderPlaced

pytestmark = pytest.mark.anyio

ORDER = OrderPlaced("mug", 2, 2400)


async def test_an_order_ships(choreo_harness, book: Book) -> None:
    """Stock, payment and parcel."""
    async with choreo_harness() as warehouse:
        order = await warehouse.start(ORDER)
        await warehouse.settle()
        order.assert_status("completed")
    assert book.held() == [("parcel", "2 mug"), ("payment", "2400"), ("stock", "2 mug")]


@pytest.mark.parametrize(
    ("step", "seconds"), [("inventory/reserve", 30), ("payments/charge", 10), ("shipping/ship", 30)]
)
async def test_a_step_takes_too_long(choreo_harness, book: Book, step: str, seconds: int) -> None:
    """It is tried once more; then the order unwinds, and with it the step, which may have had its effect."""
    async with choreo_harness() as warehouse:
        warehouse.hang(step, times=2)
        order = await warehouse.start(ORDER)
        began = warehouse.now
        await warehouse.finish()
        order.assert_status("compensated")
        assert f"took longer than {seconds} s" in order.view.reason
        assert 2 * seconds <= (warehouse.now - began) / 1000
        assert order.undone[0] == step
    assert book.held() == []


async def test_the_provider_is_slow_once(choreo_harness, book: Book) -> None:
    """The second attempt succeeds, and nothing is charged twice."""
    async with choreo_harness() as warehouse:
        warehouse.hang("payments/charge")
        order = await warehouse.start(ORDER)
        await warehouse.finish()
        order.assert_status("completed")
        assert order.view.retries == 1
    assert ("payment", "2400") in book.held()


async def test_the_card_is_declined(choreo_harness, book: Book) -> None:
    """An answer, and not a failure: no second attempt."""
    async with choreo_harness() as warehouse:
        order = await warehouse.start(OrderPlaced("mug", 2, 2400, card="declined"))
        await warehouse.settle()
        order.assert_status("compensated")
        assert order.view.retries == 0
    assert book.held() == []


async def test_the_history_of_all_runs(choreo_harness, book: Book) -> None:
    """What `choreo sagas` prints: each run, the newest first, with how it ended."""
    async with choreo_harness() as warehouse:
        await warehouse.start(ORDER, saga_id="order-1")
        await warehouse.advance(seconds=1)
        await warehouse.start(OrderPlaced("mug", 500, 1), saga_id="order-2")
        await warehouse.settle()
        history = await warehouse.choreo.sagas()
    told = [(view.id, view.status) for view in history]
    assert told == [("order-2", "compensated"), ("order-1", "completed")]
