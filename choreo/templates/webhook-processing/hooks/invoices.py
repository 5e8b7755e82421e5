"""Invoices: books the amount."""

from __future__ import annotations

from choreo import Abort, Context, Participant

from .book import open_book
from .contracts import InvoiceBooked, WebhookStored

invoices = Participant("invoices", lifespan=open_book)


@invoices.on(WebhookStored)
async def book(hook: WebhookStored, ctx: Context) -> InvoiceBooked:
    if hook.cents <= 0:
        raise Abort(f"an invoice of {hook.cents} cents cannot be booked")
    ctx.resources.enter(ctx.key, "invoice", str(hook.cents))
    return InvoiceBooked(hook.cents)


@book.undo
async def reverse(hook: WebhookStored, booked: InvoiceBooked | None, ctx: Context) -> None:
    ctx.resources.cancel(ctx.undoes)
