"""Analysis: asks the model. It is slow, it is often busy, and each answer costs money."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from choreo import Abort, Context, Participant, Retry

from .book import open_book
from .contracts import AnalysisDone, BudgetReserved
from .model import Model, RateLimited, Refused


@asynccontextmanager
async def open_model() -> AsyncIterator[Model]:
    """One client for each process, however many analyses it is at work on."""
    async with open_book() as book:
        yield Model(book)


analysis = Participant("analysis", lifespan=open_model)


# The pauses are 2, 6, 18 and 54 seconds, less up to a half: not all who were sent away come back at once.
@analysis.on(
    BudgetReserved,
    timeout=60,
    retry=Retry(attempts=5, first=2, factor=3, limit=60, on=(RateLimited, OSError, TimeoutError)),
)
async def ask(reserved: BudgetReserved, ctx: Context) -> AnalysisDone:
    try:
        summary = await ctx.resources.summarise(ctx.key, reserved.document)
    except Refused as refused:
        raise Abort(refused) from None
    return AnalysisDone(reserved.document, reserved.customer, summary)


@ask.undo
async def forget(reserved: BudgetReserved, done: AnalysisDone | None, ctx: Context) -> None:
    # The money is spent, if it was; the answer is nobody's any more.
    ctx.resources.book.cancel(ctx.undoes)
