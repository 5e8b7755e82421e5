"""Steps that fail: tried again, with the same key, until they succeed or their attempts are used up."""

from __future__ import annotations

import pytest
from retry_kit import (
    NEVER,
    NOW,
    HandClock,
    Paid,
    Placed,
    Refunded,
    Reserved,
    Shipped,
    Stage,
    quick,
    until,
    until_view,
)

from choreo import Abort, Context, Event, Participant, Retry
from choreo.model.facts import Kind
from choreo.model.policy import Policy
from choreo.model.trace import EventNode, Reaction
from choreo.wire.limits import MAX_DATA_BYTES, MAX_EMITTED
from choreo.wire.topology import Topology

pytestmark = pytest.mark.anyio


class Foreign(Event):
    """No stream carries it."""


def reaction_of(node: EventNode, step: str) -> Reaction:
    """The reaction of a step to an event."""
    (found,) = [each for each in node.reactions if each.step == step]
    return found


async def test_a_step_that_fails_twice_then_succeeds(stage: Stage) -> None:
    """Three attempts with one key and one event id; one emission; view and trace tell of the failed ones."""
    seen: list[Context] = []
    payments = Participant("payments")

    @payments.on(Placed, retry=quick(3))
    async def charge(placed: Placed, ctx: Context) -> Shipped:
        seen.append(ctx)
        ctx.emit(Shipped())
        if ctx.attempt < 3:
            raise OSError(f"no line ({ctx.attempt})")
        return Shipped()

    async with stage.playing(payments) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        view = await choreo.wait("s1", timeout=20)
        trace = await choreo.trace("s1")
    assert [ctx.attempt for ctx in seen] == [1, 2, 3]
    assert len({(ctx.key, ctx.event_id, ctx.saga_id, ctx.saga_type, ctx.step) for ctx in seen}) == 1
    assert len(await stage.emitted("Shipped")) == 2  # what the last attempt emitted and returned
    assert (view.status, view.retries, view.dead_letters) == ("completed", 2, 0)
    assert view.done == {"payments/charge": 1}
    assert view.last_error is not None
    assert (view.last_error.step, view.last_error.message) == ("payments/charge", "OSError: no line (2)")
    assert "Traceback" in view.last_error.traceback
    reaction = reaction_of(trace.events[0], "charge")
    assert reaction.outcome is Kind.EVENT
    assert [(each.number, each.note) for each in reaction.failed] == [
        (1, "OSError: no line (1)"),
        (2, "OSError: no line (2)"),
    ]
    assert all("Traceback" in each.detail and each.due > 0 for each in reaction.failed)
    assert [each.type for each in reaction.emitted] == ["Shipped", "Shipped"]
    assert await stage.pending() == []
    assert await stage.due() == []
    assert await stage.letters() == []


async def test_a_step_that_emits_nothing_is_retried_as_well(stage: Stage) -> None:
    """What becomes of it is `done`, after the attempts that failed."""
    payments = Participant("payments")

    @payments.on(Placed, retry=quick(2))
    async def note(placed: Placed, ctx: Context) -> None:
        if ctx.attempt == 1:
            raise OSError("no line")

    async with stage.playing(payments) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        await until_view(choreo, "s1", lambda view: view.done == {"payments/note": 1}, "the step")
        reaction = reaction_of((await choreo.trace("s1")).events[0], "note")
    assert reaction.outcome is Kind.DONE
    assert reaction.note == ""
    assert [each.number for each in reaction.failed] == [1]


async def _told(stage: Stage, kind: str) -> bool:
    return bool(await stage.journal(kind))


@pytest.mark.parametrize("attempts", [1, 3])
async def test_attempts_that_are_used_up(stage: Stage, attempts: int) -> None:
    """One dead letter, the saga aborts, and the step itself is undone, for nobody knows what it did."""
    runs: list[int] = []
    undone: list[tuple[str | None, object]] = []
    keys: set[str] = set()
    payments = Participant("payments")

    @payments.on(Placed, retry=quick(attempts))
    async def charge(placed: Placed, ctx: Context) -> Paid:
        runs.append(ctx.attempt)
        keys.add(ctx.key)
        raise OSError(f"no line ({ctx.attempt})")

    @charge.undo
    async def refund(placed: Placed, paid: Paid | None, ctx: Context) -> Refunded:
        undone.append((ctx.undoes, paid))
        return Refunded()

    async with stage.playing(payments) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        view = await choreo.wait("s1", timeout=20)
        trace = await choreo.trace("s1")
    assert runs == list(range(1, attempts + 1))
    assert undone == [(keys.pop(), None)]
    (letter,) = await stage.letters()
    assert (letter["reason"], letter["subject"], letter["participant"], letter["step"]) == (
        "step-failed", "s1", "payments", "charge",
    )  # fmt: skip
    assert (letter["type"], letter["error"]) == ("Placed", f"OSError: no line ({attempts})")
    assert "Traceback" in letter["traceback"]
    assert (view.status, view.retries, view.dead_letters) == ("compensated", attempts - 1, 1)
    assert view.reason == f"payments/charge: OSError: no line ({attempts})"
    assert view.undone == {"payments/charge": 1}
    reaction = reaction_of(trace.events[0], "charge")
    assert reaction.outcome is Kind.DEAD
    assert reaction.note == f"OSError: no line ({attempts})"
    assert [each.number for each in reaction.failed] == list(range(1, attempts))
    assert [each.undo for each in reaction.undone_by] == ["refund"]
    assert await stage.emitted("Paid") == []
    assert len(await stage.emitted("Refunded")) == 1
    assert await stage.due() == []


