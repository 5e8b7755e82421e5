"""Payments: the provider has ten seconds for each attempt. When two have failed, the order unwinds."""

from __future__ import annotations

from choreo import Abort, Context, Participant, Retry

from .book import open_book
from .contracts import PaymentProcessed, StockReserved

payments = Participant("payments", lifespan=open_book)


@payments.on(StockReserved, timeout=10, retry=Retry(attempts=2, first=1))
async def charge(stock: StockReserved, ctx: Context) -> PaymentProcessed:
    if stock.card == "declined":
        raise Abort("the card was declined")
    ctx.resources.enter(ctx.key, "payment", str(stock.cents))
    return PaymentProcessed(stock.sku, stock.quantity, stock.cents)


@charge.undo
async def refund(stock: StockReserved, processed: PaymentProcessed | None, ctx: Context) -> None:
    # Whoever timed out may have charged the card nevertheless: nobody knows, so it is refunded by its key.
    ctx.resources.cancel(ctx.undoes)
