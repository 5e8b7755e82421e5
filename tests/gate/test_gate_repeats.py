"""Deliveries that come again, and commits that are sent again: nothing happens twice."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import TypeAlias

import pytest
from gate_kit import Desk, Worker, aborted, begin, begin_undo, dead, done, doubtful, stuck, undone

from choreo.broker.answers import Verdict
from choreo.broker.gate import Decision, Head
from choreo.broker.groups import Delivery

pytestmark = pytest.mark.anyio

JOINS = ("Paid", "Reserved")

Again: TypeAlias = Callable[[Worker, Delivery], Awaitable[Delivery]]


async def setid(worker: Worker, delivery: Delivery) -> Delivery:
    """The group is set back to before everything."""
    await worker.desk.call("XGROUP", "SETID", delivery.stream, worker.name, "0")
    return await _read_again(worker, delivery)


async def group_made_anew(worker: Worker, delivery: Delivery) -> Delivery:
    """The group is destroyed, and made anew at the beginning."""
    assert await worker.desk.call("XGROUP", "DESTROY", delivery.stream, worker.name) == 1
    await worker.desk.broker.groups.ensure([delivery.stream], worker.name)
    return await _read_again(worker, delivery)


async def claim_by_force(worker: Worker, delivery: Delivery) -> Delivery:
    """The entry is put back into the pending list."""
    await worker.desk.call(
        "XCLAIM", delivery.stream, worker.name, worker.identity.consumer, 0, delivery.entry, "FORCE"
    )
    (row,) = await worker.pending()
    return Delivery(delivery.stream, delivery.entry, row[2], delivery.fields)


async def published_again(worker: Worker, delivery: Delivery) -> Delivery:
    """A producer that lost the reply sends the same event a second time."""
    flat = [part for pair in (delivery.fields or {}).items() for part in pair]
    entry = (await worker.desk.call("XADD", delivery.stream, "*", *flat)).decode()
    again = await _read_again(worker, delivery)
    assert again.entry == entry != delivery.entry
    return again


async def _read_again(worker: Worker, delivery: Delivery) -> Delivery:
    """The delivery of the same event among what is read now; the rest is acknowledged."""
    found = await worker._read(delivery.stream, 100)
    again = [each for each in found if (each.fields or {})[b"id"] == (delivery.fields or {})[b"id"]]
    assert again, "the entry did not come again, so this test shows nothing"
    for each in found:
        if each is not again[-1]:
            await worker.desk.call("XACK", each.stream, worker.name, each.entry)
    return again[-1]


AGAIN = pytest.mark.parametrize("again", [setid, group_made_anew, claim_by_force, published_again])


async def begun(desk: Desk) -> tuple[Worker, Delivery, Head]:
    """A worker that has begun the step of a saga's first event."""
    await desk.publish("e1")
    worker = await desk.worker("payments")
    delivery = await worker.read_one()
    head = worker.head(delivery)
    assert await worker.verdict(begin(head, delivery)) is Verdict.RUN
    return worker, delivery, head


async def asked(desk: Desk) -> tuple[Worker, Delivery]:
    """A worker that is asked to undo a step of a saga that aborted."""
    worker, delivery, head = await begun(desk)
    refusal = done(head, delivery, desk.emit("out", "Refused", ends="a"))
    assert await worker.verdict(refusal) is Verdict.COMMITTED
    return worker, await worker.request()


async def is_pending(worker: Worker, delivery: Delivery) -> bool:
    return delivery.entry in [entry for entry, _, _ in await worker.pending()]


@AGAIN
async def test_done_again(desk: Desk, again: Again) -> None:
    """An event that is delivered again after its step is done is a duplicate, before the handler runs."""
    worker, delivery, head = await begun(desk)
    assert await worker.verdict(done(head, delivery, desk.emit("out"))) is Verdict.COMMITTED
    assert await worker.pending() == []

    repeat = await again(worker, delivery)
    assert await is_pending(worker, repeat)
    record, journal = await desk.call("HGETALL", desk.record()), await desk.journal()
    assert await worker.verdict(begin(worker.head(repeat), repeat)) is Verdict.DUPLICATE
    assert await worker.pending() == []
    assert await desk.emitted() == ["out"]
    assert (await desk.call("HGETALL", desk.record()), await desk.journal()) == (record, journal)


