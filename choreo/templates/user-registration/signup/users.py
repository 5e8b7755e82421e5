"""Users: an address can be registered once. These steps are no coroutines, so they run in threads."""

from __future__ import annotations

from choreo import Abort, Context, Participant

from .contracts import EmailConfirmed, RegistrationRequested, UserActivated, UserRegistered
from .directory import EmailTaken, open_directory

users = Participant("users", lifespan=open_directory)


@users.on(RegistrationRequested)
def register(request: RegistrationRequested, ctx: Context) -> UserRegistered:
    try:
        ctx.resources.register(ctx.saga_id, request.email, request.name)
    except EmailTaken as taken:
        raise Abort(taken) from None
    return UserRegistered(request.email, request.name)


@register.undo
def remove(request: RegistrationRequested, registered: UserRegistered | None, ctx: Context) -> None:
    ctx.resources.remove(ctx.saga_id)


# It needs no undo of its own: the user who is removed is not active any more, and can never be again.
@users.on(EmailConfirmed)
def activate(confirmed: EmailConfirmed, ctx: Context) -> UserActivated:
    ctx.resources.activate(ctx.saga_id)
    return UserActivated(confirmed.email, confirmed.name)
