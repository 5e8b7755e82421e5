"""What the gate has published just now is handled without asking it whether the saga still runs."""

from __future__ import annotations

from collections.abc import Sequence

import anyio.lowlevel
import pytest
from retry_kit import NOW, Declined, HandClock, Paid, Placed, Shipped, Stage, until
from test_worker_together import CountedGate, counted

from choreo import Participant
from choreo.broker.answers import Answer, go_ahead
from choreo.broker.gate import Decision, Identity
from choreo.runtime.delivery import FRESH, Handling, Known

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
                     "subject", "s1", "sagatype", "order", "data", '{"amount":7}',
                     *[each for pair in ({"time": NOW} | fields).items() for each in pair])  # fmt: skip


async def turn_saga(stage: Stage) -> None:
    """Have a saga's record say that it unwinds."""
    record = stage.topology.keys.record(0, "s1")
    await stage.call("HSET", record, "state", "compensating", "seq", "1", "type", "order")


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
        (0, {**FROM_GATE, "unwinds": "1"}),
        (0, {**FROM_GATE, "time": NOW - FRESH - 1}),
        (0, {**FROM_GATE, "time": NOW + FRESH + 1}),
    ],
)
async def test_any_other_event(stage: Stage, age: int, fields: dict[str, str | int], waits: bool) -> None:
    """It is older, or seems to be; a program of its own has published it; it is of the way back; its saga
    unwinds since the commit that published it; or it was published again, and bears its former time."""
    ran: list[int] = []
    await pay(stage, **fields)
    gate = counted(stage)
    async with stage.running(stage.worker(shipper(ran, waits=waits), HandClock(NOW + age))):
        await until(stage.is_settled, "it to be settled")
    assert gate.calls == [["look"], ["done"]]
    assert ran == [7]


async def test_a_saga_that_has_turned_since(stage: Stage) -> None:
    """Within these milliseconds the step has run, as it might had the saga turned a little later; what it
    publishes is withheld."""
    ran: list[int] = []
    await pay(stage, **FROM_GATE)
    await turn_saga(stage)
    async with stage.running(stage.worker(shipper(ran), HandClock(NOW + FRESH))):
        await until(stage.is_settled, "it to be settled")
    assert ran == [7]
    assert not await stage.emitted("Shipped")
    assert [each["kind"] for each in await stage.journal()] == ["late"]


async def test_a_saga_that_has_turned_before(stage: Stage) -> None:
    """The gate is asked, and the step does not run."""
    ran: list[int] = []
    await pay(stage, **FROM_GATE)
    await turn_saga(stage)
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


class BelatedGate(CountedGate):
    """A gate behind whose first answer the worker's clock is right again."""

    clock: HandClock

    async def decide(
        self, identity: Identity, now: int, batches: Sequence[tuple[int, Sequence[Decision]]]
    ) -> list[list[Answer] | Exception]:
        answers = await super().decide(identity, now, batches)
        self.clock.now = NOW
        return answers


async def test_what_the_gate_was_asked_about_counts_as_asked(stage: Stage) -> None:
    """An event that seems fresh only after the gate has said that it takes more than a look."""
    ran: list[int] = []
    await pay(stage, **FROM_GATE)
    await turn_saga(stage)
    gate = counted(stage, BelatedGate)
    assert isinstance(gate, BelatedGate)
    gate.clock = HandClock(NOW - FRESH - 1)
    async with stage.running(stage.worker(shipper(ran), gate.clock)):
        await until(stage.is_settled, "it to be settled")
    assert not ran
    assert [each["kind"] for each in await stage.journal()] == ["skipped"]


@pytest.mark.parametrize(
    ("late", "hindered", "known"), [(0, False, True), (1, False, False), (0, True, False)]
)
def test_whether_it_is_still_fresh_when_its_turn_comes(
    late: int, hindered: bool, known: bool, stage: Stage
) -> None:
    """It may have waited for others; or the server takes nothing just now, and not even asking helps."""
    clock = HandClock()
    handling = Handling("shipping", stage.topology, {}, clock, hindered=lambda: hindered)
    waiting = handling.known_answer(Known(go_ahead("order"), NOW + FRESH))
    waiting.send(None)
    clock.now += FRESH + late
    with pytest.raises(StopIteration) as end:
        waiting.send(None)
    assert end.value.value == (go_ahead("order") if known else None)


def charger(*returned: Paid | Declined) -> Participant:
    """Answers an order with these."""
    payments = Participant("payments")

    @payments.on(Placed)
    async def charge(order: Placed) -> list[Paid | Declined]:
        return list(returned)

    return payments


async def test_events_of_the_gate_itself(stage: Stage) -> None:
    """With two services and the real gate: sooner or later a saga needs one look, for its first event."""
    ran: list[int] = []
    gate = counted(stage)
    async with stage.playing(charger(Paid(7)), shipper(ran), clock=stage.broker.clock) as choreo:

        async def one_look() -> bool:
            gate.calls.clear()
            view = await choreo.wait(await choreo.start(Placed()), timeout=20)
            assert view.status == "completed"
            kinds = [kind for call in gate.calls for kind in call]
            assert kinds in (["look", "done", "done"], ["look", "done", "look", "done"])
            return kinds.count("look") == 1

        await until(one_look, "a saga whose second step begins at once")
    assert set(ran) == {7}


@pytest.mark.parametrize("returned", [(Paid(7), Declined()), (Declined(), Paid(7))])
async def test_events_beside_one_that_aborts(stage: Stage, returned: tuple[Paid | Declined, ...]) -> None:
    """They are published by the commit that makes the saga unwind: no step on them begins, however fresh."""
    ran: list[int] = []
    async with stage.playing(charger(*returned), shipper(ran), clock=stage.broker.clock) as choreo:
        for _ in range(10):
            view = await choreo.wait(await choreo.start(Placed()), timeout=20)
            assert view.status == "compensated"
        await until(stage.is_settled, "all to be settled")
    assert not ran
    assert [each["unwinds"] for each in await stage.emitted("Paid")] == ["1"] * 10
    assert not any("unwinds" in each for each in await stage.emitted("Declined"))
    assert len(await stage.journal("skipped")) == 10
