"""An attempt falls due, but a new version of the participant has no such step any more."""

from __future__ import annotations

import pytest
from retry_kit import NEVER, HandClock, Paid, Placed, Reserved, Shipped, Stage, until

from choreo import Context, Participant

pytestmark = pytest.mark.anyio


def as_it_is_now() -> Participant:
    """The participant after the deploy: the step that was to be repeated is gone."""
    payments = Participant("payments")

    @payments.on(Reserved)
    async def bill(reserved: Reserved) -> Shipped:
        return Shipped()

    return payments


async def fail_once(stage: Stage, payments: Participant) -> HandClock:
    """Have the first attempt fail. Returns a clock that shows when the next one is due."""
    clock = HandClock()
    async with stage.playing(payments, clock=clock) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        await until(stage.due, "the second attempt to be parked")
    clock.advance(3600)
    return clock


async def test_a_step_that_is_gone_is_a_dead_letter(stage: Stage) -> None:
    """The saga unwinds, and is not left running in silence."""
    runs: list[int] = []
    payments = Participant("payments")

    @payments.on(Placed, retry=NEVER)
    async def charge(placed: Placed, ctx: Context) -> Paid:
        runs.append(ctx.attempt)
        raise OSError("no line")

    clock = await fail_once(stage, payments)
    async with stage.playing(as_it_is_now(), clock=clock) as choreo:
        view = await choreo.wait("s1", timeout=20)
    assert (view.status, view.dead_letters, runs) == ("compensated", 1, [1])
    assert "has no step charge" in view.reason


async def test_its_undo_is_missed_as_well(stage: Stage) -> None:
    """The step may have taken effect, and nobody can undo it any more: the saga has failed, visibly."""
    runs: list[int] = []
    payments = Participant("payments")

    @payments.on(Placed, retry=NEVER)
    async def charge(placed: Placed, ctx: Context) -> Paid:
        runs.append(ctx.attempt)
        raise OSError("no line")

    @charge.undo
    async def refund(placed: Placed, paid: Paid | None) -> None:
        raise AssertionError("it is gone, too")

    clock = await fail_once(stage, payments)
    async with stage.playing(as_it_is_now(), clock=clock) as choreo:
        view = await choreo.wait("s1", timeout=20)
    assert (view.status, view.dead_letters, runs) == ("failed", 2, [1])
