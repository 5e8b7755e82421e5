"""Runs that begin and come to nothing are counted, and only those: who is merely delivered is innocent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from gate_kit import Desk, Worker, aborted, begin, begin_undo, dead, done, stuck, undone

from choreo.broker.answers import Verdict
from choreo.broker.gate import Decision, Failed, Head, Letter, Parking, RetryStep, RetryUndo
from choreo.broker.groups import Delivery
from choreo.wire.envelope import Reason
from choreo.wire.limits import MAX_DELIVERIES

pytestmark = pytest.mark.anyio

JOINS = ("Paid", "Reserved")


def retry(head: Head, delivery: Delivery) -> RetryStep:
    """An attempt failed, and another one is to follow."""
    return RetryStep(head, Parking(head.began + 1000, b"attempt", "boom", ""), keep=True, input=b"input")


def parked(head: Head, delivery: Delivery) -> Failed:
    """A step failed for good, and its saga waits for an operator."""
    letter = Letter.of("letter", Reason.STEP_FAILED, subject=head.saga_id)
    return Failed(head, "parked", "boom", letter, keep=True, input=b"input")


def retry_undo(head: Head) -> RetryUndo:
    """An attempt of an undo failed, and another one is to follow."""
    return RetryUndo(head, "refund", Parking(head.began + 1000, b"attempt", "boom", ""))


async def placed(desk: Desk) -> tuple[Worker, Delivery]:
    """A worker with its first delivery."""
    await desk.publish("e1")
    worker = await desk.worker("payments")
    return worker, await worker.read_one()


async def asked(desk: Desk) -> tuple[Worker, Delivery]:
    """A worker that is asked to undo a step."""
    worker, delivery = await placed(desk)
    await worker.run(delivery)
    await desk.broker.sagas.compensate("s1", 1, "token", "why", "who")
    return worker, await worker.request()


async def runs_left(worker: Worker, delivery: Delivery, ask: Callable[[Delivery], Decision]) -> int:
    """How many workers that take the delivery over may run it, before one is told that it is poison."""
    for runs in range(2 * MAX_DELIVERIES):
        delivery = await worker.claim(delivery)
        verdict = await worker.verdict(ask(delivery))
        if verdict is Verdict.POISON:
            return runs
        assert verdict is Verdict.RUN
    raise AssertionError("it is never poison")


async def counters(desk: Desk) -> list[str]:
    """The fields that count runs."""
    return [name.decode() for name in await desk.call("HKEYS", desk.work()) if name.startswith(b"b:")]


@pytest.mark.parametrize("undoable", [True, False])
async def test_a_step_that_begins_and_never_ends(desk: Desk, undoable: bool) -> None:
    """It begins so many times, the first one included; then it is poison, each time it is delivered."""
    worker, delivery = await placed(desk)
    assert await worker.verdict(begin(worker.head(delivery), delivery, undoable=undoable)) is Verdict.RUN

    def ask(taken: Delivery) -> Decision:
        return begin(worker.head(taken), taken, undoable=undoable)

    assert await runs_left(worker, delivery, ask) == MAX_DELIVERIES - 1
    last = await worker.claim(delivery)
    before = await desk.dump()
    assert await worker.verdict(ask(last)) is Verdict.POISON
    assert await desk.dump() == before


async def test_an_undo_that_begins_and_never_ends(desk: Desk) -> None:
    """It is counted as steps are; what it needs comes with the answer, for the letter."""
    worker, request = await asked(desk)
    assert await worker.verdict(begin_undo(worker.undo_head(request))) is Verdict.RUN
    assert await runs_left(worker, request, lambda each: begin_undo(worker.undo_head(each))) == MAX_DELIVERIES - 1
    taken = await worker.claim(request)
    (answer,) = await worker.decide(begin_undo(worker.undo_head(taken)))
    assert (answer.verdict, answer.rest[1:]) == (Verdict.POISON, (b"input", b"result"))


async def test_a_join_that_begins_and_never_ends(desk: Desk) -> None:
    """It is counted from the event on that fires it; both events come with the answer."""
    await desk.publish("e1", "Paid")
    await desk.publish("e2", "Reserved")
    worker = await desk.worker("shipping")
    first, second = await worker.read(2)

    def ask(taken: Delivery) -> Decision:
        return begin(worker.head(taken), taken, joins=JOINS)

    for _ in range(MAX_DELIVERIES):
        first = await worker.claim(first)
    assert await worker.verdict(ask(first)) is Verdict.WAITING
    assert await counters(desk) == []
    assert await worker.verdict(ask(second)) is Verdict.RUN
    assert await runs_left(worker, second, ask) == MAX_DELIVERIES - 1
    (answer,) = await worker.decide(ask(await worker.claim(second)))
    assert (answer.verdict, answer.rest[1:]) == (Verdict.POISON, (b"e1", b"e2"))


async def test_deliveries_that_begin_nothing(desk: Desk) -> None:
    """Workers that lose their leases to each other before they begin do not make an event poison."""
    worker, delivery = await placed(desk)
    for _ in range(10 * MAX_DELIVERIES):
        delivery = await worker.claim(delivery)
    assert await worker.verdict(begin(worker.head(delivery), delivery)) is Verdict.RUN


async def test_undos_that_are_delivered_and_do_not_begin(desk: Desk) -> None:
    """Nor an undo."""
    worker, request = await asked(desk)
    for _ in range(10 * MAX_DELIVERIES):
        request = await worker.claim(request)
    assert await worker.verdict(begin_undo(worker.undo_head(request))) is Verdict.RUN


async def test_a_begin_whose_answer_was_lost(desk: Desk) -> None:
    """It is sent again, and counts once, also if another begin of the same event came between."""
    worker, delivery = await placed(desk)
    await desk.publish("e1")
    twin = await worker.claim(await worker.read_one())
    delivery = await worker.claim(delivery)
    batch = begin(worker.head(delivery), delivery), begin(worker.head(twin), twin)
    for _ in range(MAX_DELIVERIES):
        assert await worker.verdicts(*batch) == [Verdict.RUN, Verdict.RUN]
    # The two count as two of those that may begin; and a first one, of which nobody knows.
    left = await runs_left(worker, delivery, lambda each: begin(worker.head(each), each))
    assert left == MAX_DELIVERIES - 3


@pytest.mark.parametrize("lose", ["claimed", "acknowledged"])
async def test_a_begin_that_comes_too_late(desk: Desk, lose: str) -> None:
    """A worker that has lost a delivery which came again does not begin it, and does not count."""
    worker, delivery = await placed(desk)
    delivery = await worker.claim(delivery)
    if lose == "claimed":
        await (await worker.peer("two")).claim(delivery)
    else:
        await desk.call("XACK", delivery.stream, worker.name, delivery.entry)
    before = await desk.dump()
    assert await worker.verdict(begin(worker.head(delivery), delivery)) is Verdict.STALE
    assert await desk.dump() == before


async def test_an_undo_that_begins_too_late(desk: Desk) -> None:
    """The same for an undo."""
    worker, request = await asked(desk)
    request = await worker.claim(request)
    await (await worker.peer("two")).claim(request)
    before = await desk.dump()
    assert await worker.verdict(begin_undo(worker.undo_head(request))) is Verdict.STALE
    assert await desk.dump() == before


@pytest.mark.parametrize("outcome", [done, aborted, dead, retry, parked])
async def test_nothing_is_left_of_a_count(desk: Desk, outcome: Callable[..., Decision]) -> None:
    """Whatever the step came to, its runs are not counted any more. A further attempt counts anew."""
    worker, delivery = await placed(desk)
    delivery = await worker.claim(delivery)
    head = worker.head(delivery)
    assert await worker.verdict(begin(head, delivery)) is Verdict.RUN
    assert await counters(desk) == ["b:payments/charge:e1"]
    assert await worker.verdict(outcome(head, delivery)) is Verdict.COMMITTED
    assert await counters(desk) == []


@pytest.mark.parametrize("outcome", [undone, stuck, retry_undo])
async def test_nothing_is_left_of_an_undos_count(desk: Desk, outcome: Callable[..., Decision]) -> None:
    """The same for an undo."""
    worker, request = await asked(desk)
    request = await worker.claim(request)
    undo = worker.undo_head(request)
    assert await worker.verdict(begin_undo(undo)) is Verdict.RUN
    assert await counters(desk) == ["b:undo:payments/charge:e1"]
    assert await worker.verdict(outcome(undo)) is Verdict.COMMITTED
    assert await counters(desk) == []


async def compensated(desk: Desk) -> None:
    await desk.broker.sagas.compensate("s1", 1, "token", "why", "who")


async def completed(desk: Desk) -> None:
    other = await desk.worker("shipping")
    delivery = await other.read_one()
    head = other.head(delivery)
    assert await other.verdict(done(head, delivery, desk.emit("out", ends="c1"))) is Verdict.COMMITTED


@pytest.mark.parametrize(("end", "verdict"), [(compensated, Verdict.LATE), (completed, Verdict.COMMITTED)])
async def test_a_saga_that_ends_while_a_step_runs(
    desk: Desk, end: Callable[[Desk], Awaitable[None]], verdict: Verdict
) -> None:
    """The step is counted until it is decided about; then nothing is left."""
    worker, delivery = await placed(desk)
    delivery = await worker.claim(delivery)
    head = worker.head(delivery)
    assert await worker.verdict(begin(head, delivery, undoable=False)) is Verdict.RUN
    await end(desk)
    assert await counters(desk) == ["b:payments/charge:e1"]
    assert await worker.verdict(done(head, delivery, keep=False)) is verdict
    assert await desk.call("EXISTS", desk.work()) == 0
