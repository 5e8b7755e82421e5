"""What must hold whatever goes wrong, tried under every single fault that choreo can think of."""

from pathlib import Path

import pytest
from hooks.book import Book
from hooks.contracts import WebhookReceived
from hooks.signatures import sign

from choreo.testing import failure_matrix

pytestmark = pytest.mark.anyio

STREAMS = Path(__file__).parents[1] / "streams.yaml"
BODY = '{"customer": "ann", "cents": 2400}'


@pytest.mark.parametrize("case", failure_matrix(STREAMS))
async def test_what_is_acknowledged_is_done(case, book: Book) -> None:
    """What was acknowledged is stored, noted and booked, once. Of anything else nothing is left."""
    async with case.harness() as hooks:
        hook = await hooks.start(WebhookReceived(BODY, sign(BODY)))
        await hooks.finish()
        hook.assert_status("completed", "compensated")
        completed = hook.status == "completed"
    kinds = [kind for kind, _ in book.held()]
    assert kinds == (["acknowledgement", "customer", "invoice", "webhook"] if completed else [])
