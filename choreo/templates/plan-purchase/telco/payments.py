"""Payments: charges the customer, and refunds if the purchase fails further on."""

from __future__ import annotations

from choreo import Abort, Context, Participant

from .book import open_book
from .contracts import DeviceAllocated, PaymentProcessed

payments = Participant("payments", lifespan=open_book)


@payments.on(DeviceAllocated)
async def charge(device: DeviceAllocated, ctx: Context) -> PaymentProcessed:
    if device.cents > 100_000:
        raise Abort("the card's limit is 1000.00")
    ctx.resources.enter(ctx.key, "payment", str(device.cents))
    return PaymentProcessed(device.plan, device.customer)


@charge.undo
async def refund(device: DeviceAllocated, processed: PaymentProcessed | None, ctx: Context) -> None:
    ctx.resources.cancel(ctx.undoes)
