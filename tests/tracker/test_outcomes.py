"""From the gate through the journal to view and trace: what is shown of sagas that were run for real."""

from __future__ import annotations

import pytest
from tracker_kit import (
    BOOM,
    DECLINED,
    NO_STOCK,
    STREAMS,
    STUCK,
    OpenBroker,
    Paid,
    Placed,
    Released,
    Reserved,
    Shipped,
    add_entry,
    catch_up,
    has_ended,
    letters,
    run_sagas,
    running,
    until,
)

from choreo import Abort, Context, Event, Participant
from choreo.broker.broker import Broker
from choreo.choreography import Choreography
from choreo.model.facts import Kind
from choreo.model.saga import State
from choreo.model.trace import EventNode, Reaction, Trace
from choreo.runtime.worker import Worker
from choreo.wire.topology import SagaType, Topology

pytestmark = pytest.mark.anyio


def handlers(trace: Trace) -> dict[str, Reaction]:
    """Every step and undo of a trace, by ``participant/step`` and ``participant/step/undo``."""
    found: dict[str, Reaction] = {}

    def walk(reactions: list[Reaction]) -> None:
        for each in reactions:
            if each.outcome is not Kind.WAITING:
                found["/".join(filter(None, (each.participant, each.step, each.undo)))] = each
            walk(each.undone_by)
            for node in each.emitted:
                walk(node.reactions)

    for root in trace.events:
        walk(root.reactions)
    return found


def types(nodes: list[EventNode]) -> list[str]:
    return [node.type for node in nodes]


async def test_a_completed_saga(broker: Broker, topology: Topology) -> None:
    """Its trace shows two branches, the join, and that nothing is awaited."""
    await run_sagas(topology, broker, [1])
    await catch_up(topology, broker)
    trace = await Choreography(topology, broker).trace("s0")
    assert trace.saga.status is State.COMPLETED
    assert trace.saga.done == {"payments/charge": 1, "inventory/reserve": 1, "shipping/send": 1}
    assert types(trace.events) == ["Placed"]
    found = handlers(trace)
    assert types(found["payments/charge"].emitted) == ["Paid"]
    assert types(found["shipping/send"].emitted) == ["Shipped"]
    assert found["shipping/send"].emitted[0].state == "completed"
    assert [each for each in trace.awaits if each.what != "listener"] == []


@pytest.mark.parametrize(
    ("amount", "status", "reason", "undone"),
    [
        (DECLINED, State.COMPENSATED, "Declined from payments/charge", {"inventory/reserve"}),
        (NO_STOCK, State.COMPENSATED, "inventory/reserve: sold out", {"payments/charge"}),
        (
            BOOM,
            State.COMPENSATED,
            "shipping/send: RuntimeError: boom",
            {"payments/charge", "inventory/reserve"},
        ),
        (STUCK, State.FAILED, "shipping/send: RuntimeError: boom", {"inventory/reserve"}),
    ],
)
async def test_a_saga_that_unwound(
    broker: Broker, topology: Topology, amount: int, status: State, reason: str, undone: set[str]
) -> None:
    """View and trace say how it ended, why, and what was undone; every letter is counted."""
    await run_sagas(topology, broker, [amount])
    await catch_up(topology, broker)
    trace = await Choreography(topology, broker).trace("s0")
    assert trace.saga.status is status
    assert trace.saga.reason == reason
    # A branch that had not begun when the saga turned is skipped, and there is nothing to undo.
    assert set(trace.saga.undone) <= undone
    assert set(trace.saga.undone) == set(trace.saga.done) & undone
    assert trace.saga.dead_letters == len(await letters(topology, broker))
    for name, reaction in handlers(trace).items():
        assert reaction.ended >= reaction.began > 0, name
        if reaction.outcome is Kind.DEAD or reaction.outcome is Kind.STUCK:
            assert "RuntimeError" in reaction.detail