@AGAIN
@pytest.mark.parametrize("outcome", [done, aborted, dead, doubtful])
async def test_second_attempt_commits(desk: Desk, again: Again, outcome: Callable[..., Decision]) -> None:
    """Of two attempts that run at once one commits; the other is a duplicate, whatever it came to."""
    worker, delivery, head = await begun(desk)
    repeat, second = await worker.begin_beside(await again(worker, delivery))
    assert await worker.verdict(done(second, repeat, desk.emit("out"))) is Verdict.COMMITTED
    before = await desk.dump()

    assert await worker.verdict(outcome(head, delivery)) is Verdict.DUPLICATE
    after = await desk.dump()
    assert await worker.pending() == []
    assert await desk.emitted() == ["out"]
    # Where the producer sent twice the first entry was still pending; nothing else has changed.
    before.pop(desk.stream()), after.pop(desk.stream())
    assert before == after


@AGAIN
@pytest.mark.parametrize("outcome", [aborted, dead])
async def test_failed_again(desk: Desk, again: Again, outcome: Callable[..., Decision]) -> None:
    """A delivery whose step aborted or failed for good is not tried again when it comes again."""
    worker, delivery, head = await begun(desk)
    assert await worker.verdict(outcome(head, delivery)) is Verdict.COMMITTED
    letters, journal = await desk.letters(), await desk.journal()

    repeat = await again(worker, delivery)
    assert await worker.verdict(begin(worker.head(repeat), repeat)) is Verdict.DUPLICATE
    assert await worker.pending() == []
    assert (await desk.letters(), await desk.journal()) == (letters, journal)


@AGAIN
async def test_join_part_again(desk: Desk, again: Again) -> None:
    """A join that has got an event keeps it once."""
    await desk.publish("e1", "Paid")
    worker = await desk.worker("shipping")
    delivery = await worker.read_one()
    assert await worker.verdict(begin(worker.head(delivery), delivery, joins=JOINS)) is Verdict.WAITING

    repeat = await again(worker, delivery)
    assert await is_pending(worker, repeat)
    assert await worker.verdict(begin(worker.head(repeat), repeat, joins=JOINS)) is Verdict.DUPLICATE
    assert await worker.pending() == []
    assert await desk.journal() == ["waiting"]


@AGAIN
async def test_join_fires_once(desk: Desk, again: Again) -> None:
    """A join that has fired and committed does not fire again, whichever of its events comes again."""
    await desk.publish("e1", "Paid")
    await desk.publish("e2", "Reserved")
    worker = await desk.worker("shipping")
    first, second = await worker.read(2)
    assert await worker.verdict(begin(worker.head(first), first, joins=JOINS)) is Verdict.WAITING
    head = worker.head(second)
    assert await worker.verdict(begin(head, second, joins=JOINS)) is Verdict.RUN
    assert await worker.verdict(done(head, second, desk.emit("out"), joins=JOINS)) is Verdict.COMMITTED

    for delivery in (first, second):
        repeat = await again(worker, delivery)
        assert await worker.verdict(begin(worker.head(repeat), repeat, joins=JOINS)) is Verdict.DUPLICATE
    assert await worker.pending() == []
    assert await desk.emitted() == ["out"]


async def test_join_resumes(desk: Desk) -> None:
    """A join that fired, and whose worker died before it committed, gets the same events again."""
    await desk.publish("e1", "Paid")
    await desk.publish("e2", "Reserved")
    worker = await desk.worker("shipping")
    first, second = await worker.read(2)
    assert await worker.verdict(begin(worker.head(first), first, joins=JOINS)) is Verdict.WAITING
    (answer,) = await worker.decide(begin(worker.head(second), second, joins=JOINS))
    assert answer.rest == (b"order", b"e1", b"e2")

    heir = await worker.peer("two")
    taken = await heir.claim(second)
    assert taken.deliveries == 2
    (again,) = await heir.decide(begin(heir.head(taken), taken, joins=JOINS))
    assert again == answer


@AGAIN
@pytest.mark.parametrize("outcome", [undone, stuck])
async def test_undo_again(desk: Desk, again: Again, outcome: Callable[..., Decision]) -> None:
    """A request to undo that is delivered again after the undo ended is a duplicate."""
    worker, request = await asked(desk)
    head = worker.undo_head(request)
    assert await worker.verdict(begin_undo(head)) is Verdict.RUN
    assert await worker.verdict(outcome(head)) is Verdict.COMMITTED
    state, journal = await desk.state(), await desk.journal()

    repeat = await again(worker, request)
    assert await is_pending(worker, repeat)
    assert await worker.verdict(begin_undo(worker.undo_head(repeat))) is Verdict.DUPLICATE
    assert await worker.pending() == []
    assert (await desk.state(), await desk.journal()) == (state, journal)


