"""Deliveries that come together are asked about and committed together, and fare as each would alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextvars import ContextVar
from functools import partial

import anyio
import anyio.lowlevel
import pytest
from retry_kit import NOW, Declined, HandClock, Paid, Placed, Refunded, Reserved, Shipped, Stage, quick, until

from choreo import Abort, Context, Participant
from choreo.broker.answers import Answer
from choreo.broker.gate import Decision, Gate, Identity
from choreo.broker.sagas import Sagas
from choreo.wire.limits import MAX_BATCH_BYTES, MAX_DATA_BYTES

pytestmark = pytest.mark.anyio

COLOUR: ContextVar[str] = ContextVar("colour", default="none")
MANY = 20


class CountedGate(Gate):
    """A gate that notes how many decisions of each kind came in each call."""

    calls: list[list[str]]
    weights: list[int]

    async def decide(
        self, identity: Identity, now: int, batches: Sequence[tuple[int, Sequence[Decision]]]
    ) -> list[list[Answer] | Exception]:
        self.calls += [[each.kind for each in decisions] for _, decisions in batches]
        self.weights += [sum(each.weight for each in decisions) for _, decisions in batches]
        return await super().decide(identity, now, batches)


def counted(stage: Stage, kind: type[CountedGate] = CountedGate) -> CountedGate:
    gate = kind(stage.broker.connection, stage.topology.keys)
    gate.calls, gate.weights = [], []
    stage.broker.gate = gate
    return gate


def compute() -> None:
    """Keep the processor busy for longer than a group of handlers may in one go."""
    end = time.perf_counter() + 0.003
    while time.perf_counter() < end:
        pass


async def place(stage: Stage, *amounts: int) -> None:
    """Begin sagas ``s0``, ``s1``, ... before anybody listens, as any program may."""
    key = stage.topology.keys.stream(0, "orders")
    for number, amount in enumerate(amounts):
        data = f'{{"amount":{amount}}}'
        await stage.call("XADD", key, "*", "id", f"e{number}", "type", "Placed", "subject", f"s{number}",
                         "time", NOW, "data", data)  # fmt: skip


def payer(*, undo: bool = False) -> Participant:
    """Pays at once; 1 is declined, 2 an error, 3 an exit, 4 a cancellation."""
    payments = Participant("payments")

    @payments.on(Placed, retry=quick(2))
    async def charge(order: Placed) -> Paid:
        if order.amount == 1:
            raise Abort("no money")
        if order.amount == 2:
            raise ValueError("no line")
        if order.amount == 3:
            raise SystemExit(3)
        if order.amount == 4:
            raise asyncio.CancelledError
        return Paid(order.amount)

    if undo:

        @charge.undo
        async def refund(order: Placed, paid: Paid | None) -> Refunded:
            return Refunded(order.amount)

    return payments


@pytest.mark.parametrize("undo", [False, True])
async def test_what_comes_together_is_asked_and_committed_together(stage: Stage, undo: bool) -> None:
    """One call for all questions, and one for everything that came of them; some more on a busy machine."""
    await place(stage, *[10] * MANY)
    gate = counted(stage)
    async with stage.running(stage.worker(payer(undo=undo), HandClock())):
        await until(stage.is_settled, "all to be settled")
    assert len(await stage.emitted("Paid")) == MANY
    assert gate.calls[0] == ["begin" if undo else "look"] * MANY
    assert len(gate.calls) < MANY // 2


@pytest.mark.parametrize("undo", [False, True])
async def test_each_fares_as_it_would_alone(stage: Stage, undo: bool) -> None:
    """Who aborts, fails or raises what ends processes does so alone; all others are committed."""
    amounts = [10, 1, 10, 2, 10, 3, 10, 4, 10]
    await place(stage, *amounts)
    async with stage.playing(payer(undo=undo)) as choreo:
        for number, amount in enumerate(amounts):
            await until(partial(stage.broker.sagas.state, f"s{number}"), "the saga to begin")
            if amount < 10:
                view = await choreo.wait(f"s{number}", timeout=20)
                assert view.status == "compensated"
        await until(stage.is_settled, "all to be settled")
    paid = await stage.emitted("Paid")
    assert sorted(each["subject"] for each in paid) == [f"s{n}" for n, amount in enumerate(amounts) if amount == 10]
    assert {(each["subject"], each["reason"]) for each in await stage.letters()} == {
        ("s3", "step-failed"), ("s5", "step-failed"), ("s7", "step-failed"),
    }  # fmt: skip


async def test_context_variables_stay_with_their_handler(stage: Stage) -> None:
    """What one handler sets, no other sees, also if they run one after the other."""
    seen: list[str] = []
    payments = Participant("payments")

    @payments.on(Placed)
    async def charge(order: Placed) -> None:
        seen.append(COLOUR.get())
        COLOUR.set("red")

    await place(stage, 1, 2, 3)
    async with stage.running(stage.worker(payments)):
        await until(lambda: len(seen) == 3, "all handlers to run")
    assert seen == ["none"] * 3


async def test_a_saga_that_unwinds_does_not_hold_up_the_others(stage: Stage) -> None:
    """A step of a saga that unwinds is not run; those that came with it are."""
    await place(stage, *[10] * 3)
    keys = stage.topology.keys
    await stage.call("HSET", keys.record(0, "s1"), "state", "compensating", "seq", 1, "type", "order")
    async with stage.running(stage.worker(payer())):
        await until(stage.is_settled, "all to be settled")
    assert [each["subject"] for each in await stage.emitted("Paid")] == ["s0", "s2"]
    assert [each["subject"] for each in await stage.journal("skipped")] == ["s1"]


async def test_what_is_in_the_way_of_one_is_in_nobody_elses(stage: Stage) -> None:
    """A stream that cannot be written holds up whoever writes there, until it is gone."""
    payments = Participant("payments")

    @payments.on(Placed)
    async def charge(order: Placed) -> Paid | Reserved:
        return Paid(order.amount) if order.amount % 2 else Reserved()

    await place(stage, *range(6))
    obstacle = stage.topology.keys.stream(0, "stock")
    await stage.call("SET", obstacle, "in the way")
    async with stage.running(stage.worker(payments)):
        await until(lambda: paid(stage, 3), "the others to be paid")
        assert len(await stage.pending()) == 3
        await stage.call("DEL", obstacle)
        await until(stage.is_settled, "all to be settled")
    assert len(await stage.emitted("Reserved")) == 3


async def test_a_decision_that_breaks_the_script_holds_up_nobody_else(stage: Stage) -> None:
    """Somebody has written nonsense into one saga's record: the server refuses the call for all of its group."""
    await place(stage, *[10] * MANY)
    broken = stage.topology.keys.record(0, "s7")
    await stage.call("HSET", broken, "state", "running", "seq", "nonsense", "type", "order")
    payments = Participant("payments")

    @payments.on(Placed)
    async def charge(order: Placed) -> Shipped:
        return Shipped()

    async with stage.running(stage.worker(payments)):
        await until(lambda: in_hand(stage, 1), "the others to be settled")
        await stage.call("HSET", broken, "seq", 0)
        await until(stage.is_settled, "all to be settled")
    assert len(await stage.emitted("Shipped")) == MANY


