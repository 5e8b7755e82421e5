"""Nothing stays behind that holds a saga open, or keeps it for ever: rows, attempts that failed, deliveries."""

from __future__ import annotations

import pytest
from gate_kit import Desk, Worker, aborted, begin, begin_undo, done, undone

from choreo.broker.answers import Verdict
from choreo.broker.gate import Failed, Head, Letter, Parking, RetryStep
from choreo.broker.groups import Delivery
from choreo.broker.letters import OrderSlip
from choreo.wire.envelope import Reason

pytestmark = pytest.mark.anyio


def retry(head: Head, *, keep: bool = True) -> RetryStep:
    """An attempt failed, and another one is to follow."""
    parking = Parking(due=head.began + 1000, payload=b"attempt", note="boom", detail="Traceback")
    return RetryStep(head, parking, keep=keep, input=b"input")


def failed(head: Head, kind: str = "parked", participant: str = "payments") -> Failed:
    """A step failed for good; ``kind`` says what that does to its saga."""
    reason = Reason.STEP_FAILED
    letter = Letter.of(
        f"letter:{head.event}", reason, subject=head.saga_id, participant=participant, step=head.step, id=head.event
    )  # fmt: skip
    return Failed(head, kind, "boom", letter, keep=True, input=b"input")


async def begun(desk: Desk, event: str = "e1", **attributes: str) -> tuple[Worker, Delivery, Head]:
    """A worker that has begun a step."""
    await desk.publish(event, **attributes)
    worker = await desk.worker("payments")
    delivery = await worker.read_one()
    head = worker.head(delivery)
    assert await worker.verdict(begin(head, delivery)) is Verdict.RUN
    return worker, delivery, head


async def fields_of_work(desk: Desk) -> set[str]:
    """The fields of a saga's work."""
    return {name.decode() for name in await desk.call("HKEYS", desk.work())}


async def test_a_step_of_the_way_back_in_a_saga_that_runs(desk: Desk) -> None:
    """Any program may publish an event of the way back: a step that handles it opens nothing to be undone."""
    worker, delivery, head = await begun(desk, phase="back")
    assert await worker.verdict(done(head, delivery)) is Verdict.COMMITTED
    await desk.broker.sagas.compensate("s1", 1, "token", "why", "who")
    assert await desk.state() == "compensated"
    assert await fields_of_work(desk) == set()


async def test_a_step_that_has_lost_its_undo_fails_in_a_saga_that_unwinds(desk: Desk) -> None:
    """Its ledger entry, which an older version of the participant made, is not open for ever."""
    worker, _, head = await begun(desk)
    await desk.broker.sagas.compensate("s1", 1, "token", "why", "who")
    assert await worker.verdict(retry(head, keep=False)) is Verdict.LATE
    request = await worker.request()
    undo = worker.undo_head(request)
    (answer,) = await worker.decide(begin_undo(undo))
    assert (answer.verdict, answer.rest[1]) == (Verdict.RUN, b"input")
    assert await worker.verdict(undone(undo)) is Verdict.COMMITTED
    assert await desk.state() == "compensated"


async def test_an_attempt_that_failed_beside_one_that_succeeded(desk: Desk) -> None:
    """A producer sent an event twice: one attempt failed and is to be repeated, the other one has succeeded.
    Then there is no attempt to come any more.
    """
    worker, _, head = await begun(desk)
    await desk.publish("e1")
    again, second = await worker.begin_beside(await worker.read_one())
    assert await worker.verdict(retry(head)) is Verdict.COMMITTED
    assert "a:payments/charge:e1" in await fields_of_work(desk)
    assert await worker.verdict(done(second, again)) is Verdict.COMMITTED
    assert "a:payments/charge:e1" not in await fields_of_work(desk)


async def test_a_parked_step_whose_event_came_twice_and_succeeded(desk: Desk) -> None:
    """It is not replayed: it would be committed a second time."""
    worker, _, head = await begun(desk)
    await desk.publish("e1")
    again, second = await worker.begin_beside(await worker.read_one())
    assert await worker.verdict(failed(head)) is Verdict.COMMITTED
    assert await worker.verdict(done(second, again, desk.emit("out"))) is Verdict.COMMITTED
    (letter,) = await desk.broker.letters.listed(lambda each: True, limit=10)
    answer = await desk.broker.letters.replay(letter, OrderSlip(1, "token", "ann"), b"attempt", [])
    assert answer.word == "refused"
    assert await worker.requests() == []
    assert await desk.emitted() == ["out"]


