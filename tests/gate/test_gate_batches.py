"""Many decisions in one call: answered in order, and each sees what those before it did."""

from __future__ import annotations

import pytest
from gate_kit import (
    Desk,
    Worker,
    aborted,
    begin,
    begin_undo,
    dead,
    done,
    stuck,
    undone,
)

from choreo.broker.answers import Verdict
from choreo.broker.gate import Decision, Head
from choreo.broker.groups import Delivery
from choreo.wire.limits import MAX_BATCH

pytestmark = pytest.mark.anyio

JOINS = ("Paid", "Reserved")


async def _begun(desk: Desk, worker: Worker, number: int, *, saga: str = "s1") -> list[tuple[Head, Delivery]]:
    """So many events of one saga, whose steps this worker has begun."""
    for each in range(number):
        await desk.publish(f"e{each}", saga=saga)
    found = [(worker.head(delivery), delivery) for delivery in await worker.read(number)]
    verdicts = await worker.verdicts(*[begin(head, delivery) for head, delivery in found])
    assert verdicts == [Verdict.RUN] * number
    return found


async def test_a_full_batch(desk: Desk) -> None:
    """As many decisions as a call may hold, of as many sagas and of every kind, are answered in order."""
    worker = await desk.worker("payments")
    sagas = [f"saga-{number}" for number in range(MAX_BATCH)]
    for saga in sagas:
        await desk.publish(f"e-{saga}", saga=saga)
    deliveries = await worker.read(MAX_BATCH)
    heads = [worker.head(delivery) for delivery in deliveries]
    asks = [begin(head, delivery) for head, delivery in zip(heads, deliveries, strict=True)]
    assert await worker.verdicts(*asks) == [Verdict.RUN] * MAX_BATCH

    decisions: list[Decision] = []
    expected = []
    for number, (head, delivery) in enumerate(zip(heads, deliveries, strict=True)):
        match number % 5:
            case 0:
                decisions.append(done(head, delivery, desk.emit(f"out-{number}")))
                expected.append((Verdict.COMMITTED, b"running"))
            case 1:
                decisions.append(done(head, delivery, desk.emit(f"out-{number}", ends="c1")))
                expected.append((Verdict.COMMITTED, b"completed"))
            case 2:
                decisions.append(aborted(head, delivery))
                expected.append((Verdict.COMMITTED, b"compensated"))
            case 3:
                decisions.append(dead(head, delivery))
                expected.append((Verdict.COMMITTED, b"compensating"))
            case 4:
                await (await worker.peer("two")).claim(delivery)
                decisions.append(done(head, delivery, desk.emit(f"out-{number}")))
                expected.append((Verdict.STALE, b""))
    answers = await worker.decide(*decisions)
    assert [(answer.verdict, b"".join(answer.rest)) for answer in answers] == expected
    assert await desk.emitted() == [f"out-{number}" for number in range(MAX_BATCH) if number % 5 < 2]
    assert len(await desk.letters()) == MAX_BATCH / 5
    assert len(await worker.requests()) == MAX_BATCH / 5
    assert await worker.pending() != []


async def test_partitions_in_one_round_trip(desk: Desk) -> None:
    """Batches of several partitions are answered each by itself, in the order they were given."""
    worker = await desk.worker("payments")
    ((first, delivery), (second, other)) = await _begun(desk, worker, 2)
    answers = await desk.broker.gate.decide(
        worker.identity, 1, [(0, [done(first, delivery)]), (0, [done(second, other), done(first, delivery)])]
    )
    assert [[each.verdict for each in batch] for batch in answers if isinstance(batch, list)] == [
        [Verdict.COMMITTED], [Verdict.COMMITTED, Verdict.COMMITTED],
    ]  # fmt: skip


async def test_same_delivery_twice(desk: Desk) -> None:
    """Two attempts at one delivery in one batch: the first commits, the second is a duplicate."""
    worker = await desk.worker("payments")
    ((head, delivery),) = await _begun(desk, worker, 1)
    rival, out = worker.head(delivery), desk.emit("out")
    verdicts = await worker.verdicts(
        done(head, delivery, out), done(rival, delivery, out), begin(rival, delivery)
    )
    assert verdicts == [Verdict.COMMITTED, Verdict.DUPLICATE, Verdict.DUPLICATE]
    assert await desk.emitted() == ["out"]


async def test_join_in_one_batch(desk: Desk) -> None:
    """A join that gets its events in one batch waits with the first and runs with the second."""
    await desk.publish("e1", "Reserved")
    await desk.publish("e2", "Paid")
    worker = await desk.worker("shipping")
    first, second = await worker.read(2)
    answers = await worker.decide(
        begin(worker.head(first), first, joins=JOINS), begin(worker.head(second), second, joins=JOINS)
    )
    assert [answer.verdict for answer in answers] == [Verdict.WAITING, Verdict.RUN]
    assert answers[1].rest == (b"order", b"e2", b"e1")


