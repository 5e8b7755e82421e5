"""Two deliveries of one event: one begins, the other waits for it; and what either has done is undone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import pytest
from gate_kit import Desk, Worker, aborted, begin, begin_undo, dead, done, doubtful, undone

from choreo.broker.answers import Verdict
from choreo.broker.gate import Decision, Failed, Head, Letter, Parking, RetryStep
from choreo.broker.groups import Delivery
from choreo.broker.letters import OrderSlip
from choreo.wire.envelope import Reason

pytestmark = pytest.mark.anyio

JOINS = ("Paid", "Reserved")
LINE = "payments/charge:e1"

Twice: TypeAlias = Callable[[Desk], Awaitable[tuple[Worker, Delivery, Worker, Delivery]]]


async def sent_twice(desk: Desk) -> tuple[Worker, Delivery, Worker, Delivery]:
    """A producer sent one event twice, and two workers have it in hand."""
    await desk.publish("e1")
    await desk.publish("e1")
    one, two = await desk.worker("payments"), await desk.worker("payments", "two")
    return one, await one.read_one(), two, await two.read_one()


async def sent_twice_to_one(desk: Desk) -> tuple[Worker, Delivery, Worker, Delivery]:
    """A producer sent one event twice, and one worker has both."""
    await desk.publish("e1")
    await desk.publish("e1")
    one = await desk.worker("payments")
    first, second = await one.read(2)
    return one, first, one, second


async def delivered_anew(desk: Desk) -> tuple[Worker, Delivery, Worker, Delivery]:
    """A worker has an event in hand, its group is set back, and another worker gets the same entry."""
    await desk.publish("e1")
    one, two = await desk.worker("payments"), await desk.worker("payments", "two")
    first = await one.read_one()
    await desk.call("XGROUP", "SETID", first.stream, "payments", "0")
    return one, first, two, await two.read_one()


async def delivered_anew_to_the_same(desk: Desk) -> tuple[Worker, Delivery, Worker, Delivery]:
    """As before, but it is the same worker that gets the entry again."""
    await desk.publish("e1")
    one = await desk.worker("payments")
    first = await one.read_one()
    await desk.call("XGROUP", "SETID", first.stream, "payments", "0")
    return one, first, one, await one.read_one()


TWICE = pytest.mark.parametrize(
    "twice", [sent_twice, sent_twice_to_one, delivered_anew, delivered_anew_to_the_same]
)


def retry(head: Head) -> RetryStep:
    """An attempt failed, and another one is to follow."""
    return RetryStep(head, Parking(head.began + 1000, b"attempt", "boom", ""), keep=True, input=b"input")


def parked(head: Head) -> Failed:
    """A step failed for good, and its saga waits for an operator."""
    letter = Letter.of(
        "letter", Reason.STEP_FAILED, subject=head.saga_id, participant="payments", step=head.step, id=head.event
    )  # fmt: skip
    return Failed(head, "parked", "boom", letter, keep=True, input=b"input")


async def unwind(desk: Desk) -> None:
    await desk.broker.sagas.compensate("s1", 1, "token", "why", "who")


async def undo_all(worker: Worker) -> list[tuple[bytes, bytes]]:
    """Undo whatever the worker is asked to. Returns what it was told of each: input and result."""
    told = []
    for request in await worker.requests():
        undo = worker.undo_head(request)
        (answer,) = await worker.decide(begin_undo(undo))
        assert answer.verdict is Verdict.RUN
        told.append((answer.rest[1], answer.rest[2]))
        assert await worker.verdict(undone(undo)) is Verdict.COMMITTED
    return told


async def row(desk: Desk) -> str | None:
    """The ledger's row of the step."""
    text = await desk.call("HGET", desk.work(), f"e:{LINE}")
    return text.decode() if text else None


# -- who begins ----------------------------------------------------------------------------------------


