"""A key in the way has the wrong type: the gate refuses whole, and goes on when the key is gone."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from gate_kit import (
    Desk,
    Worker,
    aborted,
    begin,
    begin_undo,
    dead,
    done,
    doubtful,
    stuck,
    undone,
)

from choreo.broker.answers import Verdict
from choreo.broker.gate import Decision, Head
from choreo.broker.groups import Delivery
from choreo.errors import BrokerRefused
from choreo.wire.envelope import Envelope

pytestmark = pytest.mark.anyio

#: No stream takes an entry behind this one.
LAST_ID = "18446744073709551615-18446744073709551615"


@asynccontextmanager
async def in_the_way(desk: Desk, key: str) -> AsyncIterator[None]:
    """Something else has taken ``key``; what was there comes back afterwards."""
    aside = f"{key}:aside"
    had = await desk.call("EXISTS", key)
    if had:
        await desk.call("RENAME", key, aside)
    await desk.call("SET", key, "not ours")
    yield
    assert await desk.call("GET", key) == b"not ours"
    await desk.call("DEL", key)
    if had:
        await desk.call("RENAME", aside, key)


@dataclass
class Case:
    """A decision that is about to be made."""

    worker: Worker
    decision: Decision
    expected: Verdict


async def _begun(desk: Desk) -> tuple[Worker, Delivery, Head]:
    await desk.publish("e1")
    worker = await desk.worker("payments")
    delivery = await worker.read_one()
    head = worker.head(delivery)
    assert await worker.verdict(begin(head, delivery)) is Verdict.RUN
    return worker, delivery, head


async def first_begin(desk: Desk) -> Case:
    """The first step of a saga, which has no record yet, is about to begin."""
    await desk.publish("e1")
    worker = await desk.worker("payments")
    delivery = await worker.read_one()
    return Case(worker, begin(worker.head(delivery), delivery), Verdict.RUN)


async def begin_join(desk: Desk) -> Case:
    """A join is about to get its first event."""
    await desk.publish("e1", "Paid")
    worker = await desk.worker("payments")
    delivery = await worker.read_one()
    ask = begin(worker.head(delivery), delivery, joins=("Paid", "Reserved"))
    return Case(worker, ask, Verdict.WAITING)


async def begin_skip(desk: Desk) -> Case:
    """A step of a saga that unwinds is about to be skipped."""
    worker, delivery, head = await _begun(desk)
    await desk.publish("e2")
    late = await worker.read_one()
    assert await worker.verdict(aborted(head, delivery)) is Verdict.COMMITTED
    return Case(worker, begin(worker.head(late), late), Verdict.LATE)


async def commit(desk: Desk) -> Case:
    """A step is about to emit two events."""
    worker, delivery, head = await _begun(desk)
    out = desk.emit("out"), desk.emit("more", stream="others")
    return Case(worker, done(head, delivery, *out), Verdict.COMMITTED)


async def commit_quiet(desk: Desk) -> Case:
    """A step that emits nothing is about to commit."""
    worker, delivery, head = await _begun(desk)
    return Case(worker, done(head, delivery), Verdict.COMMITTED)


async def commit_late(desk: Desk) -> Case:
    """A step is about to commit in a saga that unwinds: its own undo will be asked for."""
    worker, delivery, head = await _begun(desk)
    await desk.broker.sagas.compensate("s1", 1, "token", "why", "who")
    return Case(worker, done(head, delivery, desk.emit("out")), Verdict.LATE)


async def _with_effect_of_stock(desk: Desk) -> tuple[Worker, Delivery, Head]:
    """Participant ``stock`` has an effect in the saga; ``payments`` has begun."""
    stock = await desk.worker("stock")
    begun = await _begun(desk)
    answer = await stock.run(await stock.read_one(), desk.emit("reserved", "Reserved"), step="reserve")
    assert answer.verdict is Verdict.COMMITTED
    return begun


async def abort_by_event(desk: Desk) -> Case:
    """A step is about to emit an event that aborts the saga; ``stock`` will be asked to undo."""
    worker, delivery, head = await _with_effect_of_stock(desk)
    decline = done(head, delivery, desk.emit("out", "Declined", ends="a"), keep=False)
    return Case(worker, decline, Verdict.COMMITTED)


async def abort_by_handler(desk: Desk) -> Case:
    """A step has raised Abort; ``stock`` will be asked to undo."""
    worker, delivery, head = await _with_effect_of_stock(desk)
    return Case(worker, aborted(head, delivery), Verdict.COMMITTED)


async def abort_by_error(desk: Desk) -> Case:
    """A step has failed for good; ``stock`` will be asked to undo."""
    worker, delivery, head = await _with_effect_of_stock(desk)
    return Case(worker, dead(head, delivery), Verdict.COMMITTED)


async def _undoing(desk: Desk, outcome: Callable[[Head], Decision]) -> Case:
    """``payments`` undoes what ``stock``'s effect had caused, so ``stock`` is asked next."""
    await desk.publish("e1")
    stock, payments = await desk.worker("stock"), await desk.worker("payments")
    await stock.run(await stock.read_one(), step="reserve")
    await desk.publish("e2", ledger="stock/reserve:e1")
    _, second = await payments.read(2)
    await payments.run(second)
    await desk.broker.sagas.compensate("s1", 1, "token", "why", "who")
    head = payments.undo_head(await payments.request())
    assert await payments.verdict(begin_undo(head)) is Verdict.RUN
    assert await stock.requests() == []
    return Case(payments, outcome(head), Verdict.COMMITTED)


