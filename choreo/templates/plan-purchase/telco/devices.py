"""Devices: sets one aside, if there is any."""

from __future__ import annotations

from choreo import Abort, Context, Participant

from .book import open_book
from .contracts import DeviceAllocated, OrderCreated

devices = Participant("devices", lifespan=open_book)


@devices.on(OrderCreated)
async def allocate(order: OrderCreated, ctx: Context) -> DeviceAllocated:
    if order.device == "sold out":
        raise Abort("the device is sold out")
    ctx.resources.enter(ctx.key, "device", order.device)
    return DeviceAllocated(order.plan, order.customer, order.device, order.cents)


@allocate.undo
async def release(order: OrderCreated, allocated: DeviceAllocated | None, ctx: Context) -> None:
    ctx.resources.cancel(ctx.undoes)
