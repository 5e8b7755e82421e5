"""A server that is out of memory, or has forgotten the scripts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import pytest
from gate_kit import Desk, Worker, aborted, begin, begin_undo, connected, dead, done, stuck, undone

from choreo.broker.answers import Verdict
from choreo.broker.engine import EngineProcess
from choreo.broker.gate import Decision, Head
from choreo.broker.groups import Delivery
from choreo.errors import BrokerUnavailable
from choreo.wire.envelope import Envelope

pytestmark = pytest.mark.anyio

JOINS = ("Paid", "Reserved")


@pytest.fixture
async def own_desk(anyio_backend: str, server_process: Callable[..., EngineProcess]) -> AsyncIterator[Desk]:
    """A desk on a server of this test's own, each kind in turn."""
    server = server_process({"appendonly": "no"})
    async with connected(server.url) as connection:
        yield Desk.on(connection, "own")


async def begun(desk: Desk, number: int) -> list[tuple[Worker, Head, Delivery]]:
    """A worker that has begun the steps of so many sagas."""
    worker = await desk.worker("payments")
    for each in range(number):
        await desk.publish(f"e{each}", saga=f"s{each}")
    found = [(worker, worker.head(delivery), delivery) for delivery in await worker.read(number)]
    await worker.verdicts(*[begin(head, delivery) for _, head, delivery in found])
    return found


async def refused_whole(worker: Worker, *decisions: Decision) -> None:
    """With no memory left the server refuses a batch: nothing of it is written, and it may be sent again."""
    desk = worker.desk
    before = await desk.dump()
    await desk.call("CONFIG", "SET", "maxmemory", "1")
    for _ in range(2):
        (answer,) = await desk.broker.gate.decide(worker.identity, 1, [(0, decisions)])
        assert isinstance(answer, BrokerUnavailable)
        assert "maxmemory" in str(answer)
    assert await desk.dump() == before
    await desk.call("CONFIG", "SET", "maxmemory", "0")


async def test_steps_without_memory(own_desk: Desk) -> None:
    """Steps of every outcome are refused whole when there is no memory, and commit when there is."""
    desk = own_desk
    found = await begun(desk, 5)
    worker = found[0][0]
    (_, first, one), (_, second, two), (_, third, three), (_, fourth, four), (_, fifth, five) = found
    decisions = [
        done(first, one, desk.emit("out")), done(second, two), aborted(third, three), dead(fourth, four),
        done(fifth, five, desk.emit("no", "Refused", ends="a")),
    ]  # fmt: skip
    pending = await worker.pending()
    for decision in decisions:
        await refused_whole(worker, decision)
    await refused_whole(worker, *decisions)
    assert await worker.pending() == pending
    assert await worker.verdicts(*decisions) == [Verdict.COMMITTED] * 5
    assert await worker.pending() == []


@pytest.mark.parametrize("outcome", [undone, stuck])
async def test_undo_without_memory(own_desk: Desk, outcome: Callable[[Head], Decision]) -> None:
    """An undo's commit is refused whole when there is no memory, and goes through when there is."""
    ((worker, head, delivery),) = await begun(own_desk, 1)
    await worker.verdict(done(head, delivery, own_desk.emit("no", "Refused", ends="a")))
    undo = worker.undo_head(await worker.request())
    assert await worker.verdict(begin_undo(undo)) is Verdict.RUN
    await refused_whole(worker, outcome(undo))
    assert await worker.verdict(outcome(undo)) is Verdict.COMMITTED


async def test_begin_without_memory(own_desk: Desk) -> None:
    """A step with an undo does not begin, and a join keeps nothing, while there is no memory."""
    desk = own_desk
    await desk.publish("e1", "Paid")
    await desk.publish("e2", "Reserved")
    worker = await desk.worker("payments")
    first, second = await worker.read(2)
    asks = [begin(worker.head(first), first, joins=JOINS), begin(worker.head(second), second, joins=JOINS)]
    await refused_whole(worker, *asks)
    assert await worker.verdicts(*asks) == [Verdict.WAITING, Verdict.RUN]


async def test_start_and_compensate_without_memory(own_desk: Desk) -> None:
    """A start and an operator's order are refused whole when there is no memory."""
    desk = own_desk
    ((worker, head, delivery),) = await begun(desk, 1)
    await worker.verdict(done(head, delivery))
    event = Envelope("e9", "Placed", "s9", b"{}", time=1, sagatype="order")
    before = await desk.dump()
    await desk.call("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(BrokerUnavailable, match="maxmemory"):
        await desk.broker.sagas.start("facts", event)
    with pytest.raises(BrokerUnavailable, match="maxmemory"):
        await desk.broker.sagas.compensate("s0", 1, "token", "why", "who")
    assert await desk.dump() == before
    await desk.call("CONFIG", "SET", "maxmemory", "0")
    assert await desk.broker.sagas.start("facts", event) is True
    assert await desk.broker.sagas.compensate("s0", 1, "token", "why", "who") == "compensating"


async def test_scripts_forgotten(desk: Desk) -> None:
    """A server that has forgotten the scripts is told them again; every call is answered as ever."""

    async def forget() -> None:
        await desk.call("SCRIPT", "FLUSH")

    await desk.publish("e1")
    worker = await desk.worker("payments")
    delivery = await worker.read_one()
    head = worker.head(delivery)
    commit = done(head, delivery, desk.emit("out"))
    await forget()
    assert await worker.verdict(begin(head, delivery)) is Verdict.RUN
    await forget()
    assert await worker.verdict(commit) is Verdict.COMMITTED
    await forget()
    assert await worker.verdict(commit) is Verdict.COMMITTED
    await forget()
    assert await desk.broker.sagas.compensate("s1", 1, "token", "why", "who") == "compensating"
    request = await worker.request()
    await forget()
    taken = await worker.claim(request)
    await forget()
    assert await worker.verdict(undone(worker.undo_head(taken))) is Verdict.COMMITTED
    assert await desk.emitted() == ["out"]
    assert await desk.state() == "compensated"


async def test_scripts_forgotten_within_a_round_trip(desk: Desk) -> None:
    """Several batches in one round trip are told the script once, and each is decided once."""
    found = await begun(desk, 3)
    worker = found[0][0]
    commits = [done(head, delivery, desk.emit(f"out-{head.event}")) for _, head, delivery in found]
    await desk.call("SCRIPT", "FLUSH")
    answers = await desk.broker.gate.decide(worker.identity, 1, [(0, [commit]) for commit in commits])
    assert [[each.verdict for each in batch] for batch in answers if isinstance(batch, list)] == [
        [Verdict.COMMITTED]
    ] * 3
    assert await desk.emitted() == ["out-e0", "out-e1", "out-e2"]