async def undo_commit(desk: Desk) -> Case:
    """An undo is about to commit; ``stock`` will be asked next."""
    return await _undoing(desk, lambda head: undone(head, desk.emit("refunded", "Refunded")))


async def undo_fails(desk: Desk) -> Case:
    """An undo has failed for good; ``stock`` will be asked next."""
    return await _undoing(desk, stuck)


async def undo_begins(desk: Desk) -> Case:
    """An undo is about to begin."""
    worker, delivery, head = await _begun(desk)
    await worker.verdict(done(head, delivery, desk.emit("out", "Refused", ends="a")))
    return Case(worker, begin_undo(worker.undo_head(await worker.request())), Verdict.RUN)


WITH_JOURNAL = (begin_join, begin_skip, commit, commit_quiet, commit_late, abort_by_event, abort_by_handler,
                abort_by_error, undo_commit, undo_fails)  # fmt: skip
ALL = (first_begin, undo_begins, *WITH_JOURNAL)
TARGETS: dict[str, tuple[Callable[[Desk], str], tuple[Callable[[Desk], Awaitable[Case]], ...]]] = {
    "record": (Desk.record, ALL),
    "work": (Desk.work, ALL),
    "journal": (lambda desk: desk.keys.journal(0), WITH_JOURNAL),
    "stream": (lambda desk: desk.stream("results"), (commit, abort_by_event, undo_commit)),
    "second-stream": (lambda desk: desk.stream("others"), (commit,)),
    "own-inbox": (lambda desk: desk.inbox("payments"), (commit_late, abort_by_error)),
    "inbox-of-another": (
        lambda desk: desk.inbox("stock"),
        (abort_by_event, abort_by_handler, abort_by_error, undo_commit, undo_fails),
    ),
    "dead": (lambda desk: desk.keys.dead(0), (abort_by_error, undo_fails)),
    "letters": (lambda desk: desk.keys.letters(0), (abort_by_error, undo_fails)),
}
CASES = [
    pytest.param(case, key, id=f"{name}-{case.__name__}")
    for name, (key, cases) in TARGETS.items()
    for case in cases
]


@pytest.mark.parametrize(("prepare", "key_of"), CASES)
async def test_blocked(
    desk: Desk, prepare: Callable[[Desk], Awaitable[Case]], key_of: Callable[[Desk], str]
) -> None:
    """A decision that has to write where something else stands is blocked, names the key, and changes
    nothing: the delivery stays pending. The same decision goes through when the key is gone.
    """
    case = await prepare(desk)
    key = key_of(desk)
    pending = await case.worker.pending() if not key.endswith("inbox:payments") else None
    async with in_the_way(desk, key):
        before = await desk.dump()
        for _ in range(2):
            (answer,) = await case.worker.decide(case.decision)
            assert (answer.verdict, answer.rest) == (Verdict.BLOCKED, (key.encode(),))
        assert await desk.dump() == before
    if pending is not None:
        assert await case.worker.pending() == pending != []
    assert await case.worker.verdict(case.decision) is case.expected


async def test_not_in_the_way(desk: Desk) -> None:
    """A key that the decision need not write is not looked at: a late step's events are withheld."""
    case = await commit_late(desk)
    async with in_the_way(desk, desk.stream("results")):
        assert await case.worker.verdict(case.decision) is Verdict.LATE


