"""The shop's streams.yaml and its example orders say what the code says."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from shop_calls import book, charge, order, reserve

from choreo import Abort
from choreo.model.event import OWN_EVENTS, type_name
from choreo.wire import streams_yaml
from participants import inventory, orders, payments, shipping
from participants.contracts import OrderPlaced, OrderShipped, OutOfStock, PaymentDeclined
from participants.store import Store

ROOT = Path(__file__).parents[2]
EXAMPLES = {
    "ships": OrderShipped,
    "declined": PaymentDeclined,
    "not-enough-money": PaymentDeclined,
    "out-of-stock": OutOfStock,
    "address-refused": "does not deliver",
    "too-late": "days late",
}


def test_streams_yaml() -> None:
    """streams.yaml names the four participants, and carries the events that they hear or emit, no others."""
    topology = streams_yaml.load(ROOT / "streams.yaml")
    shop = [orders.orders, payments.payments, inventory.inventory, shipping.shipping]
    assert topology.participants == {each.name: f"participants.{each.name}:{each.name}" for each in shop}
    known = set()
    for step in (step for participant in shop for step in participant.steps):
        known.update(step.on, step.outcome.types)
        if step.compensation is not None:
            known.update(step.compensation.outcome.types)
    assert set(topology.routes) - OWN_EVENTS == {type_name(event) for event in known} - OWN_EVENTS


def test_every_example_is_known() -> None:
    """The files are the ones of which this test knows how they end."""
    assert {path.stem for path in (ROOT / "examples" / "orders").glob("*.json")} == set(EXAMPLES)


@pytest.mark.anyio
@pytest.mark.parametrize("name", EXAMPLES)
async def test_example(stores: dict[str, Store], name: str) -> None:
    """Each example is a valid order, without a field too many, and ends in the way that its name says."""
    text = (ROOT / "examples" / "orders" / f"{name}.json").read_bytes()
    placed = msgspec.json.decode(text, type=OrderPlaced)
    assert msgspec.json.decode(text).keys() <= set(OrderPlaced.__struct_fields__)
    branches = [charge(stores["payments"], placed), reserve(stores["inventory"], placed)]
    refused = [answer for answer in branches if isinstance(answer, PaymentDeclined | OutOfStock)]
    if refused:
        assert [type(answer) for answer in refused] == [EXAMPLES[name]]
        return
    try:
        end = await orders.confirm(book(stores["shipping"], placed))
    except Abort as abort:
        assert EXAMPLES[name] in abort.reason
    else:
        assert type(end) is EXAMPLES[name]


@pytest.mark.parametrize("field", ["quantity", "amount_cents", "deliver_within_days"])
@pytest.mark.parametrize("value", [0, -1])
def test_numbers_are_positive(field: str, value: int) -> None:
    """An order for nothing, or one that would pay the customer, is not an OrderPlaced."""
    with pytest.raises(msgspec.ValidationError, match=field):
        msgspec.convert(msgspec.to_builtins(order()) | {field: value}, OrderPlaced)
