"""The events of a webhook. The saga's id is the id that the sender gave it."""

from choreo import Event


class WebhookReceived(Event):
    body: str
    """JSON, as it was sent: the signature is over these very characters."""
    signature: str


class WebhookVerified(Event):
    customer: str
    cents: int


class WebhookStored(Event):
    customer: str
    cents: int


class CustomerUpdated(Event):
    customer: str


class InvoiceBooked(Event):
    cents: int


class WebhookAcknowledged(Event):
    pass
