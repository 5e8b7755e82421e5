"""Loads: the new version stands beside the old one; readers are switched over, and back."""

from __future__ import annotations

from choreo import Abort, Context, Participant

from .contracts import RowsTransformed, SyncCompleted, VersionLoaded
from .warehouse import open_warehouse

loads = Participant("loads", lifespan=open_warehouse)


@loads.on(RowsTransformed)
def load(transformed: RowsTransformed, ctx: Context) -> VersionLoaded:
    by_name = {row["name"]: row for row in ctx.resources.get(transformed.rows)}
    if len(by_name) != transformed.count:
        raise Abort(f"two rows of {transformed.dataset} have one name")
    ctx.resources.put(ctx.key, list(by_name.values()))
    return VersionLoaded(transformed.dataset, version=ctx.key)


@load.undo
def unload(transformed: RowsTransformed, loaded: VersionLoaded | None, ctx: Context) -> None:
    ctx.resources.drop(ctx.undoes)


@loads.on(VersionLoaded)
def switch(loaded: VersionLoaded, ctx: Context) -> SyncCompleted:
    ctx.resources.switch(ctx.key, loaded.dataset, loaded.version)
    return SyncCompleted(loaded.dataset)


@switch.undo
def restore(loaded: VersionLoaded, completed: SyncCompleted | None, ctx: Context) -> None:
    ctx.resources.switch_back(ctx.undoes)