async def in_hand(stage: Stage, count: int) -> bool:
    return len(await stage.pending()) == count


async def test_large_outcomes_are_committed_few_at_a_time(stage: Stage) -> None:
    """A call has about a megabyte, however many came together."""
    payments = Participant("payments")

    @payments.on(Placed)
    async def charge(order: Placed) -> Paid:
        return Paid(note="x" * 200_000)

    await place(stage, *[10] * MANY)
    gate = counted(stage)
    async with stage.running(stage.worker(payments)):
        await until(stage.is_settled, "all to be settled")
    assert len(await stage.emitted("Paid")) == MANY
    assert max(gate.weights) < MAX_BATCH_BYTES + MAX_DATA_BYTES


async def test_handlers_that_take_their_time_are_not_asked_about_again_and_again(stage: Stage) -> None:
    """What a group has no time for is asked about when there is: twice each, or so."""
    payments = Participant("payments")

    @payments.on(Placed)
    async def charge(order: Placed) -> None:
        compute()

    await place(stage, *[10] * 3 * MANY)
    gate = counted(stage)
    async with stage.running(stage.worker(payments)):
        await until(stage.is_settled, "all to be settled")
    assert sum(map(len, gate.calls)) <= 5 * 3 * MANY


class UnwindingGate(CountedGate):
    """A gate behind which an operator unwinds the last saga, as soon as all steps have begun."""

    async def decide(
        self, identity: Identity, now: int, batches: Sequence[tuple[int, Sequence[Decision]]]
    ) -> list[list[Answer] | Exception]:
        answers = await super().decide(identity, now, batches)
        if len(self.calls) == 1:
            await Sagas(self.connection, self.keys).compensate(f"s{MANY - 1}", NOW, "token", "why", "who")
        return answers


