"""Billing: the last step of its branch, because it is the one that customers notice."""

from __future__ import annotations

from choreo import Abort, Context, Participant

from .book import open_book
from .contracts import StorageProvisioned, SubscriptionStarted

billing = Participant("billing", lifespan=open_book)

CENTS_PER_GIGABYTE = 10


@billing.on(StorageProvisioned, timeout=20)
async def subscribe(storage: StorageProvisioned, ctx: Context) -> SubscriptionStarted:
    if storage.card == "declined":
        raise Abort("the card was declined")
    cents = storage.gigabytes * CENTS_PER_GIGABYTE
    ctx.resources.enter(ctx.key, "subscription", f"{cents} a month from {storage.owner}")
    return SubscriptionStarted(storage.name, cents)


@subscribe.undo
async def cancel(storage: StorageProvisioned, started: SubscriptionStarted | None, ctx: Context) -> None:
    ctx.resources.cancel(ctx.undoes)