async def test_a_parked_step_whose_letter_is_dropped(desk: Desk) -> None:
    """It is settled: it does not run when its event comes again, and nothing holds its saga when that ends."""
    worker, _, head = await begun(desk)
    assert await worker.verdict(failed(head)) is Verdict.COMMITTED
    (letter,) = await desk.broker.letters.listed(lambda each: True, limit=10)
    assert (await desk.broker.letters.drop(letter, OrderSlip(1, "token", "ann"))).word == "dropped"
    assert await desk.state() == "running"
    await desk.publish("e1")
    again = await worker.read_one()
    assert await worker.verdict(begin(worker.head(again), again)) is Verdict.DUPLICATE
    await desk.broker.sagas.compensate("s1", 1, "token", "why", "who")
    undo = worker.undo_head(await worker.request())
    assert await worker.verdict(undone(undo)) is Verdict.COMMITTED
    assert await fields_of_work(desk) == set()


async def test_a_replayed_step_is_known_to_come(desk: Desk) -> None:
    """From the replay until its step has an end a saga that has ended says that it must not be forgotten."""
    audit = await desk.worker("audit")
    worker, delivery, head = await begun(desk)
    assert await worker.verdict(done(head, delivery, desk.emit("out", ends="c1"))) is Verdict.COMMITTED
    assert await desk.state() == "completed"
    delivery = await audit.read_one()
    head = audit.head(delivery)
    assert await audit.verdict(failed(head, "dead", "audit")) is Verdict.CLOSED
    (letter,) = await desk.broker.letters.listed(lambda each: True, limit=10)
    answer = await desk.broker.letters.replay(letter, OrderSlip(1, "token", "ann"), b"attempt", [])
    assert answer.word == "replayed"
    assert await fields_of_work(desk) == {"a:audit/charge:e1"}
    await desk.publish("e1")
    again = await audit.read_one()
    head = audit.head(again)
    assert await audit.verdict(begin(head, again, undoable=False)) is Verdict.RUN
    assert await audit.verdict(done(head, again)) is Verdict.COMMITTED
    assert await fields_of_work(desk) == set()


async def test_an_entry_that_is_deleted_while_its_step_runs(real_desk: Desk) -> None:
    """Renewing its lease does not take it out of the worker's hands: what the step did is committed."""
    desk = real_desk
    worker, delivery, head = await begun(desk)
    assert await desk.call("XDEL", delivery.stream, delivery.entry) == 1
    assert await desk.broker.leases.renew(worker.identity, {delivery.stream: [delivery.entry]}) == set()
    assert await worker.verdict(done(head, delivery, desk.emit("out"))) is Verdict.COMMITTED
    assert await desk.emitted() == ["out"]


async def test_an_entry_that_is_deleted_and_handed_over(real_desk: Desk) -> None:
    """It becomes a dead letter when somebody takes it over, and is not lost in silence."""
    desk = real_desk
    worker, delivery, _ = await begun(desk)
    await desk.call("XDEL", delivery.stream, delivery.entry)
    assert await desk.broker.leases.leave(worker.identity, [delivery.stream]) == 1
    assert len(await worker.pending()) == 1
    heir = await worker.peer("two")
    assert await heir.claim_if_pending(delivery) is None
    assert await desk.letters() == ["entry-lost"]
    assert await worker.pending() == []


async def test_an_entry_that_is_done_with_and_trimmed_is_not_lost(desk: Desk) -> None:
    """Who looked at it before, when its lease had run out, comes too late to take it over; that is all."""
    worker, delivery, head = await begun(desk)
    assert await worker.verdict(done(head, delivery)) is Verdict.COMMITTED
    assert await desk.call("XTRIM", delivery.stream, "MAXLEN", 0) == 1
    heir = await worker.peer("two")
    assert await heir.claim_if_pending(delivery) is None
    assert await desk.letters() == []


async def test_a_step_that_aborts_after_its_saga_did(desk: Desk) -> None:
    """With nothing to undo its entry is dropped, and the saga has an end."""
    worker, delivery, head = await begun(desk)
    await desk.broker.sagas.compensate("s1", 1, "token", "why", "who")
    assert await worker.verdict(aborted(head, delivery)) is Verdict.LATE
    assert await desk.state() == "compensated"
    assert await fields_of_work(desk) == set()
