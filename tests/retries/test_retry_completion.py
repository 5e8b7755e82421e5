"""Retries of sagas that have ended meanwhile, and of joins."""

from __future__ import annotations

import pytest
from retry_kit import (
    NEVER,
    Declined,
    HandClock,
    Paid,
    Placed,
    Released,
    Reserved,
    Shipped,
    Stage,
    quick,
    until,
    until_view,
)

from choreo import Context, Participant

pytestmark = pytest.mark.anyio


async def test_a_retry_that_was_parked_when_the_saga_completed_still_runs(stage: Stage) -> None:
    """Completion ends nobody's work: the step takes effect, and its event is published."""
    runs: list[int] = []
    clock = HandClock()
    payments, shipping = Participant("payments"), Participant("shipping")

    @payments.on(Placed, retry=NEVER)
    async def charge(placed: Placed, ctx: Context) -> Paid:
        runs.append(ctx.attempt)
        if ctx.attempt == 1:
            raise OSError("no line")
        return Paid()

    @charge.undo
    async def refund(placed: Placed) -> None:
        raise AssertionError("a completed saga is not undone")

    @shipping.on(Placed)
    async def send(placed: Placed) -> Shipped:
        await until(stage.due, "the retry to be parked")
        return Shipped()

    async with stage.playing(payments, shipping, clock=clock, mover=False) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        assert (await choreo.wait("s1", timeout=20)).status == "completed"
        assert runs == [1]
        clock.advance(3600)

        async def published() -> bool:
            return len(await stage.emitted("Paid")) == 1

        await until(published, "the retried step's event")
    assert runs == [1, 2]
    assert await stage.letters() == []


async def test_a_retry_that_fails_for_good_after_completion_is_a_dead_letter(stage: Stage) -> None:
    """A completed saga stays completed; that something is wrong is visible all the same."""
    payments, shipping = Participant("payments"), Participant("shipping")

    @payments.on(Placed, retry=quick(2))
    async def charge(placed: Placed, ctx: Context) -> Paid:
        await until(lambda: stage.has_ended("s1"), "the saga to complete")
        raise OSError("no line")

    @shipping.on(Placed)
    async def send(placed: Placed) -> Shipped:
        return Shipped()

    async with stage.playing(payments, shipping, mover=False) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        await until(stage.letters, "the dead letter")
        assert await stage.reasons() == [("s1", "step-failed")]
        view = await until_view(choreo, "s1", lambda view: view.dead_letters, "the dead letter")
    assert (view.status, view.retries, view.dead_letters) == ("completed", 1, 1)


async def test_a_join_that_is_retried_gets_the_same_events(stage: Stage) -> None:
    """Every attempt of a join sees the very events that fired it, also when one of them came again."""
    seen: list[tuple[int, int]] = []
    clock = HandClock()
    payments, shipping = Participant("payments"), Participant("shipping")

    @payments.on(Placed)
    async def charge(placed: Placed) -> tuple[Paid, Reserved]:
        return Paid(placed.amount), Reserved()

    @shipping.on_all(Paid, Reserved, retry=NEVER)
    async def send(paid: Paid, reserved: Reserved, ctx: Context) -> Shipped:
        seen.append((ctx.attempt, paid.amount))
        if ctx.attempt < 3:
            raise OSError("no line")
        return Shipped()

    async with stage.playing(payments, shipping, clock=clock, mover=False) as choreo:
        await choreo.start(Placed(42), saga_id="s1")
        for attempt in (1, 2):
            await until(lambda number=attempt: len(seen) == number, f"attempt {attempt}")  # type: ignore[misc]
            await until(stage.due, "the next attempt to be parked")
            fields = ("id", f"late{attempt}", "type", "Paid", "subject", "s1", "data", '{"amount":7}')
            await stage.call("XADD", stage.topology.keys.stream(0, "money"), "*", *fields)
            clock.advance(3600)
        view = await choreo.wait("s1", timeout=20)
    assert seen == [(1, 42), (2, 42), (3, 42)]
    assert view.done["shipping/send"] == 1
    assert len(await stage.emitted("Shipped")) == 1


async def test_a_join_that_was_parked_when_the_saga_completed_still_runs(stage: Stage) -> None:
    """Completion clears away what a saga needs no more; the events of the join are still needed."""
    seen: list[tuple[int, int]] = []
    clock = HandClock()
    payments, shipping = Participant("payments"), Participant("shipping")

    @payments.on(Placed)
    async def charge(placed: Placed) -> tuple[Paid, Reserved]:
        return Paid(placed.amount), Reserved()

    @payments.on(Reserved)
    async def finish(reserved: Reserved) -> Shipped:
        await until(stage.due, "the join's retry to be parked")
        return Shipped()

    @shipping.on_all(Paid, Reserved, retry=NEVER)
    async def send(paid: Paid, reserved: Reserved, ctx: Context) -> Released:
        seen.append((ctx.attempt, paid.amount))
        if ctx.attempt == 1:
            raise OSError("no line")
        return Released()

    async with stage.playing(payments, shipping, clock=clock, mover=False) as choreo:
        await choreo.start(Placed(42), saga_id="s1")
        assert (await choreo.wait("s1", timeout=20)).status == "completed"
        clock.advance(3600)
        await until(lambda: stage.emitted("Released"), "the join's event")
    assert seen == [(1, 42), (2, 42)]


async def test_steps_of_the_way_back_are_retried(stage: Stage) -> None:
    """Compensation by hand: a step that reacts to an abort is tried again although the saga has ended."""
    runs: list[int] = []
    decline, inventory = Participant("decline"), Participant("inventory")

    @decline.on(Placed)
    async def say_no(placed: Placed) -> Declined:
        return Declined()

    @inventory.on(Declined, retry=quick(3))
    async def release(declined: Declined, ctx: Context) -> Released:
        runs.append(ctx.attempt)
        if ctx.attempt < 3:
            raise OSError("no line")
        return Released()

    async with stage.playing(decline, inventory, mover=False) as choreo:
        await choreo.start(Placed(), saga_id="s1")

        async def published() -> bool:
            return len(await stage.emitted("Released")) == 1

        await until(published, "the compensating event")
        assert (await choreo.wait("s1", timeout=20)).status == "compensated"
    assert runs == [1, 2, 3]
