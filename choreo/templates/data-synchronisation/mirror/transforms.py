"""Transforms: rows as readers want them. A row that makes no sense makes no sense the next time either."""

from __future__ import annotations

from choreo import Abort, Context, Participant

from .contracts import RowsTransformed, SnapshotTaken
from .warehouse import Rows, open_warehouse

transforms = Participant("transforms", lifespan=open_warehouse)


@transforms.on(SnapshotTaken)
def transform(taken: SnapshotTaken, ctx: Context) -> RowsTransformed:
    try:
        rows: Rows = [
            {"name": row["name"].title(), "born": str(int(row["born"]))}
            for row in ctx.resources.get(taken.snapshot)
        ]
    except ValueError as error:
        raise Abort(f"a row of {taken.dataset} makes no sense: {error}") from None
    ctx.resources.put(ctx.key, rows)
    return RowsTransformed(taken.dataset, rows=ctx.key, count=len(rows))


@transform.undo
def discard(taken: SnapshotTaken, transformed: RowsTransformed | None, ctx: Context) -> None:
    ctx.resources.drop(ctx.undoes)
