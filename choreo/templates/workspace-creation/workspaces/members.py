"""Members: one event for each of them, and for the owner, so that each invitation is a step of its own."""

from __future__ import annotations

from choreo import Participant

from .contracts import MemberInvited, WorkspaceCreated

members = Participant("members")


@members.on(WorkspaceCreated)
async def invite(created: WorkspaceCreated) -> list[MemberInvited]:
    everybody = dict.fromkeys([created.owner, *created.members])
    return [MemberInvited(created.name, member) for member in everybody]
