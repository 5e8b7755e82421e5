"""Snapshots: what the source holds, at one moment. Steps that block are plain functions, run in threads."""

from __future__ import annotations

from choreo import Abort, Context, Participant

from .contracts import SnapshotTaken, SyncRequested
from .warehouse import Rows, open_warehouse

snapshots = Participant("snapshots", lifespan=open_warehouse)

#: In your project: another database.
SOURCE: dict[str, Rows] = {
    "people": [{"name": "ann", "born": "1990"}, {"name": "bob", "born": "1985"}],
    "broken": [{"name": "ann", "born": "1990"}, {"name": "bob", "born": "long ago"}],
    "twins": [{"name": "ann", "born": "1990"}, {"name": "Ann", "born": "1990"}],
}


@snapshots.on(SyncRequested)
def take(request: SyncRequested, ctx: Context) -> SnapshotTaken:
    if request.dataset not in SOURCE:
        raise Abort(f"there is no dataset {request.dataset}")
    ctx.resources.put(ctx.key, SOURCE[request.dataset])
    return SnapshotTaken(request.dataset, snapshot=ctx.key)


@take.undo
def discard(request: SyncRequested, taken: SnapshotTaken | None, ctx: Context) -> None:
    ctx.resources.drop(ctx.undoes)