async def test_what_a_failed_attempt_emitted_is_not_published(fake_stage: Stage) -> None:
    """Neither by `ctx.emit`, nor of a step whose last attempt failed."""
    payments = Participant("payments")

    @payments.on(Placed, retry=quick(2))
    async def charge(placed: Placed, ctx: Context) -> Paid | None:
        ctx.emit(Paid())
        raise OSError("no line")

    async with fake_stage.playing(payments) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        assert (await choreo.wait("s1", timeout=20)).status == "compensated"
    assert await fake_stage.emitted("Paid") == []


async def test_errors_that_are_not_worth_a_retry_are_final_at_once(fake_stage: Stage) -> None:
    """With `on`, only what it names is tried again, also after a failure that was."""
    runs: list[tuple[str, int]] = []
    payments = Participant("payments")

    @payments.on(Placed, retry=quick(5, on=(ConnectionError,)))
    async def charge(placed: Placed, ctx: Context) -> Paid:
        runs.append((ctx.saga_id, ctx.attempt))
        if ctx.saga_id == "line" and ctx.attempt == 1:
            raise ConnectionResetError("no line")
        raise ValueError("no such card")

    async with fake_stage.playing(payments) as choreo:
        for saga in ("card", "line"):
            await choreo.start(Placed(), saga_id=saga)
            view = await choreo.wait(saga, timeout=20)
            assert (view.status, view.dead_letters) == ("compensated", 1)
    assert runs == [("card", 1), ("line", 1), ("line", 2)]
    assert await fake_stage.reasons() == [("card", "step-failed"), ("line", "step-failed")]


async def test_an_abort_is_never_retried(fake_stage: Stage) -> None:
    """The business said no: no letter, no undo of the step itself, and no second attempt."""
    runs: list[int] = []
    payments = Participant("payments")

    @payments.on(Placed, retry=quick(5, on=(Exception, Abort)))
    async def charge(placed: Placed, ctx: Context) -> Paid:
        runs.append(ctx.attempt)
        raise Abort("card declined")

    @charge.undo
    async def refund(placed: Placed) -> None:
        raise AssertionError("a step that aborted is not undone")

    async with fake_stage.playing(payments) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        view = await choreo.wait("s1", timeout=20)
    assert runs == [1]
    assert (view.status, view.reason, view.retries) == ("compensated", "payments/charge: card declined", 0)
    assert await fake_stage.letters() == []


async def test_an_abort_after_a_failed_attempt(fake_stage: Stage) -> None:
    """A business failure ends the attempts. What an earlier one may have done is undone."""
    undone: list[object] = []
    payments = Participant("payments")

    @payments.on(Placed, retry=quick(5))
    async def charge(placed: Placed, ctx: Context) -> Paid:
        if ctx.attempt == 1:
            raise OSError("no line")
        raise Abort("card declined")

    @charge.undo
    async def refund(placed: Placed, paid: Paid | None) -> None:
        undone.append(paid)

    async with fake_stage.playing(payments) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        view = await choreo.wait("s1", timeout=20)
    assert (view.status, view.retries, view.dead_letters) == ("compensated", 1, 0)
    assert undone == [None]


@pytest.mark.parametrize("mistake", ["contract", "route", "size", "number"])
async def test_a_handlers_own_mistakes_are_final_at_once(fake_stage: Stage, mistake: str) -> None:
    """Another attempt would make them again."""
    runs: list[int] = []
    payments = Participant("payments")

    @payments.on(Placed, retry=quick(5))
    async def charge(placed: Placed, ctx: Context) -> Paid:
        runs.append(ctx.attempt)
        if mistake == "route":
            ctx.emit(Foreign())
        if mistake == "number":
            for _ in range(MAX_EMITTED):
                ctx.emit(Paid())
        if mistake == "contract":
            return Reserved()  # type: ignore[return-value]
        return Paid(note="x" * MAX_DATA_BYTES if mistake == "size" else "")

    async with fake_stage.playing(payments) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        assert (await choreo.wait("s1", timeout=20)).status == "compensated"
    assert runs == [1]
    assert await fake_stage.reasons() == [("s1", "step-failed")]


