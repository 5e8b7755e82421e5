"""The user's mailbox, played: in your project it is your web server that says ``EmailConfirmed``."""

from __future__ import annotations

from choreo import Abort, Participant

from .contracts import EmailConfirmed, LinkSent

mailbox = Participant("mailbox")


@mailbox.on(LinkSent)
async def open_link(link: LinkSent) -> EmailConfirmed | None:
    if link.email.endswith("@nowhere.example"):
        raise Abort(f"{link.email} does not exist")
    if link.email.startswith("away@"):
        return None
    return EmailConfirmed(link.email, link.name)