@pytest.mark.parametrize("how", ["event", "handler", "error"])
async def test_abort_and_what_follows(desk: Desk, how: str) -> None:
    """What stands behind an abort in the same batch finds the saga unwinding."""
    worker = await desk.worker("payments")
    (first, one), (second, two) = await _begun(desk, worker, 2)
    await desk.publish("e9")
    third = await worker.read_one()
    abort = {
        "event": done(first, one, desk.emit("out", "Refused", ends="a"), keep=False),
        "handler": aborted(first, one), "error": dead(first, one),
    }[how]  # fmt: skip
    late = done(second, two, desk.emit("withheld"))
    answers = await worker.decide(abort, late, begin(worker.head(third), third), aborted(second, two))
    assert [answer.verdict for answer in answers] == [
        Verdict.COMMITTED, Verdict.LATE, Verdict.LATE, Verdict.LATE,
    ]  # fmt: skip
    assert await desk.emitted() == (["out"] if how == "event" else [])
    asked = [(request.fields or {})[b"data"] for request in await worker.requests()]
    assert asked == [b"payments/charge:e0"] * (how == "error") + [b"payments/charge:e1"]


async def test_two_aborts(desk: Desk) -> None:
    """Of two aborts in one batch the first turns the saga; the second comes late."""
    worker = await desk.worker("payments")
    (first, one), (second, two) = await _begun(desk, worker, 2)
    verdicts = await worker.verdicts(aborted(first, one), aborted(second, two))
    assert verdicts == [Verdict.COMMITTED, Verdict.LATE]
    assert await desk.state() == "compensated"
    assert await desk.call("HGET", desk.record(), "seq") == b"2"
    assert not await desk.call("EXISTS", desk.work())


async def test_completion_and_what_follows(desk: Desk) -> None:
    """What stands behind the last of all ends in the same batch finds the saga completed."""
    worker = await desk.worker("payments")
    (first, one), (second, two), (third, three), (fourth, four) = await _begun(desk, worker, 4)
    answers = await worker.decide(
        done(first, one, desk.emit("a", "Shipped", ends="c2")),
        done(second, two, desk.emit("b", "Billed", ends="c2")),
        aborted(third, three),
        done(fourth, four, desk.emit("c")),
    )
    assert [(answer.verdict, answer.rest) for answer in answers] == [
        (Verdict.COMMITTED, (b"running",)), (Verdict.COMMITTED, (b"completed",)),
        (Verdict.CLOSED, (b"completed",)), (Verdict.COMMITTED, (b"completed",)),
    ]  # fmt: skip
    assert await desk.emitted() == ["a", "b", "c"]
    assert not await desk.call("EXISTS", desk.work())


async def test_chain_in_one_batch(desk: Desk) -> None:
    """Steps that cause one another may commit in one batch; the later ones hold the earlier ones back."""
    worker = await desk.worker("payments")
    ((head, delivery),) = await _begun(desk, worker, 1)
    await desk.publish("e9", ledger="payments/charge:e0")
    caused = await worker.read_one()
    second, rival = worker.head(caused), worker.head(delivery)
    verdicts = await worker.verdicts(
        done(head, delivery), begin(second, caused), done(second, caused), dead(rival, delivery)
    )
    assert verdicts == [Verdict.COMMITTED, Verdict.RUN, Verdict.COMMITTED, Verdict.DUPLICATE]
    await desk.broker.sagas.compensate("s1", 1, "token", "why", "who")
    first = await worker.request()
    assert (first.fields or {})[b"data"] == b"payments/charge:e9"
    assert await worker.verdict(undone(worker.undo_head(first))) is Verdict.COMMITTED
    assert ((await worker.request()).fields or {})[b"data"] == b"payments/charge:e0"


@pytest.mark.parametrize("last", [undone, stuck])
async def test_last_undos_in_one_batch(desk: Desk, last: type) -> None:
    """The last of several undos in one batch ends the saga; it has failed if any of them did."""
    worker = await desk.worker("payments")
    found = await _begun(desk, worker, 3)
    await worker.verdicts(*[done(head, delivery) for head, delivery in found])
    await desk.broker.sagas.compensate("s1", 1, "token", "why", "who")
    heads = [worker.undo_head(request) for request in await worker.requests()]
    assert await worker.verdicts(*map(begin_undo, heads)) == [Verdict.RUN] * 3
    answers = await worker.decide(undone(heads[0]), last(heads[1]), undone(heads[2]))
    ended = b"compensated" if last is undone else b"failed"
    assert [answer.rest for answer in answers] == [(b"compensating",), (b"compensating",), (ended,)]


async def test_thousands_of_branches(real_desk: Desk) -> None:
    """A saga with thousands of branches unwinds in one commit: every one of them is asked for."""
    branches = 4_500
    desk = real_desk
    worker = await desk.worker("payments")
    await desk.broker.connection.call_many([
        ("XADD", desk.stream(), "*", "id", f"e{number}", "type", "Placed", "subject", "s1", "data", "{}")
        for number in range(branches)
    ])
    for _ in range(branches // MAX_BATCH):
        found = [(worker.head(delivery), delivery) for delivery in await worker.read(MAX_BATCH)]
        await worker.decide(*[begin(head, delivery) for head, delivery in found])
        verdicts = await worker.verdicts(*[done(head, delivery) for head, delivery in found])
        assert verdicts == [Verdict.COMMITTED] * MAX_BATCH
    assert await desk.broker.sagas.compensate("s1", 1, "token", "why", "who") == "compensating"
    assert len(await worker.requests(10_000)) == branches
