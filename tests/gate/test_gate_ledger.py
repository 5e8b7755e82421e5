"""The ledger: which entry waits for which, when its undo is asked for, and what is left in the end."""

from __future__ import annotations

import pytest
from gate_kit import Desk, Worker, aborted, begin, begin_undo, dead, done, stuck, undone

from choreo.broker.answers import Verdict
from choreo.broker.groups import Delivery

pytestmark = pytest.mark.anyio

ROOT = "payments/charge:e0"


async def with_branches(desk: Desk, number: int) -> tuple[Worker, list[Delivery]]:
    """A root that took effect, and so many events of its, which are read but not handled yet."""
    worker = await desk.worker("payments")
    await desk.publish("e0")
    await worker.run(await worker.read_one())
    for each in range(1, number + 1):
        await desk.publish(f"e{each}", ledger=ROOT)
    return worker, await worker.read(number)


async def unwind(desk: Desk) -> None:
    assert await desk.broker.sagas.compensate("s1", 1, "token", "why", "who") == "compensating"


async def asked(worker: Worker) -> list[str]:
    """The entries whose undo is asked for now; the requests stay with the worker."""
    return [(request.fields or {})[b"data"].decode() for request in await worker.requests()]


async def undo(worker: Worker, *, fails: bool = False) -> str:
    """Undo what is asked for next. Returns the entry."""
    (request,) = await worker.requests(1)
    head = worker.undo_head(request)
    assert await worker.verdict(begin_undo(head)) is Verdict.RUN
    assert await worker.verdict(stuck(head) if fails else undone(head)) is Verdict.COMMITTED
    return f"payments/charge:{head.event}"


@pytest.mark.parametrize("fails", [True, False])
async def test_root_waits_for_every_branch(desk: Desk, fails: bool) -> None:
    """What caused several effects is asked for when the last of them is settled, undone or not."""
    worker, branches = await with_branches(desk, 3)
    for branch in branches:
        await worker.run(branch)
    await unwind(desk)
    done_first = [await undo(worker, fails=fails and number == 1) for number in range(3)]
    assert done_first == [f"payments/charge:e{number}" for number in (1, 2, 3)]
    assert await undo(worker) == ROOT
    assert await desk.state() == ("failed" if fails else "compensated")


async def test_root_is_not_asked_for_early(desk: Desk) -> None:
    """As long as one of several effects is left to undo, what caused it is not asked for."""
    worker, branches = await with_branches(desk, 2)
    for branch in branches:
        await worker.run(branch)
    await unwind(desk)
    assert await undo(worker) == "payments/charge:e1"
    assert await asked(worker) == ["payments/charge:e2"]
    assert await asked(worker) == []


@pytest.mark.parametrize("outcome", ["late", "uncovered", "aborts", "fails"])
async def test_root_waits_for_what_is_under_way(desk: Desk, outcome: str) -> None:
    """What caused a step that is under way is asked for when that step is settled, whatever it comes to."""
    worker, (branch,) = await with_branches(desk, 1)
    head = worker.head(branch)
    assert await worker.verdict(begin(head, branch)) is Verdict.RUN
    await unwind(desk)
    assert await asked(worker) == []
    decision = {
        "late": done(head, branch), "uncovered": done(head, branch, keep=False),
        "aborts": aborted(head, branch), "fails": dead(head, branch),
    }[outcome]  # fmt: skip
    assert await worker.verdict(decision) is Verdict.LATE
    if outcome in ("late", "fails"):
        assert await undo(worker) == "payments/charge:e1"
    assert await undo(worker) == ROOT
    assert await desk.state() == "compensated"
    assert not await desk.call("EXISTS", desk.work())


async def test_join_holds_back_all_that_caused_it(desk: Desk) -> None:
    """A join is undone before every effect that caused one of its events."""
    worker, branches = await with_branches(desk, 2)
    for branch in branches:
        await worker.run(branch)
    shipping = await desk.worker("shipping")
    await desk.publish("f1", "Paid", ledger="payments/charge:e1")
    await desk.publish("f2", "Reserved", ledger="payments/charge:e2")
    *_, first, second = await shipping.read(5)
    joins = ("Paid", "Reserved")
    assert await shipping.verdict(begin(shipping.head(first), first, joins=joins)) is Verdict.WAITING
    head = shipping.head(second)
    assert await shipping.verdict(begin(head, second, joins=joins)) is Verdict.RUN
    assert await shipping.verdict(done(head, second, joins=joins)) is Verdict.COMMITTED
    await unwind(desk)
    assert await asked(worker) == []
    undo_head = shipping.undo_head(await shipping.request())
    assert await shipping.verdict(begin_undo(undo_head)) is Verdict.RUN
    assert await shipping.verdict(undone(undo_head)) is Verdict.COMMITTED
    assert await asked(worker) == ["payments/charge:e1", "payments/charge:e2"]


async def test_unknown_causes(desk: Desk) -> None:
    """Causes that are not in the ledger (a foreign producer may claim any) hold nothing back."""
    worker = await desk.worker("payments")
    await desk.publish("e1", ledger="nobody/nothing:x a/b:c payments/charge:e1")
    await worker.run(await worker.read_one())
    await unwind(desk)
    assert await undo(worker) == "payments/charge:e1"
    assert await desk.state() == "compensated"


async def test_cause_named_twice(desk: Desk) -> None:
    """A cause that an event names twice, or through both events of a join, counts once."""
    worker, _ = await with_branches(desk, 1)
    await desk.publish("e9", ledger=f"{ROOT} {ROOT}")
    await worker.run(await worker.read_one())
    await unwind(desk)
    assert [await undo(worker), await undo(worker)] == ["payments/charge:e9", ROOT]
    assert await desk.state() == "compensated"


async def test_completion_forgets(desk: Desk) -> None:
    """A completed saga keeps nothing to undo: neither inputs nor results, done or under way."""
    worker, (one, two) = await with_branches(desk, 2)
    head = worker.head(two)
    assert await worker.verdict(begin(head, two)) is Verdict.RUN
    await worker.run(one, desk.emit("end", ends="c1"))
    assert await desk.state() == "completed"
    assert not await desk.call("EXISTS", desk.work())
    assert await worker.verdict(done(head, two, desk.emit("more"))) is Verdict.COMMITTED
    assert not await desk.call("EXISTS", desk.work())
    assert await asked(worker) == []


async def test_way_back_completes_nothing(desk: Desk) -> None:
    """An event that would complete the saga completes nothing when the saga unwinds or has unwound."""
    worker, (branch,) = await with_branches(desk, 1)
    await worker.run(branch)
    await unwind(desk)
    for number in range(2):
        await desk.publish(f"b{number}", phase="back")
        (back,) = await worker.read()
        head = worker.head(back)
        assert await worker.verdict(begin(head, back)) is Verdict.RUN
        answer = await worker.decide(done(head, back, desk.emit(f"end{number}", ends="c1")))
        assert answer[0].verdict is Verdict.COMMITTED
        assert await desk.state() == ("compensating", "compensated")[number]
        if not number:
            assert [await undo(worker), await undo(worker)] == ["payments/charge:e1", ROOT]
    assert await desk.emitted() == ["end0", "end1"]
