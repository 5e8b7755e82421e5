"""Inventory: sets the goods aside. It takes as long as ``defaults`` of streams.yaml allow."""

from __future__ import annotations

from choreo import Abort, Context, Participant

from .book import open_book
from .contracts import OrderPlaced, StockReserved

inventory = Participant("inventory", lifespan=open_book)


@inventory.on(OrderPlaced)
async def reserve(order: OrderPlaced, ctx: Context) -> StockReserved:
    if order.quantity > 100:
        raise Abort(f"there are not {order.quantity} of {order.sku}")
    ctx.resources.enter(ctx.key, "stock", f"{order.quantity} {order.sku}")
    return StockReserved(order.sku, order.quantity, order.cents, order.card)


@reserve.undo
async def put_back(order: OrderPlaced, reserved: StockReserved | None, ctx: Context) -> None:
    ctx.resources.cancel(ctx.undoes)
