"""Zombies: a worker that wakes up after its delivery went to somebody else changes nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import pytest
from gate_kit import Desk, Worker, aborted, begin, begin_undo, dead, done, doubtful, stuck, undone

from choreo.broker.answers import Verdict
from choreo.broker.gate import Decision, Head
from choreo.broker.groups import Delivery

pytestmark = pytest.mark.anyio

JOINS = ("Paid", "Reserved")

Loss: TypeAlias = Callable[[Worker, Delivery], Awaitable[object]]


async def taken_over(worker: Worker, delivery: Delivery) -> Delivery:
    """Another worker claims the delivery."""
    heir = await worker.peer("two")
    taken = await heir.claim(delivery)
    assert [(entry, consumer) for entry, consumer, _ in await worker.pending()] == [(delivery.entry, "two")]
    return taken


async def handed_over(worker: Worker, delivery: Delivery) -> Delivery:
    """Another worker has the delivery, which does not count as another one."""
    await worker.desk.call(
        "XCLAIM", delivery.stream, worker.name, "two", 0, delivery.entry, "RETRYCOUNT", 1, "JUSTID"
    )
    assert await worker.pending() == [(delivery.entry, "two", delivery.deliveries)]
    return delivery


async def claimed_again(worker: Worker, delivery: Delivery) -> Delivery:
    """The worker itself claims the delivery again, so that it counts as another one."""
    taken = await worker.claim(delivery)
    assert await worker.pending() == [(delivery.entry, "one", delivery.deliveries + 1)]
    return taken


async def group_destroyed(worker: Worker, delivery: Delivery) -> None:
    """The group is gone, and its pending list with it."""
    assert await worker.desk.call("XGROUP", "DESTROY", delivery.stream, worker.name) == 1


async def stream_deleted(worker: Worker, delivery: Delivery) -> None:
    """The stream is gone."""
    assert await worker.desk.call("DEL", delivery.stream) == 1


async def acknowledged(worker: Worker, delivery: Delivery) -> None:
    """Somebody has acknowledged the entry by hand."""
    assert await worker.desk.call("XACK", delivery.stream, worker.name, delivery.entry) == 1


LOSSES = pytest.mark.parametrize(
    "lose", [taken_over, handed_over, claimed_again, group_destroyed, stream_deleted, acknowledged]
)


async def is_stale(worker: Worker, decision: Decision) -> None:
    before = await worker.desk.dump()
    assert await worker.verdict(decision) is Verdict.STALE
    assert await worker.desk.dump() == before


async def begun(desk: Desk) -> tuple[Worker, Delivery, Head]:
    await desk.publish("e1")
    worker = await desk.worker("payments")
    delivery = await worker.read_one()
    head = worker.head(delivery)
    assert await worker.verdict(begin(head, delivery)) is Verdict.RUN
    return worker, delivery, head


@LOSSES
@pytest.mark.parametrize("outcome", [done, aborted, dead, doubtful])
async def test_step_of_a_zombie(desk: Desk, lose: Loss, outcome: Callable[..., Decision]) -> None:
    """What a worker decides about a step that it has lost is stale."""
    worker, delivery, head = await begun(desk)
    await lose(worker, delivery)
    await is_stale(worker, outcome(head, delivery))


@pytest.mark.parametrize("lose", [taken_over, handed_over, claimed_again])
async def test_heir_commits(desk: Desk, lose: Callable[..., Awaitable[Delivery]]) -> None:
    """The worker that has taken over begins again, and commits; the zombie is then a duplicate."""
    worker, delivery, head = await begun(desk)
    taken = await lose(worker, delivery)
    heir = worker if lose is claimed_again else await worker.peer("two")
    commit = done(head, delivery, desk.emit("out"))
    await is_stale(worker, commit)
    taken, again = await heir.begin_beside(taken)
    assert await heir.verdict(done(again, taken, desk.emit("out"))) is Verdict.COMMITTED
    assert await desk.emitted() == ["out"]
    before = await desk.dump()
    assert await worker.verdict(commit) is Verdict.DUPLICATE
    assert await desk.dump() == before


@LOSSES
@pytest.mark.parametrize("outcome", [undone, stuck])
async def test_undo_of_a_zombie(desk: Desk, lose: Loss, outcome: Callable[..., Decision]) -> None:
    """What a worker decides about an undo that it has lost is stale."""
    worker, delivery, head = await begun(desk)
    await worker.verdict(done(head, delivery, desk.emit("out", "Refused", ends="a")))
    request = await worker.request()
    undo = worker.undo_head(request)
    assert await worker.verdict(begin_undo(undo)) is Verdict.RUN
    await lose(worker, request)
    await is_stale(worker, outcome(undo))


@LOSSES
async def test_join_part_of_a_zombie(desk: Desk, lose: Loss) -> None:
    """A worker that has lost an event cannot put it into a join."""
    await desk.publish("e1", "Paid")
    worker = await desk.worker("shipping")
    delivery = await worker.read_one()
    head = worker.head(delivery)
    await lose(worker, delivery)
    await is_stale(worker, begin(head, delivery, joins=JOINS))


@LOSSES
async def test_join_of_a_zombie(desk: Desk, lose: Loss) -> None:
    """A worker that has lost the last event of a join can neither fire the join nor commit it."""
    await desk.publish("e1", "Paid")
    await desk.publish("e2", "Reserved")
    worker = await desk.worker("shipping")
    first, second = await worker.read(2)
    assert await worker.verdict(begin(worker.head(first), first, joins=JOINS)) is Verdict.WAITING
    head = worker.head(second)
    await lose(worker, second)
    await is_stale(worker, begin(head, second, joins=JOINS))
    await is_stale(worker, done(head, second, desk.emit("out"), joins=JOINS))


@LOSSES
async def test_skip_of_a_zombie(desk: Desk, lose: Loss) -> None:
    """A worker that has lost an event cannot have its step skipped, when the saga unwinds."""
    worker, delivery, head = await begun(desk)
    await desk.publish("e2")
    late = await worker.read_one()
    assert await worker.verdict(aborted(head, delivery)) is Verdict.COMMITTED
    skip = begin(worker.head(late), late)
    await lose(worker, late)
    await is_stale(worker, skip)


async def test_zombie_does_not_steal_its_lease_back(desk: Desk) -> None:
    """Renewing leases does not bring back a delivery that another worker has taken over."""
    worker, delivery, _ = await begun(desk)
    await taken_over(worker, delivery)
    before = await desk.dump()
    lost = await desk.broker.leases.renew(worker.identity, {delivery.stream: [delivery.entry]})
    assert lost == {(delivery.stream, delivery.entry)}
    assert await desk.dump() == before


async def test_renewing_keeps_the_fence(desk: Desk) -> None:
    """Renewing a lease is no delivery: the worker's commit counts as before."""
    worker, delivery, head = await begun(desk)
    assert await desk.broker.leases.renew(worker.identity, {delivery.stream: [delivery.entry]}) == set()
    assert await worker.verdict(done(head, delivery)) is Verdict.COMMITTED
