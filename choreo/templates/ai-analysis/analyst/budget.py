"""Budget: what a model costs is not given back, so it is looked at before, and set aside."""

from __future__ import annotations

from choreo import Abort, Context, Participant

from .book import open_book
from .contracts import BudgetReserved, DocumentFetched

budget = Participant("budget", lifespan=open_book)

WORDS_PER_CENT = 1000


@budget.on(DocumentFetched)
async def reserve(fetched: DocumentFetched, ctx: Context) -> BudgetReserved:
    cents = -(-fetched.words // WORDS_PER_CENT)
    if cents > fetched.cap_cents:
        raise Abort(f"{fetched.document} would cost {cents} cents, and may cost {fetched.cap_cents}")
    ctx.resources.enter(ctx.key, "budget", f"{cents} cents for {fetched.customer}")
    return BudgetReserved(fetched.document, fetched.customer, fetched.words, cents)


@reserve.undo
async def release(fetched: DocumentFetched, reserved: BudgetReserved | None, ctx: Context) -> None:
    ctx.resources.cancel(ctx.undoes)
