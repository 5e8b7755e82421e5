"""The events of a transfer."""

from choreo import Event


class TransferRequested(Event):
    source: str
    target: str
    cents: int


class Debited(Event):
    source: str
    target: str
    cents: int


class Credited(Event):
    target: str
    cents: int
