"""Looks: whether a step may begin that leaves no trace by that."""

from __future__ import annotations

import pytest
from gate_kit import Desk, Worker, done

from choreo.broker.answers import Answer, Verdict
from choreo.broker.gate import Head, Look

pytestmark = pytest.mark.anyio


async def _head(desk: Desk, event: str = "e1", *, saga: str = "s1") -> tuple[Worker, Head]:
    """A delivery that a worker holds."""
    worker = await desk.worker("payments")
    await desk.publish(event, saga=saga)
    return worker, worker.head(await worker.read_one())


@pytest.mark.parametrize("state", ["", "running", "completed"])
async def test_a_saga_that_goes_forward(desk: Desk, state: str) -> None:
    """Its steps run, and learn its type: as its record has it, or else as they believe it to be. Nothing is written."""
    worker, head = await _head(desk)
    if state:
        await desk.call("HSET", desk.record(), "state", state, "seq", "0", "type", "parcel")
    before = await desk.dump()
    assert await worker.decide(Look(head)) == [Answer(Verdict.RUN, (b"parcel" if state else head.saga_type.encode(),))]
    assert await desk.dump() == before


@pytest.mark.parametrize("state", ["compensating", "compensated", "failed", "resolved"])
async def test_a_saga_that_does_not(desk: Desk, state: str) -> None:
    """Then it takes more than a look."""
    worker, head = await _head(desk)
    await desk.call("HSET", desk.record(), "state", state, "seq", "1")
    assert await worker.verdict(Look(head)) is Verdict.ASK


async def test_an_event_that_was_handled(desk: Desk) -> None:
    """Its mark is in the way; not to another participant, and not to another event."""
    worker, head = await _head(desk)
    await desk.publish("e2")
    delivery = await worker.read_one()
    await worker.decide(done(head, delivery))
    assert await worker.verdict(Look(head)) is Verdict.ASK
    assert await worker.verdict(Look(worker.head(delivery))) is Verdict.RUN
    other = await desk.worker("inventory")
    assert await other.verdict(Look(other.head(await other.read_one()))) is Verdict.RUN


async def test_an_attempt_that_failed(desk: Desk) -> None:
    """The next one is on its way; what else there is in the work does not matter."""
    worker, head = await _head(desk)
    await desk.call("HSET", desk.record(), "open", "1")
    await desk.call("HSET", desk.work(), "f", "1")
    assert await worker.verdict(Look(head)) is Verdict.RUN
    await desk.call("HSET", desk.work(), f"a:payments/{head.step}:{head.event}", "1 token")
    assert await worker.verdict(Look(head)) is Verdict.ASK


@pytest.mark.parametrize("what", ["record", "work"])
async def test_a_key_in_the_way(desk: Desk, what: str) -> None:
    """A look does not fail on it: the gate says what is wrong."""
    worker, head = await _head(desk)
    if what == "work":
        await desk.call("HSET", desk.record(), "open", "0")
    await desk.call("SET", desk.record() if what == "record" else desk.work(), "x")
    assert await worker.verdict(Look(head)) is Verdict.ASK


async def test_looks_among_decisions(desk: Desk) -> None:
    """They go by another script, in the same round trip; each answer stands where its question does."""
    worker = await desk.worker("payments")
    deliveries = []
    for number in range(4):
        await desk.publish(f"e{number}", saga=f"s{number}")
        deliveries.append(await worker.read_one())
    heads = [worker.head(each) for each in deliveries]
    await desk.call("HSET", desk.record("s2"), "state", "failed", "seq", "1")
    answers = await worker.decide(
        Look(heads[0]), done(heads[1], deliveries[1]), Look(heads[2]), done(heads[3], deliveries[3]), Look(heads[0])
    )
    verdicts = [each.verdict for each in answers]
    assert verdicts == [Verdict.RUN, Verdict.COMMITTED, Verdict.ASK, Verdict.COMMITTED, Verdict.RUN]
