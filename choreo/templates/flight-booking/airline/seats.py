"""Seats: the first thing to hold, and the last to let go."""

from __future__ import annotations

from choreo import Abort, Context, Participant

from .book import open_book
from .contracts import BookingRequested, SeatReleased, SeatReserved
from .logs import log_of

seats = Participant("seats", lifespan=open_book)


@seats.on(BookingRequested)
async def reserve(request: BookingRequested, ctx: Context) -> SeatReserved:
    trip = request.trip
    if trip.fail_seat:
        raise Abort("the flight is full")
    ctx.resources.enter(ctx.key, "seat", trip.flight)
    log_of(ctx).info("a seat on %s is reserved", trip.flight)
    return SeatReserved(trip)


@reserve.undo
async def release(request: BookingRequested, reserved: SeatReserved | None, ctx: Context) -> SeatReleased:
    ctx.resources.cancel(ctx.undoes)
    log_of(ctx).info("the seat is released")
    return SeatReleased(request.trip.flight)