@TWICE
async def test_one_of_two_begins(desk: Desk, twice: Twice) -> None:
    """The other is told that the event is in hand. It stays pending, and nothing is written for it."""
    one, first, two, second = await twice(desk)
    assert await one.verdict(begin(one.head(first), first)) is Verdict.RUN
    before = await desk.dump()
    assert await two.verdict(begin(two.head(second), second)) is Verdict.BUSY
    assert await desk.dump() == before
    assert second.entry in [entry for entry, _, _ in await two.pending()]


async def test_two_that_ask_at_once(desk: Desk) -> None:
    """Of two in one batch it is the first."""
    one, first, _, second = await sent_twice_to_one(desk)
    batch = [begin(one.head(each), each) for each in (first, second)]
    assert await one.verdicts(*batch) == [Verdict.RUN, Verdict.BUSY]


@TWICE
async def test_who_has_begun_may_ask_again(desk: Desk, twice: Twice) -> None:
    """Its answer may have been lost; so may that of who was told to wait."""
    one, first, two, second = await twice(desk)
    question, other = begin(one.head(first), first), begin(two.head(second), second)
    for _ in range(2):
        assert await one.verdict(question) is Verdict.RUN
        assert await two.verdict(other) is Verdict.BUSY


@pytest.mark.parametrize("outcome", [done, aborted, dead, doubtful])
async def test_who_waited_learns_that_it_was_done(desk: Desk, outcome: Callable[..., Decision]) -> None:
    """Whatever became of the one, the other is a duplicate when its lease has run out."""
    one, first, two, second = await sent_twice(desk)
    head = one.head(first)
    assert await one.verdict(begin(head, first)) is Verdict.RUN
    assert await two.verdict(begin(two.head(second), second)) is Verdict.BUSY
    assert await one.verdict(outcome(head, first)) is Verdict.COMMITTED
    second = await two.claim(second)
    assert await two.verdict(begin(two.head(second), second)) is Verdict.DUPLICATE
    assert await two.pending() == []


async def test_who_waited_for_an_attempt_that_failed(desk: Desk) -> None:
    """The next attempt is parked: it begins when it is due, and the other is a duplicate."""
    one, first, two, second = await sent_twice(desk)
    head = one.head(first)
    assert await one.verdict(begin(head, first)) is Verdict.RUN
    assert await two.verdict(begin(two.head(second), second)) is Verdict.BUSY
    assert await one.verdict(retry(head)) is Verdict.COMMITTED
    second = await two.claim(second)
    assert await two.verdict(begin(two.head(second), second)) is Verdict.DUPLICATE
    assert (await desk.broker.timers.move_due(head.began + 1000)).count == 1
    (due,) = await two._read(desk.inbox("payments"), 1)
    later = Head(0, due.stream, due.entry, 1, "s1", "order", "charge", "e1", "Placed", "later", attempt=2)
    assert await two.verdict(begin(later, due)) is Verdict.RUN
    assert await two.verdict(done(later, due)) is Verdict.COMMITTED


async def test_who_waited_for_somebody_who_died(desk: Desk) -> None:
    """After a lease nobody waits any more: whoever comes first begins, and so does the other."""
    one, first, two, second = await sent_twice(desk)
    assert await one.verdict(begin(one.head(first), first)) is Verdict.RUN
    second, _ = await two.begin_beside(second)
    first, head = await one.begin_beside(await one.claim(first))
    assert await one.verdict(done(head, first)) is Verdict.COMMITTED


async def test_who_waited_for_an_entry_that_was_lost(real_desk: Desk) -> None:
    """The entry of who had begun is deleted, and it died: the other handles the event."""
    desk = real_desk
    one, first, two, second = await sent_twice(desk)
    assert await one.verdict(begin(one.head(first), first)) is Verdict.RUN
    assert await two.verdict(begin(two.head(second), second)) is Verdict.BUSY
    await desk.call("XDEL", first.stream, first.entry)
    assert await two.claim_if_pending(first) is None
    assert await desk.letters() == ["entry-lost"]
    second, head = await two.begin_beside(await two.claim(second))
    assert await two.verdict(done(head, second)) is Verdict.COMMITTED


