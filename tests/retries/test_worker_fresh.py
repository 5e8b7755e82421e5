"""What the gate has published just now is handled without asking it whether the saga still runs."""

from __future__ import annotations

import anyio.lowlevel
import pytest
from retry_kit import NOW, HandClock, Paid, Shipped, Stage, until
from test_worker_together import counted

from choreo import Participant
from choreo.runtime.delivery import FRESH

pytestmark = pytest.mark.anyio

#: As the gate publishes an event.
FROM_GATE = {"cause": "e0", "began": NOW - 5, "source": "payments/charge"}


def shipper(ran: list[int], *, waits: bool = False) -> Participant:
    """Ships what is paid, at once or after a little waiting."""
    shipping = Participant("shipping")

    if waits:

        @shipping.on(Paid)
        async def ship_slowly(paid: Paid) -> Shipped:
            await anyio.lowlevel.checkpoint()
            ran.append(paid.amount)
            return Shipped()

    else:

        @shipping.on(Paid)
        async def ship(paid: Paid) -> Shipped:
            ran.append(paid.amount)
            return Shipped()

    return shipping


async def pay(stage: Stage, **fields: str | int) -> None:
    """Publish a payment that the server took in at ``NOW``."""
    await stage.call("XADD", stage.topology.keys.stream(0, "money"), f"{NOW}-0", "id", "e1", "type", "Paid",
                     "subject", "s1", "sagatype", "order", "time", NOW, "data", '{"amount":7}',
                     *[each for pair in fields.items() for each in pair])  # fmt: skip


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("age", [-FRESH, 0, FRESH])
async def test_an_event_of_just_now(stage: Stage, age: int, waits: bool) -> None:
    """The gate is told of the outcome, and asked nothing before."""
    ran: list[int] = []
    await pay(stage, **FROM_GATE)
    gate = counted(stage)
    async with stage.running(stage.worker(shipper(ran, waits=waits), HandClock(NOW + age))):
        await until(stage.is_settled, "it to be settled")
    assert gate.calls == [["done"]]
    assert ran == [7]
    assert len(await stage.emitted("Shipped")) == 1


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize(
    ("age", "fields"),
    [
        (FRESH + 1, FROM_GATE),
        (-FRESH - 1, FROM_GATE),  # the server's clock was set back, or this one is wrong
        (0, {}),
        (0, {**FROM_GATE, "cause": ""}),
        (0, {**FROM_GATE, "began": ""}),
        (0, {**FROM_GATE, "phase": "back"}),
    ],
)
async def test_any_other_event(stage: Stage, age: int, fields: dict[str, str | int], waits: bool) -> None:
    """It is older, or seems to be, or a program of its own has published it, or it is of the way back."""
    ran: list[int] = []
    await pay(stage, **fields)
    gate = counted(stage)
    async with stage.running(stage.worker(shipper(ran, waits=waits), HandClock(NOW + age))):
        await until(stage.is_settled, "it to be settled")
    assert gate.calls == [["look"], ["done"]]
    assert ran == [7]


async def test_a_saga_that_has_turned_since(stage: Stage) -> None:
    """The step has run, as it might had the saga turned a little later; what it publishes is withheld."""
    ran: list[int] = []
    await pay(stage, **FROM_GATE)
    await stage.call("HSET", stage.topology.keys.record(0, "s1"), "state", "compensating", "seq", "1", "type", "order")
    async with stage.running(stage.worker(shipper(ran), HandClock(NOW + FRESH))):
        await until(stage.is_settled, "it to be settled")
    assert ran == [7]
    assert not await stage.emitted("Shipped")
    assert [each["kind"] for each in await stage.journal()] == ["late"]


async def test_a_saga_that_has_turned_before(stage: Stage) -> None:
    """The gate is asked, and the step does not run."""
    ran: list[int] = []
    await pay(stage, **FROM_GATE)
    await stage.call("HSET", stage.topology.keys.record(0, "s1"), "state", "compensating", "seq", "1", "type", "order")
    async with stage.running(stage.worker(shipper(ran), HandClock(NOW + FRESH + 1))):
        await until(stage.is_settled, "it to be settled")
    assert not ran
    assert [each["kind"] for each in await stage.journal()] == ["skipped"]


async def test_an_event_that_is_delivered_again(stage: Stage) -> None:
    """A worker died of it, or lost its lease: the gate is asked however fresh it is."""
    ran: list[int] = []
    await pay(stage, **FROM_GATE)
    key = stage.topology.keys.stream(0, "money")
    await stage.call("XGROUP", "CREATE", key, "shipping", "0")
    await stage.call("XREADGROUP", "GROUP", "shipping", "dead", "STREAMS", key, ">")
    gate = counted(stage)
    async with stage.running(stage.worker(shipper(ran), HandClock(NOW), lease=0.2)):
        await until(stage.is_settled, "it to be settled")
    assert gate.calls[0] == ["begin"]
    assert ran == [7]
