"""Bookings: confirmed when all is held. Should that fail, everything before is undone, last things first."""

from __future__ import annotations

from choreo import Abort, Context, Participant

from .book import open_book
from .contracts import BookingConfirmed, PaymentProcessed
from .logs import log_of

bookings = Participant("bookings", lifespan=open_book)


@bookings.on(PaymentProcessed)
async def confirm(payment: PaymentProcessed, ctx: Context) -> BookingConfirmed:
    trip = payment.trip
    if trip.fail_confirmation:
        raise Abort("the flight was cancelled")
    ctx.resources.enter(ctx.key, "booking", f"{trip.passenger} on {trip.flight}")
    log_of(ctx).info("%s flies with %s", trip.passenger, trip.flight)
    return BookingConfirmed(trip.flight, trip.passenger)


@confirm.undo
async def cancel(payment: PaymentProcessed, confirmed: BookingConfirmed | None, ctx: Context) -> None:
    ctx.resources.cancel(ctx.undoes)
    log_of(ctx).info("the booking is cancelled")
