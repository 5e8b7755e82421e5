"""What must hold whatever goes wrong, tried under every single fault that choreo can think of."""

from pathlib import Path

import pytest
from warehouse.book import Book
from warehouse.contracts import OrderPlaced

from choreo.testing import failure_matrix

pytestmark = pytest.mark.anyio

STREAMS = Path(__file__).parents[1] / "streams.yaml"


@pytest.mark.parametrize("case", failure_matrix(STREAMS))
async def test_an_order_is_fulfilled_or_nothing_is_left_of_it(case, book: Book) -> None:
    """Goods, payment and parcel, each of it once; or none of them."""
    async with case.harness() as warehouse:
        order = await warehouse.start(OrderPlaced("mug", 2, 2400))
        await warehouse.finish()
        order.assert_status("completed", "compensated")
        completed = order.status == "completed"
    kinds = [kind for kind, _ in book.held()]
    assert kinds == (["parcel", "payment", "stock"] if completed else [])
