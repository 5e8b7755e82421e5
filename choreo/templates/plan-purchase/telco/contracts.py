"""The events of a purchase."""

from choreo import Event


class PlanChosen(Event):
    plan: str
    customer: str
    device: str
    cents: int


class PlanValidated(Event):
    plan: str
    customer: str
    device: str
    cents: int


class OrderCreated(Event):
    plan: str
    customer: str
    device: str
    cents: int


class DeviceAllocated(Event):
    plan: str
    customer: str
    device: str
    cents: int


class PaymentProcessed(Event):
    plan: str
    customer: str


class OrderActivated(Event):
    customer: str