async def test_a_step_without_an_undo(desk: Desk) -> None:
    """Nothing of it would be undone, and so nobody waits."""
    one, first, two, second = await sent_twice(desk)
    assert await one.verdict(begin(one.head(first), first, undoable=False)) is Verdict.RUN
    assert await two.verdict(begin(two.head(second), second, undoable=False)) is Verdict.RUN


async def test_a_step_of_the_way_back(desk: Desk) -> None:
    """Nor does anybody on the way back, which is not undone."""
    await desk.publish("e1", phase="back")
    await desk.publish("e1", phase="back")
    worker = await desk.worker("payments")
    first, second = await worker.read(2)
    assert (
        await worker.verdicts(*[begin(worker.head(each), each) for each in (first, second)])
        == [Verdict.RUN] * 2
    )


async def test_the_last_event_of_a_join(desk: Desk) -> None:
    """One of two deliveries fires it and begins; the other gets the same events when it comes again."""
    for event, type in [("e1", "Paid"), ("e2", "Reserved"), ("e2", "Reserved")]:
        await desk.publish(event, type)
    worker = await desk.worker("shipping")
    part, first, second = await worker.read(3)
    assert await worker.verdict(begin(worker.head(part), part, joins=JOINS)) is Verdict.WAITING
    batch = [begin(worker.head(each), each, joins=JOINS) for each in (first, second)]
    assert await worker.verdicts(*batch) == [Verdict.RUN, Verdict.BUSY]
    second = await worker.claim(second)
    (answer,) = await worker.decide(begin(worker.head(second), second, joins=JOINS))
    assert (answer.verdict, answer.rest[1:]) == (Verdict.RUN, (b"e1", b"e2"))


# -- what either has done ------------------------------------------------------------------------------


@TWICE
@pytest.mark.parametrize("aborting", [0, 1], ids=["the-first-aborts", "the-second-aborts"])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["in-order", "in-reverse"])
async def test_one_aborts_and_the_other_takes_effect(
    desk: Desk, twice: Twice, aborting: int, order: tuple[int, int]
) -> None:
    """Both have the event in hand at once. Whoever commits first, an effect is undone when the saga unwinds."""
    one, first, two, second = await twice(desk)
    hands, effects, left = [(one, first), (two, second)], 0, []
    begun: dict[int, Head] = {}
    for number, (worker, delivery) in enumerate(hands):
        head = worker.head(delivery)
        if await worker.verdict(begin(head, delivery)) is Verdict.RUN:
            begun[number] = head
        else:
            left.append(number)
    for number in order:
        if number in begun:
            worker, delivery = hands[number]
            effects += number != aborting
            await worker.verdict((aborted if number == aborting else done)(begun[number], delivery))
    for number in left:
        worker, delivery = hands[number]
        taken = await worker.claim_if_pending(delivery)
        head = worker.head(taken) if taken else None
        if taken and head and await worker.verdict(begin(head, taken)) is Verdict.RUN:
            effects += number != aborting
            await worker.verdict((aborted if number == aborting else done)(head, taken))
    if await desk.state() == "running":
        await unwind(desk)
    assert len(await undo_all(two)) == min(effects, 1)
    assert await desk.state() == "compensated"
    assert await two.pending() == []


async def test_an_effect_of_who_died_before_the_other_came(desk: Desk) -> None:
    """A worker has its effect and dies. The event comes again, by its other entry, and aborts."""
    one, first, two, second = await sent_twice(desk)
    assert await one.verdict(begin(one.head(first), first)) is Verdict.RUN
    second, head = await two.begin_beside(second)
    assert await two.verdict(aborted(head, second)) is Verdict.COMMITTED
    assert await undo_all(two) == [(b"input", b"")]
    assert await desk.state() == "compensated"


