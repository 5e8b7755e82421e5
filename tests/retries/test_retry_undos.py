"""Undos that fail: tried again with a key of their own, until they succeed or are stuck."""

from __future__ import annotations

import pytest
from retry_kit import NEVER, HandClock, Paid, Placed, Refunded, Released, Reserved, Stage, quick, until

from choreo import Abort, Context, Participant, Retry
from choreo.model.facts import Kind
from choreo.model.trace import EventNode, Reaction

pytestmark = pytest.mark.anyio


def undo_of(events: list[EventNode], step: str) -> Reaction:
    """The undo of a step that reacted to the event which began the saga."""
    (reaction,) = [each for each in events[0].reactions if each.step == step]
    (undo,) = reaction.undone_by
    return undo


def shipping_that_aborts() -> Participant:
    shipping = Participant("shipping")

    @shipping.on(Paid)
    async def send(paid: Paid) -> None:
        raise Abort("no truck")

    return shipping


async def test_an_undo_that_fails_twice_then_succeeds(stage: Stage) -> None:
    """Three attempts with one key and the same event and result; the saga is compensated."""
    seen: list[tuple[int, Paid | None, Context]] = []
    payments = Participant("payments")

    @payments.on(Placed)
    async def charge(placed: Placed) -> Paid:
        return Paid(placed.amount)

    @charge.undo(retry=quick(3))
    async def refund(placed: Placed, paid: Paid | None, ctx: Context) -> Refunded:
        seen.append((placed.amount, paid, ctx))
        if ctx.attempt < 3:
            raise OSError(f"the bank is closed ({ctx.attempt})")
        return Refunded(placed.amount)

    async with stage.playing(payments, shipping_that_aborts()) as choreo:
        await choreo.start(Placed(42), saga_id="s1")
        view = await choreo.wait("s1", timeout=20)
        trace = await choreo.trace("s1")
    assert [ctx.attempt for _, _, ctx in seen] == [1, 2, 3]
    assert {(amount, paid) for amount, paid, _ in seen} == {(42, Paid(42))}
    assert len({(ctx.key, ctx.undoes, ctx.event_id) for _, _, ctx in seen}) == 1
    assert seen[0][2].key != seen[0][2].undoes
    assert (view.status, view.retries, view.dead_letters) == ("compensated", 2, 0)
    assert view.undone == {"payments/charge": 1}
    undo = undo_of(trace.events, "charge")
    assert (undo.outcome, undo.undo, undo.order) == (Kind.UNDONE, "refund", 1)
    assert [(each.number, each.note) for each in undo.failed] == [
        (1, "OSError: the bank is closed (1)"),
        (2, "OSError: the bank is closed (2)"),
    ]
    assert len(await stage.emitted("Refunded")) == 1
    assert await stage.letters() == []
    assert await stage.pending() == []


async def test_a_step_and_its_undo_that_both_fail_once(stage: Stage) -> None:
    """The failed attempts of both are told apart and all counted."""
    payments = Participant("payments")

    @payments.on(Placed, retry=quick(2))
    async def charge(placed: Placed, ctx: Context) -> Paid:
        if ctx.attempt == 1:
            raise OSError("no line")
        return Paid()

    @charge.undo(retry=quick(2))
    async def refund(placed: Placed, ctx: Context) -> None:
        if ctx.attempt == 1:
            raise OSError("the bank is closed")

    async with stage.playing(payments, shipping_that_aborts()) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        view = await choreo.wait("s1", timeout=20)
        trace = await choreo.trace("s1")
    assert (view.status, view.retries) == ("compensated", 2)
    (step,) = trace.events[0].reactions
    assert [each.note for each in step.failed] == ["OSError: no line"]
    assert [each.note for each in undo_of(trace.events, "charge").failed] == ["OSError: the bank is closed"]


