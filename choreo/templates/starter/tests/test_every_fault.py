"""What must hold whatever goes wrong, tried under every single fault that choreo can think of."""

from pathlib import Path

import pytest
from shop.contracts import OrderPlaced
from shop.till import Till

from choreo.testing import failure_matrix

pytestmark = pytest.mark.anyio

STREAMS = Path(__file__).parents[1] / "streams.yaml"


@pytest.mark.parametrize("case", failure_matrix(STREAMS))
async def test_only_what_ships_is_paid_for(case, till: Till) -> None:
    """An order that has shipped was charged once; for any other no money is kept."""
    async with case.harness() as shop:
        order = await shop.start(OrderPlaced("o-1", 1200, "DE"))
        await shop.finish()
        order.assert_status("completed", "compensated")
        shipped = order.status == "completed"
    assert till.taken() == (1200 if shipped else 0)
