"""The events of an order."""

from choreo import Event


class OrderPlaced(Event):
    sku: str
    quantity: int
    cents: int
    card: str = "visa"


class StockReserved(Event):
    sku: str
    quantity: int
    cents: int
    card: str


class PaymentProcessed(Event):
    sku: str
    quantity: int
    cents: int


class OrderShipped(Event):
    sku: str
    quantity: int
