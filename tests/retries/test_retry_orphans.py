"""An attempt falls due, but a new version of the participant has no such step any more."""

from __future__ import annotations

import anyio
import pytest
from retry_kit import NEVER, HandClock, Paid, Placed, Reserved, Shipped, Stage, quick, until

from choreo import Choreography, Context, Participant

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


def with_undo(began: anyio.Event) -> Participant:
    """The participant before the deploy: its step can be undone."""
    payments = Participant("payments")

    @payments.on(Placed)
    async def charge(placed: Placed) -> Paid:
        began.set()
        await anyio.sleep_forever()

    @charge.undo
    async def refund(placed: Placed, paid: Paid | None) -> None:
        raise AssertionError("it is gone")

    return payments


def without_undo(stage: Stage, attempts: int) -> Participant:
    """The participant after the deploy: while its step runs and fails, an operator unwinds the saga."""
    payments = Participant("payments")

    @payments.on(Placed, retry=quick(attempts))
    async def charge(placed: Placed) -> Paid:
        await Choreography(stage.topology, stage.broker).compensate("s1")
        raise OSError("no line")

    return payments


@pytest.mark.parametrize("attempts", [1, 2])
async def test_a_step_whose_undo_is_gone(fake_stage: Stage, attempts: int) -> None:
    """Where an older version of the step began, its undo is missed: that is a dead letter, and its saga does
    not unwind for ever.
    """
    stage, began = fake_stage, anyio.Event()
    async with stage.playing(with_undo(began)) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        await began.wait()
    async with stage.playing(without_undo(stage, attempts), lease=0.2) as choreo:
        view = await choreo.wait("s1", timeout=20)
    assert view.status == "failed"
    assert ("s1", "undo-failed") in await stage.reasons()
