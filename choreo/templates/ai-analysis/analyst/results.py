"""Results: stored, and the customer is told where."""

from __future__ import annotations

from choreo import Context, Participant

from .book import open_book
from .contracts import AnalysisDone, CustomerNotified, ResultStored

results = Participant("results", lifespan=open_book)


@results.on(AnalysisDone)
async def store(done: AnalysisDone, ctx: Context) -> ResultStored:
    ctx.resources.enter(ctx.key, "result", done.summary)
    return ResultStored(done.customer)


@store.undo
async def delete(done: AnalysisDone, stored: ResultStored | None, ctx: Context) -> None:
    ctx.resources.cancel(ctx.undoes)


@results.on(ResultStored, timeout=20)
async def notify(stored: ResultStored, ctx: Context) -> CustomerNotified:
    ctx.resources.enter(ctx.key, "notice", stored.customer)
    return CustomerNotified(stored.customer)


@notify.undo
async def apologise(stored: ResultStored, notified: CustomerNotified | None, ctx: Context) -> None:
    ctx.resources.cancel(ctx.undoes)
