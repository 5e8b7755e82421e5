"""The five ways in which a booking may go, its logs and its report."""

import logging

import pytest
from airline.book import Book
from airline.contracts import BookingRequested, Trip
from airline.report import report

pytestmark = pytest.mark.anyio

STEPS = ["seats/reserve", "loyalty/deduct", "payments/charge", "bookings/confirm"]
FLAGS = ["fail_seat", "fail_points", "fail_payment", "fail_confirmation"]


def request(**flags: bool) -> BookingRequested:
    return BookingRequested(Trip("XY 42", "ann", points=300, cents=19_900, **flags))


async def test_all_steps_succeed(choreo_harness, book: Book) -> None:
    """The passenger holds a seat, and has paid for it."""
    async with choreo_harness() as airline:
        booking = await airline.start(request())
        await airline.settle()
        booking.assert_status("completed")
    assert book.held() == [
        ("booking", "ann on XY 42"), ("payment", "19900"), ("points", "300"), ("seat", "XY 42")
    ]


@pytest.mark.parametrize(("number", "flag"), list(enumerate(FLAGS)))
async def test_a_step_fails(choreo_harness, book: Book, number: int, flag: str) -> None:
    """What was done before is undone, last things first; nothing is held, charged or deducted in the end."""
    async with choreo_harness() as airline:
        booking = await airline.start(request(**{flag: True}))
        await airline.settle()
        booking.assert_status("compensated")
        assert booking.undone == STEPS[:number][::-1]
        assert booking.view.reason.startswith(STEPS[number])
    assert book.held() == []


@pytest.mark.parametrize("step", STEPS)
async def test_a_process_dies_in_the_middle_of_a_step(choreo_harness, book: Book, step: str) -> None:
    """The booking goes through nevertheless, and nothing is held twice."""
    async with choreo_harness() as airline:
        airline.crash(step, when="after effect")
        booking = await airline.start(request())
        await airline.finish()
        booking.assert_status("completed")
    assert len(book.held()) == 4


@pytest.mark.parametrize("undo", ["seats/release", "loyalty/give_back", "payments/refund"])
async def test_a_process_dies_on_the_way_back(choreo_harness, book: Book, undo: str) -> None:
    """The way back is gone to its end."""
    async with choreo_harness() as airline:
        airline.crash(undo, when="after effect")
        booking = await airline.start(request(fail_confirmation=True))
        await airline.finish()
        booking.assert_status("compensated")
    assert book.held() == []


async def test_every_line_of_the_log_names_the_booking(
    choreo_harness, book: Book, caplog: pytest.LogCaptureFixture
) -> None:
    """One id through all services, on the way there and back."""
    caplog.set_level(logging.INFO, "airline")
    async with choreo_harness() as airline:
        await airline.start(request(fail_confirmation=True), saga_id="booking-7")
        await airline.settle()
    lines = [record for record in caplog.records if record.name.startswith("airline.")]
    assert {record.name for record in lines} == {"airline.seats", "airline.loyalty", "airline.payments"}
    assert len(lines) == 6
    assert all(record.getMessage().startswith("[booking-7] ") for record in lines)


async def test_the_report(choreo_harness, book: Book) -> None:
    """It tells each step, what undid it and in which order, and why."""
    async with choreo_harness() as airline:
        booking = await airline.start(request(fail_payment=True), saga_id="booking-8")
        await airline.settle()
        told = await report(airline.choreo, booking.id)
    assert (told["booking"], told["status"]) == ("booking-8", "compensated")
    assert told["reason"] == "payments/charge: the card was declined"
    assert [(step["step"], step["outcome"]) for step in told["steps"]] == [
        ("seats/reserve", "event"), ("loyalty/deduct", "event"), ("payments/charge", "aborted")
    ]
    assert [step["undone"] for step in told["steps"]] == [
        [{"order": 2, "by": "release"}], [{"order": 1, "by": "give_back"}], []
    ]