@pytest.mark.parametrize(
    ("prepare", "key_of"),
    [
        pytest.param(commit, lambda desk: desk.stream("others"), id="stream"),
        pytest.param(commit_quiet, lambda desk: desk.keys.journal(0), id="journal"),
        pytest.param(abort_by_event, lambda desk: desk.inbox("stock"), id="inbox"),
        pytest.param(undo_fails, lambda desk: desk.keys.dead(0), id="dead"),
    ],
)
async def test_full_stream(
    desk: Desk, prepare: Callable[[Desk], Awaitable[Case]], key_of: Callable[[Desk], str]
) -> None:
    """A stream that takes no more entries, for its last id is the greatest there is, blocks as well."""
    case = await prepare(desk)
    await desk.call("XADD", key_of(desk), LAST_ID, "any", "thing")
    before = await desk.dump()
    (result,) = await desk.broker.gate.decide(case.worker.identity, 1, [(0, [case.decision])])
    assert await desk.dump() == before
    assert not isinstance(result, Exception)
    assert result[0].verdict is Verdict.BLOCKED


async def test_others_of_the_batch_go_on(desk: Desk) -> None:
    """A blocked decision does not hinder the others of its batch."""
    worker, delivery, head = await _begun(desk)
    await desk.publish("e2", saga="s2")
    await desk.publish("e3", saga="s3")
    second, third = await worker.read(2)
    heads = worker.head(second), worker.head(third)
    await worker.verdicts(begin(heads[0], second), begin(heads[1], third))
    async with in_the_way(desk, desk.stream("others")):
        verdicts = await worker.verdicts(
            done(head, delivery, desk.emit("one")),
            done(heads[0], second, desk.emit("two", stream="others")),
            done(heads[1], third, desk.emit("three")),
        )
        assert verdicts == [Verdict.COMMITTED, Verdict.BLOCKED, Verdict.COMMITTED]
        assert await desk.emitted() == ["one", "three"]
        assert [entry for entry, _, _ in await worker.pending()] == [second.entry]


@pytest.mark.parametrize("name", ["record", "work"])
async def test_undo_does_not_hinder_its_batch(desk: Desk, name: str) -> None:
    """An undo that cannot begin is blocked; the others of its batch are answered all the same."""
    case = await undo_begins(desk)
    await desk.publish("e2", saga="s2")
    other = await case.worker.read_one()
    ask = begin(case.worker.head(other), other)
    async with in_the_way(desk, {"record": desk.record(), "work": desk.work()}[name]):
        assert await case.worker.verdicts(case.decision, ask) == [Verdict.BLOCKED, Verdict.RUN]


@pytest.mark.parametrize("name", ["record", "work", "journal", "inbox"])
async def test_compensate_blocked(desk: Desk, name: str) -> None:
    """An operator's order that cannot be written is refused, names the key, and changes nothing."""
    worker, delivery, head = await _begun(desk)
    await worker.verdict(done(head, delivery))
    keys = {"record": desk.record(), "work": desk.work(), "journal": desk.keys.journal(0),
            "inbox": desk.inbox("payments")}  # fmt: skip
    async with in_the_way(desk, keys[name]):
        before = await desk.dump()
        with pytest.raises(BrokerRefused) as refused:
            await desk.broker.sagas.compensate("s1", 1, "token", "why", "who")
        assert await desk.dump() == before
        assert keys[name] in str(refused.value)
    assert await desk.broker.sagas.compensate("s1", 1, "token", "why", "who") == "compensating"


@pytest.mark.parametrize("name", ["record", "stream"])
async def test_start_blocked(desk: Desk, name: str) -> None:
    """A start that cannot be written is refused, names the key, and changes nothing."""
    key = {"record": desk.record(), "stream": desk.stream()}[name]
    first = Envelope("e1", "Placed", "s1", b"{}", time=1, sagatype="order")
    async with in_the_way(desk, key):
        before = await desk.dump()
        with pytest.raises(BrokerRefused) as refused:
            await desk.broker.sagas.start("facts", first)
        assert await desk.dump() == before
        assert key in str(refused.value)
    assert await desk.broker.sagas.start("facts", first) is True


async def test_doubt_blocked(desk: Desk) -> None:
    """A step in doubt whose undo cannot be asked for stays pending."""
    worker, delivery, _ = await _begun(desk)
    await desk.broker.sagas.compensate("s1", 1, "token", "why", "who")
    heir = await worker.peer("two")
    taken = await heir.claim(delivery)
    assert await heir.verdict(begin(heir.head(taken), taken)) is Verdict.DOUBT
    async with in_the_way(desk, desk.inbox("payments")):
        before = await desk.dump()
        assert await heir.verdict(doubtful(heir.head(taken), taken)) is Verdict.BLOCKED
        assert await desk.dump() == before
    assert await heir.verdict(doubtful(heir.head(taken), taken)) is Verdict.LATE
