"""Intake: lets nobody in who has not signed, and acknowledges when all the work is done."""

from __future__ import annotations

import json

from choreo import Abort, Context, Participant

from .book import open_book
from .contracts import CustomerUpdated, InvoiceBooked, WebhookAcknowledged, WebhookReceived, WebhookVerified
from .signatures import is_genuine

intake = Participant("intake", lifespan=open_book)


@intake.on(WebhookReceived)
async def verify(hook: WebhookReceived) -> WebhookVerified:
    if not is_genuine(hook.body, hook.signature):
        raise Abort("the signature is not that of the sender")
    try:
        told = json.loads(hook.body)
        return WebhookVerified(customer=str(told["customer"]), cents=int(told["cents"]))
    except (ValueError, KeyError, TypeError) as error:
        raise Abort(f"the body is not what was agreed on: {error!r}") from None


# Waits for both branches, in whichever order they end, and keeps no process busy meanwhile.
@intake.on_all(CustomerUpdated, InvoiceBooked)
async def acknowledge(customer: CustomerUpdated, invoice: InvoiceBooked, ctx: Context) -> WebhookAcknowledged:
    ctx.resources.enter(ctx.key, "acknowledgement", f"{invoice.cents} of {customer.customer}")
    return WebhookAcknowledged()


@acknowledge.undo
async def call_back(
    customer: CustomerUpdated, invoice: InvoiceBooked, sent: WebhookAcknowledged | None, ctx: Context
) -> None:
    ctx.resources.cancel(ctx.undoes)
