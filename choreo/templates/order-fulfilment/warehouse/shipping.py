"""Shipping: hands the parcel to the carrier."""

from __future__ import annotations

from choreo import Context, Participant

from .book import open_book
from .contracts import OrderShipped, PaymentProcessed

shipping = Participant("shipping", lifespan=open_book)


@shipping.on(PaymentProcessed)
async def ship(payment: PaymentProcessed, ctx: Context) -> OrderShipped:
    ctx.resources.enter(ctx.key, "parcel", f"{payment.quantity} {payment.sku}")
    return OrderShipped(payment.sku, payment.quantity)


@ship.undo
async def call_back(payment: PaymentProcessed, shipped: OrderShipped | None, ctx: Context) -> None:
    ctx.resources.cancel(ctx.undoes)
