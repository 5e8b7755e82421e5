"""The chain that everyone runs: three hops, whose handlers only build the next event."""

from __future__ import annotations

from choreo import Context, Event, Participant
from choreo.wire.topology import SagaType, Topology

NAMESPACE = "bench"
#: What streams.yaml gives a namespace that does not say otherwise.
PARTITIONS = 8
ADDRESS = "Calle de la Princesa 31, 28008 Madrid, third floor, ring twice and wait a moment please"


class OrderPlaced(Event):
    order_id: str
    customer: str
    amount_cents: int
    sku: str
    address: str


class PaymentCaptured(Event):
    order_id: str
    payment_id: str
    amount_cents: int
    sku: str
    address: str


class StockReserved(Event):
    order_id: str
    reservation_id: str
    sku: str
    quantity: int
    address: str


class OrderShipped(Event):
    order_id: str
    tracking_code: str
    carrier: str
    address: str


class ShippingRefused(Event):
    order_id: str
    reason: str


def order(number: int) -> OrderPlaced:
    """The first event of a saga: about 200 bytes of JSON."""
    return OrderPlaced(saga_id(number), f"customer-{number % 1000:04d}", 4995, "sku-kettle-steel-17", ADDRESS)


def saga_id(number: int) -> str:
    """The id of a saga; :data:`benchmarks.latency.SAGA` finds it in any framework's message."""
    return f"saga-{number:08d}"


def captured(order: OrderPlaced) -> PaymentCaptured:
    """What payments answer."""
    payment_id = f"pay-{order.order_id}"
    return PaymentCaptured(order.order_id, payment_id, order.amount_cents, order.sku, order.address)


def reserved(payment: PaymentCaptured) -> StockReserved:
    """What inventory answers."""
    return StockReserved(payment.order_id, f"res-{payment.order_id}", payment.sku, 1, payment.address)


def shipped(stock: StockReserved) -> OrderShipped:
    """What shipping answers."""
    return OrderShipped(stock.order_id, f"track-{stock.order_id}", "parcel post", stock.address)


#: Hop by hop: participant, the event that it hears, the stream of that, what it answers.
HOPS = (
    ("payments", OrderPlaced, "orders", captured),
    ("inventory", PaymentCaptured, "payments", reserved),
    ("shipping", StockReserved, "stock", shipped),
)
#: Where the last event goes.
END = "shipments"

TOPOLOGY = Topology(
    namespace=NAMESPACE,
    partitions=PARTITIONS,
    streams={
        "orders": ("OrderPlaced",),
        "payments": ("PaymentCaptured",),
        "stock": ("StockReserved",),
        END: ("OrderShipped", "ShippingRefused"),
    },
    sagas={
        "order": SagaType(
            "order", frozenset({"OrderPlaced"}), frozenset({"OrderShipped"}),
            aborts_with=frozenset({"ShippingRefused"}),
        )
    },
)  # fmt: skip


def forward() -> dict[str, Participant]:
    """Participants that go forward only."""
    payments, inventory, shipping = Participant("payments"), Participant("inventory"), Participant("shipping")

    @payments.on(OrderPlaced)
    async def charge(order: OrderPlaced) -> PaymentCaptured:
        return captured(order)

    @inventory.on(PaymentCaptured)
    async def reserve(payment: PaymentCaptured) -> StockReserved:
        return reserved(payment)

    @shipping.on(StockReserved)
    async def ship(stock: StockReserved) -> OrderShipped:
        return shipped(stock)

    return {each.name: each for each in (payments, inventory, shipping)}


def unwinding() -> dict[str, Participant]:
    """Participants whose three steps have undos, and of whom the last one always aborts the saga."""
    payments, inventory, shipping = Participant("payments"), Participant("inventory"), Participant("shipping")

    @payments.on(OrderPlaced)
    async def charge(order: OrderPlaced) -> PaymentCaptured:
        return captured(order)

    @charge.undo
    async def refund(order: OrderPlaced, payment: PaymentCaptured | None, ctx: Context) -> None:
        return None

    @inventory.on(PaymentCaptured)
    async def reserve(payment: PaymentCaptured) -> StockReserved:
        return reserved(payment)

    @reserve.undo
    async def release(payment: PaymentCaptured, stock: StockReserved | None, ctx: Context) -> None:
        return None

    @shipping.on(StockReserved)
    async def ship(stock: StockReserved) -> ShippingRefused:
        return ShippingRefused(stock.order_id, "nobody delivers there")

    @ship.undo
    async def recall(stock: StockReserved, refused: ShippingRefused | None, ctx: Context) -> None:
        return None

    return {each.name: each for each in (payments, inventory, shipping)}