async def test_undos_are_numbered_as_they_ran_also_when_the_clock_stands_still(
    open_broker: OpenBroker, namespace: str
) -> None:
    """With a clock that does not move, causes still stand before effects: the trace is in order."""
    order = SagaType("order", frozenset({"Placed"}), frozenset({"Shipped"}))
    topology = Topology(namespace, 1, STREAMS, {}, {"order": order})
    broker = open_broker(topology)
    first, second, third = Participant("alpha"), Participant("beta"), Participant("gamma")
    ran: list[str] = []

    @first.on(Placed)
    async def charge(placed: Placed) -> Paid:
        return Paid()

    @charge.undo
    async def refund(placed: Placed, ctx: Context) -> None:
        ran.append("alpha/charge/refund")

    @second.on(Paid)
    async def reserve(paid: Paid) -> Reserved:
        return Reserved()

    @reserve.undo
    async def release(paid: Paid) -> Released:
        ran.append("beta/reserve/release")
        return Released()

    @third.on(Reserved)
    async def send(reserved: Reserved) -> Shipped:
        raise Abort("no courier")

    def clock() -> int:
        return 1_000_000

    services = [Worker(each, topology, broker, clock=clock) for each in (first, second, third)]
    async with running(*services):
        await Choreography(topology, broker, clock).start(Placed(), saga_id="s1")
        await until(lambda: has_ended(broker, "s1"), "the saga to end")
    await catch_up(topology, broker)
    trace = await Choreography(topology, broker).trace("s1")
    found = handlers(trace)
    assert ran == ["beta/reserve/release", "alpha/charge/refund"]
    assert [found[name].order for name in ran] == [1, 2]
    assert trace.saga.current == "alpha/charge"


async def test_an_abort_that_comes_too_late_shows(open_broker: OpenBroker, namespace: str) -> None:
    """A step that aborts when its saga has completed becomes a dead letter which the view counts."""
    order = SagaType("order", frozenset({"Placed"}), frozenset({"Shipped"}))
    topology = Topology(namespace, 1, STREAMS, {}, {"order": order})
    broker = open_broker(topology)
    shipping, audit = Participant("shipping"), Participant("audit")

    @shipping.on(Placed)
    async def send(placed: Placed) -> Shipped:
        return Shipped()

    @audit.on(Placed)
    async def look_into_it(placed: Placed, ctx: Context) -> None:
        await until(lambda: has_ended(broker, ctx.saga_id), "the saga to complete")
        raise Abort("fraud")

    async with running(*(Worker(each, topology, broker) for each in (shipping, audit))):
        await Choreography(topology, broker).start(Placed(), saga_id="s1")
        await until(lambda: letters(topology, broker), "the dead letter")
    await catch_up(topology, broker)
    (letter,) = await letters(topology, broker)
    assert letter[b"reason"] == b"abort-too-late"
    view = await Choreography(topology, broker).view("s1")
    assert view.status is State.COMPLETED
    assert view.dead_letters == 1
    assert view.last_error is not None
    assert view.last_error.message == "fraud"


async def test_an_operators_order_shows(broker: Broker, topology: Topology) -> None:
    """A saga that was unwound on an operator's word says who said so and why."""
    choreo = Choreography(topology, broker)
    await choreo.start(Placed(), saga_id="s1")
    assert await choreo.compensate("s1", note="wrong address", who="ann") is State.COMPENSATED
    await catch_up(topology, broker)
    trace = await choreo.trace("s1")
    assert trace.saga.reason == "wrong address (ann)"
    assert trace.saga.current == "Placed"
    assert [(each.kind, each.note, each.detail) for each in trace.incidents] == [
        (Kind.ORDERED, "wrong address", "ann")
    ]


class Cycle(Event):
    pass


async def test_hostile_causes_neither_hang_nor_hide(open_broker: OpenBroker, namespace: str) -> None:
    """Foreign events that claim to cause one another are all in the trace, once."""
    topology = Topology(namespace, 1, {"odd": ("Cycle",)}, {}, {})
    broker = open_broker(topology)
    causes = {"a": "b", "b": "c", "c": "a", "d": "d", "e": "a", "f": "gone"}
    for event_id, cause in causes.items():
        fields = {"id": event_id, "type": "Cycle", "subject": "s1", "data": "{}", "cause": cause,
                  "source": "p/s/u" if event_id in "bd" else "p/s", "asks": f"p/s:{cause}"}  # fmt: skip
        await add_entry(broker, topology.keys.stream(0, "odd"),
                        {name.encode(): value.encode() for name, value in fields.items()})  # fmt: skip
    await catch_up(topology, broker)
    trace = await Choreography(topology, broker).trace("s1")
    found = [node.id for root in trace.events for node in below(root)]
    assert sorted(found) == sorted(causes)


def below(node: EventNode) -> list[EventNode]:
    found = [node]
    open_reactions = list(node.reactions)
    while open_reactions:
        reaction = open_reactions.pop()
        open_reactions.extend(reaction.undone_by)
        for each in reaction.emitted:
            found.extend(below(each))
    return found
