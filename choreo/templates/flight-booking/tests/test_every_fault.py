"""What must hold whatever goes wrong, tried under every single fault that choreo can think of."""

from pathlib import Path

import pytest
from airline.book import Book
from airline.contracts import BookingRequested, Trip

from choreo.testing import failure_matrix

pytestmark = pytest.mark.anyio

STREAMS = Path(__file__).parents[1] / "streams.yaml"


@pytest.mark.parametrize("case", failure_matrix(STREAMS))
async def test_no_seat_is_held_for_a_booking_that_failed(case, book: Book) -> None:
    """Nor are points or money. A booking that is confirmed holds each of them once."""
    async with case.harness() as airline:
        booking = await airline.start(BookingRequested(Trip("XY 42", "ann", points=300, cents=19_900)))
        await airline.finish()
        booking.assert_status("completed", "compensated")
        confirmed = booking.status == "completed"
    kinds = [kind for kind, _ in book.held()]
    assert kinds == (["booking", "payment", "points", "seat"] if confirmed else [])
