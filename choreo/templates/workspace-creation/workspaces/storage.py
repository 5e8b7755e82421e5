"""Storage: sets space aside, if there is that much."""

from __future__ import annotations

from choreo import Abort, Context, Participant

from .book import open_book
from .contracts import StorageProvisioned, WorkspaceCreated

storage = Participant("storage", lifespan=open_book)

LARGEST = 1000


@storage.on(WorkspaceCreated, timeout=60)
async def provision(created: WorkspaceCreated, ctx: Context) -> StorageProvisioned:
    if created.gigabytes > LARGEST:
        raise Abort(f"no workspace has {created.gigabytes} GB; the largest have {LARGEST}")
    ctx.resources.enter(ctx.key, "storage", f"{created.gigabytes} GB for {created.name}")
    return StorageProvisioned(created.name, created.owner, created.gigabytes, created.card)


@provision.undo
async def free(created: WorkspaceCreated, provisioned: StorageProvisioned | None, ctx: Context) -> None:
    ctx.resources.cancel(ctx.undoes)
