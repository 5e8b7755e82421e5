"""The events of a new workspace."""

from choreo import Event


class WorkspaceRequested(Event):
    name: str
    owner: str
    members: list[str]
    gigabytes: int
    card: str = "visa"


class WorkspaceCreated(Event):
    name: str
    owner: str
    members: list[str]
    gigabytes: int
    card: str


class MemberInvited(Event):
    name: str
    member: str


class InvitationSent(Event):
    name: str
    member: str


class StorageProvisioned(Event):
    name: str
    owner: str
    gigabytes: int
    card: str


class SubscriptionStarted(Event):
    name: str
    cents_a_month: int
