"""Mail: sends each invitation on its own; one that fails is tried again without the others."""

from __future__ import annotations

from choreo import Context, Participant, Retry

from .book import open_book
from .contracts import InvitationSent, MemberInvited

mail = Participant("mail", lifespan=open_book)


@mail.on(MemberInvited, timeout=20, retry=Retry(attempts=4, first=1, on=(OSError, TimeoutError)))
async def send(invited: MemberInvited, ctx: Context) -> InvitationSent:
    ctx.resources.enter(ctx.key, "invitation", f"{invited.member} to {invited.name}")
    return InvitationSent(invited.name, invited.member)


@send.undo
async def withdraw(invited: MemberInvited, sent: InvitationSent | None, ctx: Context) -> None:
    ctx.resources.cancel(ctx.undoes)
