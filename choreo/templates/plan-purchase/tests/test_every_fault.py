"""What must hold whatever goes wrong, tried under every single fault that choreo can think of."""

from pathlib import Path

import pytest
from telco.book import Book
from telco.contracts import PlanChosen

from choreo.testing import failure_matrix

pytestmark = pytest.mark.anyio

STREAMS = Path(__file__).parents[1] / "streams.yaml"


@pytest.mark.parametrize("case", failure_matrix(STREAMS))
async def test_who_pays_has_a_line(case, book: Book) -> None:
    """After a completed purchase there are order, device, payment and line; after any other there is nothing.

    One that still waits for an operator when its five minutes are over is unwound by its deadline.
    """
    async with case.harness() as telco:
        purchase = await telco.start(PlanChosen("large", "ann", "phone", 79_900))
        await telco.finish()
        purchase.assert_status("completed", "compensated")
        completed = purchase.status == "completed"
    kinds = [kind for kind, _ in book.held()]
    assert kinds == (["device", "line", "order", "payment"] if completed else [])
