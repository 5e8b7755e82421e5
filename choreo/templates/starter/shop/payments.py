"""Payments: charges what is ordered, and refunds it if the order fails further on."""

from __future__ import annotations

from choreo import Abort, Context, Participant

from .contracts import OrderPlaced, PaymentCaptured, PaymentRefunded
from .till import Till, open_till

payments = Participant("payments", lifespan=open_till)


@payments.on(OrderPlaced)
async def charge(order: OrderPlaced, ctx: Context) -> PaymentCaptured:
    if order.cents > 100_000:
        raise Abort("the card's limit is 1000.00")
    till: Till = ctx.resources
    till.capture(ctx.key, order.cents)
    return PaymentCaptured(order.order_id, order.cents, order.country)


@charge.undo
async def refund(order: OrderPlaced, captured: PaymentCaptured | None, ctx: Context) -> PaymentRefunded:
    # captured is None when nobody knows whether the charge took effect: the key makes it safe.
    till: Till = ctx.resources
    till.refund(str(ctx.undoes))
    return PaymentRefunded(order.order_id)
