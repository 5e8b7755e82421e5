"""The events that participants share. Participants import these, and never each other."""

from choreo import Event


class OrderPlaced(Event):
    order_id: str
    cents: int
    country: str


class PaymentCaptured(Event):
    order_id: str
    cents: int
    country: str


class PaymentRefunded(Event):
    order_id: str


class OrderShipped(Event):
    order_id: str