async def test_a_step_says_more_than_the_default(fake_stage: Stage) -> None:
    """`retry` of a step wins over the topology's defaults, and what says nothing follows these."""
    runs: list[str] = []
    topology = _with_defaults(fake_stage.topology, Policy(quick(2)))
    payments, inventory = Participant("payments"), Participant("inventory")

    @payments.on(Placed, retry=quick(4))
    async def charge(placed: Placed, ctx: Context) -> None:
        runs.append("charge")
        raise OSError("no line")

    @inventory.on(Placed)
    async def reserve(placed: Placed, ctx: Context) -> Reserved:
        runs.append("reserve")
        raise OSError("no line")

    for participant, step, count in ((payments, "charge", 4), (inventory, "reserve", 2)):
        async with Stage(topology, fake_stage.broker).playing(participant) as choreo:
            await choreo.start(Placed(), saga_id=step)
            assert (await choreo.wait(step, timeout=20)).retries == count - 1
        assert runs.count(step) >= count


def _with_defaults(topology: Topology, policy: Policy) -> Topology:
    return Topology(topology.namespace, topology.partitions, topology.streams, {}, topology.sagas, policy)


async def test_without_a_policy_there_is_no_retry(fake_stage: Stage) -> None:
    """A topology may say that nothing is tried again: then the first failure is final."""
    runs: list[int] = []
    payments = Participant("payments")

    @payments.on(Placed)
    async def charge(placed: Placed, ctx: Context) -> None:
        runs.append(ctx.attempt)
        raise OSError("no line")

    topology = _with_defaults(fake_stage.topology, Policy())
    async with Stage(topology, fake_stage.broker).playing(payments) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        assert (await choreo.wait("s1", timeout=20)).status == "compensated"
    assert runs == [1]


async def test_the_pause_grows_from_attempt_to_attempt(fake_stage: Stage) -> None:
    """Each timer is due as the policy says, by the workers' clock."""
    clock = HandClock()
    payments = Participant("payments")

    @payments.on(Placed, retry=Retry(attempts=9, first=10, factor=3, limit=100, jitter=0))
    async def charge(placed: Placed) -> None:
        raise OSError("no line")

    pauses = []
    async with fake_stage.playing(payments, clock=clock) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        for _ in range(4):
            await until(lambda: _later(fake_stage, clock.now), "the next attempt to be parked")
            (due,) = await fake_stage.due()
            pauses.append((due - clock.now) / 1000)
            clock.now = due
    assert pauses == [10, 30, 90, 100]


async def _later(stage: Stage, now: int) -> bool:
    due = await stage.due()
    return bool(due) and due[0] > now


async def test_jitter_spreads_sagas_that_failed_together(fake_stage: Stage) -> None:
    """They do not all come back in the same moment; each pause stays within jitter's share."""
    clock = HandClock()
    payments = Participant("payments")

    @payments.on(Placed, retry=Retry(first=100, limit=100, jitter=0.5))
    async def charge(placed: Placed) -> None:
        raise OSError("no line")

    async with fake_stage.playing(payments, clock=clock) as choreo:
        for number in range(30):
            await choreo.start(Placed(), saga_id=f"s{number}")

        async def all_parked() -> bool:
            return len(await fake_stage.due()) == 30

        await until(all_parked, "every retry to be parked")
    due = await fake_stage.due()
    assert len(set(due)) > 20
    assert NOW + 50_000 <= due[0] <= due[-1] <= NOW + 100_000
    assert due[-1] - due[0] > 20_000


async def test_sagas_that_wait_hold_no_slot(fake_stage: Stage) -> None:
    """With a single slot, a hundred parked retries leave it free for others."""
    payments = Participant("payments")

    @payments.on(Placed, retry=NEVER)
    async def charge(placed: Placed) -> Shipped:
        if placed.amount:
            raise OSError("no line")
        return Shipped()

    async with fake_stage.playing(payments, concurrency=1) as choreo:
        for number in range(30):
            await choreo.start(Placed(), saga_id=f"s{number}")
        await choreo.start(Placed(0), saga_id="fresh")
        assert (await choreo.wait("fresh", timeout=20)).status == "completed"

    assert await fake_stage.pending() == []


async def test_retries_of_one_saga_leave_its_other_steps_alone(stage: Stage) -> None:
    """While one branch waits for its next attempt, the other one is done; then both meet in the join."""
    clock = HandClock()
    payments, inventory, shipping = Participant("payments"), Participant("inventory"), Participant("shipping")

    @payments.on(Placed, retry=NEVER)
    async def charge(placed: Placed, ctx: Context) -> Paid:
        if ctx.attempt == 1:
            raise OSError("no line")
        return Paid()

    @inventory.on(Placed)
    async def reserve(placed: Placed) -> Reserved:
        return Reserved()

    @shipping.on_all(Paid, Reserved)
    async def send(paid: Paid, reserved: Reserved) -> Shipped:
        return Shipped()

    async with stage.playing(payments, inventory, shipping, clock=clock) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        await until(lambda: _told(stage, "waiting"), "the join to wait")
        await until(stage.due, "the retry to be parked")
        clock.advance(3600)
        view = await choreo.wait("s1", timeout=20)
    assert view.status == "completed"
    assert view.done == {"payments/charge": 1, "inventory/reserve": 1, "shipping/send": 1}
