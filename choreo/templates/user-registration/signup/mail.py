"""Mail: the link, a reminder a day later, a welcome; and a word to those who never came."""

from __future__ import annotations

from datetime import timedelta

from choreo import Context, Participant, Retry, SagaTimedOut

from .contracts import LinkSent, ReminderDue, UserActivated, UserRegistered, WelcomeSent
from .directory import open_directory

# A mail server that is away is worth some patience; any other error would come again.
PATIENT = Retry(attempts=6, first=1, factor=3, on=(OSError, TimeoutError))

mail = Participant("mail", lifespan=open_directory)


@mail.on(UserRegistered, timeout=20, retry=PATIENT)
def send_link(user: UserRegistered, ctx: Context) -> LinkSent | ReminderDue:
    ctx.resources.send(ctx.key, ctx.saga_id, user.email, "Confirm your address")
    # The plan belongs to the registration: when that has ended, nobody is reminded.
    ctx.emit(ReminderDue(user.email), after=timedelta(days=1))
    return LinkSent(user.email, user.name)


@send_link.undo
def revoke_link(user: UserRegistered, sent: LinkSent | ReminderDue | None, ctx: Context) -> None:
    ctx.resources.make_void(ctx.undoes)


@mail.on(ReminderDue, timeout=20, retry=PATIENT)
def remind(due: ReminderDue, ctx: Context) -> None:
    ctx.resources.send(ctx.key, ctx.saga_id, due.email, "Your link is still waiting")


@mail.on(UserActivated, timeout=20, retry=PATIENT)
def welcome(user: UserActivated, ctx: Context) -> WelcomeSent:
    ctx.resources.send(ctx.key, ctx.saga_id, user.email, f"Welcome, {user.name}")
    return WelcomeSent(user.email)


@mail.on(SagaTimedOut)
def say_goodbye(timed_out: SagaTimedOut, ctx: Context) -> None:
    address = ctx.resources.address_of(ctx.saga_id)
    if address is not None:
        ctx.resources.send(ctx.key, ctx.saga_id, address, "Your registration has expired")
