"""Loyalty points: deducted, and returned if the booking fails."""

from __future__ import annotations

from choreo import Abort, Context, Participant

from .book import open_book
from .contracts import PointsDeducted, PointsReturned, SeatReserved
from .logs import log_of

loyalty = Participant("loyalty", lifespan=open_book)


@loyalty.on(SeatReserved)
async def deduct(seat: SeatReserved, ctx: Context) -> PointsDeducted:
    trip = seat.trip
    if trip.fail_points:
        raise Abort("not enough points")
    ctx.resources.enter(ctx.key, "points", str(trip.points))
    log_of(ctx).info("%d points are deducted", trip.points)
    return PointsDeducted(trip)


@deduct.undo
async def give_back(seat: SeatReserved, deducted: PointsDeducted | None, ctx: Context) -> PointsReturned:
    ctx.resources.cancel(ctx.undoes)
    log_of(ctx).info("the points are given back")
    return PointsReturned(seat.trip.points)