async def test_a_saga_unwinds_before_a_step_has_its_turn(stage: Stage) -> None:
    """A group has no time for one of those that have begun, and asks again later: now it is in doubt. It is not
    left pending as if somebody else had begun it.
    """
    payments = Participant("payments")
    undone: list[str] = []

    @payments.on(Placed)
    async def charge(order: Placed) -> Paid:
        compute()
        return Paid()

    @charge.undo
    async def refund(order: Placed, paid: Paid | None, ctx: Context) -> None:
        undone.append(ctx.saga_id)

    await place(stage, *[10] * MANY)
    gate = counted(stage, UnwindingGate)
    async with stage.running(stage.worker(payments, lease=600.0)):
        await until(stage.is_settled, "all to be settled")
        await until(lambda: stage.has_ended(f"s{MANY - 1}"), "the saga to be unwound")
    assert undone == [f"s{MANY - 1}"]
    assert len(await stage.emitted("Paid")) == MANY - 1
    assert gate.calls[0] == ["begin"] * MANY


async def test_what_does_not_fit_is_told_once(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """A payload that is not of the event: one letter, one line in the log, and its neighbours are paid."""
    await place(stage, 10, 10)
    key = stage.topology.keys.stream(0, "orders")
    await stage.call("XADD", key, "*", "id", "odd", "type", "Placed", "subject", "odd", "data", '{"amount":"much"}')
    async with stage.running(stage.worker(payer())):
        await until(stage.is_settled, "all to be settled")
    assert await stage.reasons() == [("odd", "data-misfit")]
    assert sum("cannot decode Placed" in each.getMessage() for each in caplog.records) == 1
    assert len(await stage.emitted("Paid")) == 2


async def paid(stage: Stage, count: int) -> bool:
    return len(await stage.emitted("Paid")) == count


async def test_handlers_that_take_their_time_let_the_loop_turn(stage: Stage) -> None:
    """A group of handlers that compute does not keep the event loop from everything else."""
    ran: list[int] = []
    payments = Participant("payments")

    @payments.on(Placed)
    async def charge(order: Placed) -> None:
        compute()
        ran.append(order.amount)

    between: list[int] = []

    async def watch() -> None:
        while len(ran) < MANY:
            between.append(len(ran))
            await anyio.lowlevel.checkpoint()

    await place(stage, *range(MANY))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        async with stage.running(stage.worker(payments)):
            await until(stage.is_settled, "all to be settled")
            await until(lambda: len(ran) == MANY, "all handlers to run")
    assert len(set(between)) > MANY // 2


async def test_a_step_on_the_way_back_runs_with_others(stage: Stage) -> None:
    """Events that turn a saga back, and reactions to them, may come in one group as well."""
    payments, notes = Participant("payments"), Participant("notes")
    noted: list[str] = []

    @payments.on(Placed)
    async def charge(order: Placed) -> Declined | Shipped:
        return Declined() if order.amount % 2 else Shipped()

    @notes.on(Declined)
    async def note(declined: Declined, ctx: Context) -> None:
        noted.append(ctx.saga_id)

    await place(stage, *range(6))
    async with stage.playing(payments, notes) as choreo:
        views = [await choreo.wait(f"s{number}", timeout=20) for number in range(6)]
        await until(lambda: len(noted) == 3, "all declines to be noted")
    assert [view.status for view in views] == ["completed", "compensated"] * 3
    assert sorted(noted) == ["s1", "s3", "s5"]
