"""The events of a registration. The saga's id is the user's id."""

from choreo import Event


class RegistrationRequested(Event):
    email: str
    name: str


class UserRegistered(Event):
    email: str
    name: str


class LinkSent(Event):
    email: str
    name: str


class ReminderDue(Event):
    email: str


class EmailConfirmed(Event):
    email: str
    name: str


class UserActivated(Event):
    email: str
    name: str


class WelcomeSent(Event):
    email: str
