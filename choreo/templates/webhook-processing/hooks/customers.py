"""Customers: notes that this one has bought something."""

from __future__ import annotations

from choreo import Abort, Context, Participant

from .book import open_book
from .contracts import CustomerUpdated, WebhookStored

customers = Participant("customers", lifespan=open_book)


@customers.on(WebhookStored)
async def update(hook: WebhookStored, ctx: Context) -> CustomerUpdated:
    if hook.customer == "nobody":
        raise Abort("there is no such customer")
    ctx.resources.enter(ctx.key, "customer", hook.customer)
    return CustomerUpdated(hook.customer)


@update.undo
async def revert(hook: WebhookStored, updated: CustomerUpdated | None, ctx: Context) -> None:
    ctx.resources.cancel(ctx.undoes)
