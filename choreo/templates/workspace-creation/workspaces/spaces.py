"""Spaces: makes the workspace. Two branches begin with it, and run side by side."""

from __future__ import annotations

from choreo import Context, Participant

from .book import open_book
from .contracts import WorkspaceCreated, WorkspaceRequested

spaces = Participant("spaces", lifespan=open_book)


@spaces.on(WorkspaceRequested)
async def create(request: WorkspaceRequested, ctx: Context) -> WorkspaceCreated:
    ctx.resources.enter(ctx.key, "workspace", request.name)
    return WorkspaceCreated(request.name, request.owner, request.members, request.gigabytes, request.card)


@create.undo
async def delete(request: WorkspaceRequested, created: WorkspaceCreated | None, ctx: Context) -> None:
    ctx.resources.cancel(ctx.undoes)