async def test_an_undo_whose_attempts_are_used_up(stage: Stage) -> None:
    """It is stuck, with one dead letter; the saga has failed, but only after the others were undone."""
    runs: list[int] = []
    released: list[int] = []
    clock = HandClock()
    payments, inventory, shipping = Participant("payments"), Participant("inventory"), Participant("shipping")

    @payments.on(Placed)
    async def charge(placed: Placed) -> Paid:
        return Paid()

    @charge.undo(retry=quick(2))
    async def refund(placed: Placed, ctx: Context) -> None:
        runs.append(ctx.attempt)
        raise OSError(f"the bank is closed ({ctx.attempt})")

    @inventory.on(Placed)
    async def reserve(placed: Placed) -> Reserved:
        return Reserved()

    @reserve.undo(retry=NEVER)
    async def release(placed: Placed, ctx: Context) -> Released:
        released.append(ctx.attempt)
        if ctx.attempt == 1:
            raise OSError("the store is closed")
        return Released()

    @shipping.on_all(Paid, Reserved)
    async def send(paid: Paid, reserved: Reserved) -> None:
        raise Abort("no truck")

    async with stage.playing(payments, inventory, shipping, clock=clock) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        await until(stage.due, "retries of undos to be parked")
        clock.advance(1)
        await until(stage.letters, "the dead letter")
        assert released == [1]
        assert not await stage.has_ended("s1")
        clock.advance(3600)
        view = await choreo.wait("s1", timeout=20)
        trace = await choreo.trace("s1")
    assert runs == [1, 2]
    assert released == [1, 2]
    assert (view.status, view.retries, view.dead_letters) == ("failed", 2, 1)
    assert view.undone == {"inventory/reserve": 1}
    (letter,) = await stage.letters()
    assert (letter["reason"], letter["participant"], letter["step"], letter["subject"]) == (
        "undo-failed", "payments", "charge", "s1",
    )  # fmt: skip
    assert letter["error"] == "OSError: the bank is closed (2)"
    undo = undo_of(trace.events, "charge")
    assert (undo.outcome, undo.note) == (Kind.STUCK, "OSError: the bank is closed (2)")
    assert [each.number for each in undo.failed] == [1]
    assert len(await stage.emitted("Released")) == 1


async def test_an_abort_of_an_undo_is_final_at_once(stage: Stage) -> None:
    """The bank says no to the refund, and will again: stuck, without another attempt."""
    runs: list[int] = []
    payments = Participant("payments")

    @payments.on(Placed)
    async def charge(placed: Placed) -> Paid:
        return Paid()

    @charge.undo(retry=quick(5))
    async def refund(placed: Placed, ctx: Context) -> None:
        runs.append(ctx.attempt)
        raise Abort("the account is closed")

    async with stage.playing(payments, shipping_that_aborts()) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        view = await choreo.wait("s1", timeout=20)
    assert runs == [1]
    assert (view.status, view.dead_letters) == ("failed", 1)
    assert await stage.reasons() == [("s1", "undo-failed")]


async def test_an_undos_policy_is_its_own(fake_stage: Stage) -> None:
    """`@step.undo(retry=...)`; the step's own policy is not meant."""
    runs: list[int] = []
    payments = Participant("payments")

    @payments.on(Placed, retry=quick(5))
    async def charge(placed: Placed) -> Paid:
        return Paid()

    @charge.undo(retry=Retry(attempts=1))
    async def refund(placed: Placed, ctx: Context) -> None:
        runs.append(ctx.attempt)
        raise OSError("the bank is closed")

    async with fake_stage.playing(payments, shipping_that_aborts()) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        assert (await choreo.wait("s1", timeout=20)).status == "failed"
    assert runs == [1]


async def test_what_must_be_undone_first_is_waited_for(stage: Stage) -> None:
    """While an undo waits for its next attempt, the step that caused its step is not undone yet."""
    undone: list[str] = []
    clock = HandClock()
    payments, inventory, shipping = Participant("payments"), Participant("inventory"), Participant("shipping")

    @payments.on(Placed)
    async def charge(placed: Placed) -> Paid:
        return Paid()

    @charge.undo
    async def refund(placed: Placed) -> None:
        undone.append("refund")

    @inventory.on(Paid)
    async def reserve(paid: Paid) -> Reserved:
        return Reserved()

    @reserve.undo(retry=NEVER)
    async def release(paid: Paid, ctx: Context) -> None:
        if ctx.attempt < 2:
            raise OSError("the store is closed")
        undone.append("release")

    @shipping.on(Reserved)
    async def send(reserved: Reserved) -> None:
        raise Abort("no truck")

    async with stage.playing(payments, inventory, shipping, clock=clock) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        await until(stage.due, "the undo's retry to be parked")
        await until(stage.is_settled, "nothing to be in anybody's hands")
        assert undone == []
        clock.advance(3600)
        assert (await choreo.wait("s1", timeout=20)).status == "compensated"
    assert undone == ["release", "refund"]


async def test_a_retried_undo_survives_a_restart(stage: Stage) -> None:
    """All workers die while it is parked; the next ones go on with its second attempt."""
    runs: list[int] = []
    clock = HandClock()

    def payments() -> Participant:
        payments = Participant("payments")

        @payments.on(Placed)
        async def charge(placed: Placed) -> Paid:
            return Paid()

        @charge.undo(retry=NEVER)
        async def refund(placed: Placed, ctx: Context) -> None:
            runs.append(ctx.attempt)
            if ctx.attempt == 1:
                raise OSError("the bank is closed")

        return payments

    async with stage.playing(payments(), shipping_that_aborts(), clock=clock) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        await until(stage.due, "the undo's retry to be parked")
    clock.advance(3600)
    async with stage.playing(payments(), clock=clock) as choreo:
        assert (await choreo.wait("s1", timeout=20)).status == "compensated"
    assert runs == [1, 2]
