"""A transfer in two steps: debit one account, then credit the other. Either of them may be refused."""

from __future__ import annotations

from choreo import Abort, Context, Participant

from .accounts import Accounts, Refused, open_accounts
from .contracts import Credited, Debited, TransferRequested

debits = Participant("debits", lifespan=open_accounts)
credits = Participant("credits", lifespan=open_accounts)


@debits.on(TransferRequested)
async def debit(transfer: TransferRequested, ctx: Context) -> Debited:
    book(ctx.resources, ctx.key, transfer.source, -transfer.cents)
    return Debited(transfer.source, transfer.target, transfer.cents)


@debit.undo
async def give_back(transfer: TransferRequested, debited: Debited | None, ctx: Context) -> None:
    ctx.resources.take_back(ctx.undoes)


@credits.on(Debited)
async def credit(debited: Debited, ctx: Context) -> Credited:
    book(ctx.resources, ctx.key, debited.target, debited.cents)
    return Credited(debited.target, debited.cents)


@credit.undo
async def take_back(debited: Debited, credited: Credited | None, ctx: Context) -> None:
    ctx.resources.take_back(ctx.undoes)


def book(accounts: Accounts, key: str, account: str, cents: int) -> None:
    """Book it; what the bank refuses is no fault that another attempt would mend."""
    try:
        accounts.book(key, account, cents)
    except Refused as refused:
        raise Abort(refused) from None