async def test_who_takes_longer_than_a_lease_aborts(desk: Desk) -> None:
    """It renews its lease. The other has begun beside it meanwhile, and may have taken effect."""
    one, first, two, second = await sent_twice(desk)
    head = one.head(first)
    assert await one.verdict(begin(head, first)) is Verdict.RUN
    second, other = await two.begin_beside(second)
    assert await one.verdict(aborted(head, first)) is Verdict.COMMITTED
    assert await two.verdict(done(other, second)) is Verdict.DUPLICATE
    assert await undo_all(two) == [(b"input", b"")]
    assert await desk.state() == "compensated"


async def test_a_replayed_step_aborts(desk: Desk) -> None:
    """Before it was parked it may have taken effect."""
    await desk.publish("e1")
    worker = await desk.worker("payments")
    delivery = await worker.read_one()
    head = worker.head(delivery)
    assert await worker.verdicts(begin(head, delivery), parked(head)) == [Verdict.RUN, Verdict.COMMITTED]
    (letter,) = await desk.broker.letters.listed(lambda each: True, limit=10)
    answer = await desk.broker.letters.replay(letter, OrderSlip(1, "token", "ann"), b"attempt", [])
    assert answer.word == "replayed"
    (again,) = await worker.requests()
    head = Head(0, again.stream, again.entry, 1, "s1", "order", "charge", "e1", "Placed", "again")
    assert await worker.verdict(begin(head, again)) is Verdict.RUN
    assert await worker.verdict(aborted(head, again)) is Verdict.COMMITTED
    assert await undo_all(worker) == [(b"input", b"")]
    assert await desk.state() == "compensated"


# -- in a saga that unwinds ----------------------------------------------------------------------------


async def test_the_saga_unwinds_while_one_runs(desk: Desk) -> None:
    """The other does not settle what it knows nothing of: the undo gets the result of who has begun."""
    one, first, two, second = await sent_twice(desk)
    head = one.head(first)
    assert await one.verdict(begin(head, first)) is Verdict.RUN
    await unwind(desk)
    assert await two.verdict(begin(two.head(second), second)) is Verdict.BUSY
    assert await desk.state() == "compensating"
    assert await one.verdict(done(head, first)) is Verdict.LATE
    assert await undo_all(one) == [(b"input", b"result")]
    second = await two.claim(second)
    assert await two.verdict(begin(two.head(second), second)) is Verdict.DUPLICATE
    assert await desk.state() == "compensated"


async def test_the_saga_unwinds_and_who_had_begun_is_dead(desk: Desk) -> None:
    """After a lease the other says that the step may have taken effect."""
    one, first, two, second = await sent_twice(desk)
    assert await one.verdict(begin(one.head(first), first)) is Verdict.RUN
    await unwind(desk)
    assert await two.verdict(begin(two.head(second), second)) is Verdict.BUSY
    second = await two.claim(second)
    head = two.head(second)
    assert await two.verdict(begin(head, second)) is Verdict.DOUBT
    assert await two.verdict(doubtful(head, second)) is Verdict.LATE
    assert await undo_all(two) == [(b"input", b"")]
    assert await desk.state() == "compensated"


async def test_who_has_begun_asks_again_when_the_saga_unwinds(desk: Desk) -> None:
    """It need not wait for itself."""
    one, first, _, _ = await sent_twice(desk)
    question = begin(one.head(first), first)
    assert await one.verdict(question) is Verdict.RUN
    await unwind(desk)
    assert await one.verdict(question) is Verdict.DOUBT


# -- the ledger ----------------------------------------------------------------------------------------


async def test_the_ledger_says_who_began(desk: Desk) -> None:
    """As long as the step is open; when it is done it does not matter any more."""
    await desk.publish("e1")
    worker = await desk.worker("payments")
    delivery = await worker.read_one()
    head = worker.head(delivery, token="mine")
    assert await worker.verdict(begin(head, delivery)) is Verdict.RUN
    assert await row(desk) == "Smine 0 "
    assert await worker.verdict(done(head, delivery)) is Verdict.COMMITTED
    assert await row(desk) == "D 0 "
