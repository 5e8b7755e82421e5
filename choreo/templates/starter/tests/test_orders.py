"""The whole choreography in milliseconds: no server, no waiting. Time passes when a test says so."""

import pytest
from shop.contracts import OrderPlaced, OrderShipped, PaymentCaptured, PaymentRefunded
from shop.till import Till

pytestmark = pytest.mark.anyio


async def test_an_order_ships(choreo_harness, till: Till) -> None:
    """It is charged once, and completes."""
    async with choreo_harness() as shop:
        order = await shop.start(OrderPlaced("o-1", 1200, "DE"))
        await shop.settle()
        order.assert_status("completed")
        order.assert_events(OrderPlaced, PaymentCaptured, OrderShipped)
    assert till.taken() == 1200


async def test_an_order_that_cannot_be_delivered(choreo_harness, till: Till) -> None:
    """The money is given back."""
    async with choreo_harness() as shop:
        order = await shop.start(OrderPlaced("o-2", 1200, "AQ"))
        await shop.settle()
        order.assert_status("compensated")
        order.assert_emitted(PaymentRefunded)
    assert till.taken() == 0


async def test_a_crash_in_the_middle_of_a_charge(choreo_harness, till: Till) -> None:
    """Another worker takes over, and nothing is charged twice."""
    async with choreo_harness() as shop:
        shop.crash("payments/charge", when="after effect")
        order = await shop.start(OrderPlaced("o-3", 1200, "DE"))
        await shop.finish()
        order.assert_status("completed")
    assert till.taken() == 1200