# -- the same commit, sent again because its reply was lost ------------------------------------------


async def sent_twice(worker: Worker, decision: Decision) -> Verdict:
    """The verdict that a decision gets both times; the second time nothing is written."""
    first = await worker.verdict(decision)
    before = await worker.desk.dump()
    second = await worker.verdict(decision)
    assert second is first
    assert await worker.desk.dump() == before
    return first


async def test_committed_twice(desk: Desk) -> None:
    """A commit that is sent again learns that it was itself that won, and emits nothing more."""
    worker, delivery, head = await begun(desk)
    assert await sent_twice(worker, done(head, delivery, desk.emit("out"))) is Verdict.COMMITTED
    assert await desk.emitted() == ["out"]
    assert await worker.pending() == []


async def test_committed_twice_then_taken_over(desk: Desk) -> None:
    """A commit that is sent again after somebody else was handed the delivery has still won."""
    worker, delivery, head = await begun(desk)
    commit = done(head, delivery, desk.emit("out"))
    assert await worker.verdict(commit) is Verdict.COMMITTED
    peer = await worker.peer("two")
    repeat = await setid(peer, delivery)
    assert await worker.verdict(commit) is Verdict.COMMITTED
    assert await peer.verdict(begin(peer.head(repeat), repeat)) is Verdict.DUPLICATE
    assert await desk.emitted() == ["out"]


async def test_late_twice(desk: Desk) -> None:
    """A step that was under way when the saga aborted is late, however often it says so."""
    worker, delivery, head = await begun(desk)
    await desk.broker.sagas.compensate("s1", 1, "token", "why", "who")
    assert await sent_twice(worker, done(head, delivery, desk.emit("out"))) is Verdict.LATE
    assert await desk.emitted() == []
    assert len(await worker.requests()) == 1


async def test_skipped_twice(desk: Desk) -> None:
    """A step that the saga's abort kept from running is late, however often it asks to begin."""
    worker, delivery, head = await begun(desk)
    assert await worker.verdict(aborted(head, delivery)) is Verdict.COMMITTED
    await desk.publish("e2")
    late = await worker.read_one()
    assert await sent_twice(worker, begin(worker.head(late), late)) is Verdict.LATE
    assert await desk.journal() == ["aborted", "skipped"]


async def test_waiting_twice(desk: Desk) -> None:
    """A join that keeps an event says so both times."""
    await desk.publish("e1", "Paid")
    worker = await desk.worker("shipping")
    delivery = await worker.read_one()
    ask = begin(worker.head(delivery), delivery, joins=JOINS)
    assert await sent_twice(worker, ask) is Verdict.WAITING


@pytest.mark.parametrize("outcome", [aborted, dead])
async def test_closed_twice(desk: Desk, outcome: Callable[..., Decision]) -> None:
    """A failure that comes when the saga has completed is closed both times, and one dead letter."""
    worker, delivery, head = await begun(desk)
    await desk.publish("e2")
    other = await worker.read_one()
    await worker.run(other, desk.emit("end", "Shipped", ends="c1"))
    assert await desk.state() == "completed"
    assert await sent_twice(worker, outcome(head, delivery)) is Verdict.CLOSED
    assert len(await desk.letters()) == 1
    assert await desk.state() == "completed"


@pytest.mark.parametrize("outcome", [undone, stuck])
async def test_undo_committed_twice(desk: Desk, outcome: Callable[..., Decision]) -> None:
    """An undo's commit that is sent again has still won."""
    worker, request = await asked(desk)
    head = worker.undo_head(request)
    assert await worker.verdict(begin_undo(head)) is Verdict.RUN
    assert await sent_twice(worker, outcome(head)) is Verdict.COMMITTED


@pytest.fixture(params=[begin_undo, undone, stuck])
def undo_decision(request: pytest.FixtureRequest) -> Iterator[Callable[..., Decision]]:
    """Each decision about a request to undo."""
    yield request.param


async def test_nothing_to_undo_twice(desk: Desk, undo_decision: Callable[..., Decision]) -> None:
    """A request to undo what is not in the ledger is closed both times, and acknowledged."""
    worker, delivery, head = await begun(desk)
    await worker.verdict(done(head, delivery))
    await desk.call(
        "XADD", desk.inbox("payments"), "*", "id", "x", "type", "choreo.undo", "subject", "s1",
        "data", "payments/charge:nothing",
    )  # fmt: skip
    request = await worker.request()
    assert await sent_twice(worker, undo_decision(worker.undo_head(request))) is Verdict.CLOSED
    assert await worker.pending() == []
