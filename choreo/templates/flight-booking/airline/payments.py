"""Payments: charged once per key, and refunded if the booking fails."""

from __future__ import annotations

from choreo import Abort, Context, Participant

from .book import open_book
from .contracts import PaymentProcessed, PaymentRefunded, PointsDeducted
from .logs import log_of

payments = Participant("payments", lifespan=open_book)


@payments.on(PointsDeducted)
async def charge(points: PointsDeducted, ctx: Context) -> PaymentProcessed:
    trip = points.trip
    if trip.fail_payment:
        raise Abort("the card was declined")
    ctx.resources.enter(ctx.key, "payment", str(trip.cents))
    log_of(ctx).info("%d cents are charged", trip.cents)
    return PaymentProcessed(trip)


@charge.undo
async def refund(points: PointsDeducted, processed: PaymentProcessed | None, ctx: Context) -> PaymentRefunded:
    ctx.resources.cancel(ctx.undoes)
    log_of(ctx).info("the payment is refunded")
    return PaymentRefunded(points.trip.cents)
