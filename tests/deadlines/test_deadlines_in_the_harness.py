"""Deadlines in the test kit, whose time passes when a test says so."""

from __future__ import annotations

import pytest
from deadline_kit import HOUR, MINUTE, PAYMENT, Cast, Placed, topology_of

from choreo.testing import Harness

pytestmark = pytest.mark.anyio


async def test_time_passes(cast: Cast) -> None:
    """A deadline passes when the test lets so much time pass, and not before."""
    async with Harness(topology_of("shop", HOUR), participants=[cast.stock(), cast.support()]) as shop:
        order = await shop.start(Placed())
        await shop.settle()
        order.assert_status("running")
        await shop.advance(minutes=59)
        order.assert_status("running")
        await shop.advance(minutes=2)
        order.assert_status("compensated")
        order.assert_undone("stock/reserve")
        order.assert_emitted("SagaTimedOut")
        order.assert_emitted("Apologised")


async def test_what_is_expected(cast: Cast) -> None:
    """What comes in time disarms; what does not, in the same harness, times out."""
    topology = topology_of("shop", None, PAYMENT)
    async with Harness(topology, participants=[cast.payments(), cast.stock()]) as shop:
        order = await shop.start(Placed())
        await shop.advance(seconds=2 * MINUTE / 1000)
        order.assert_status("running")
    async with Harness(topology, participants=[cast.stock()]) as shop:
        order = await shop.start(Placed())
        await shop.finish()
        order.assert_status("compensated")
