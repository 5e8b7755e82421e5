"""Archive: keeps what was received. What it emits is heard by two others, which work side by side."""

from __future__ import annotations

from choreo import Context, Participant

from .book import open_book
from .contracts import WebhookStored, WebhookVerified

archive = Participant("archive", lifespan=open_book)


@archive.on(WebhookVerified)
async def store(hook: WebhookVerified, ctx: Context) -> WebhookStored:
    ctx.resources.enter(ctx.key, "webhook", ctx.saga_id)
    return WebhookStored(hook.customer, hook.cents)


@store.undo
async def discard(hook: WebhookVerified, stored: WebhookStored | None, ctx: Context) -> None:
    ctx.resources.cancel(ctx.undoes)
