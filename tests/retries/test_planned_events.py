"""Events that a handler plans for later: published once when they are due, unless their saga is over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from retry_kit import (
    NOW,
    Declined,
    HandClock,
    Paid,
    Placed,
    Refunded,
    Reserved,
    Shipped,
    Stage,
    until,
    until_view,
)

from choreo import Abort, Choreography, Context, Participant
from choreo.errors import EventError
from choreo.model.trace import Plan

pytestmark = pytest.mark.anyio


def reminding(after: float | timedelta = 60) -> Participant:
    """It answers Placed with Paid, and with Shipped some time later."""
    payments = Participant("payments")

    @payments.on(Placed)
    async def charge(placed: Placed, ctx: Context) -> Paid | Shipped:
        ctx.emit(Shipped(), after=after)
        return Paid()

    @charge.undo
    async def refund(placed: Placed, ctx: Context) -> Refunded:
        return Refunded()

    return payments


@asynccontextmanager
async def started(
    stage: Stage, clock: HandClock, *participants: Participant
) -> AsyncIterator[Choreography]:
    async with stage.playing(*participants, clock=clock) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        await until(lambda: stage.emitted("Paid"), "the step to commit")
        yield choreo


async def test_it_comes_when_it_is_due(stage: Stage) -> None:
    """Not a millisecond earlier; it is an event like any other then, and ends its saga."""
    clock = HandClock()
    async with started(stage, clock, reminding()) as choreo:
        (due,) = await stage.due()
        clock.advance(59.999)
        assert await stage.move_due(clock()) == (0, due)
        assert await stage.emitted("Shipped") == []
        clock.advance(0.001)
        view = await choreo.wait("s1", timeout=20)
        trace = await choreo.trace("s1")
    assert view.status == "completed"
    assert view.done == {"payments/charge": 1}
    (shipped,) = await stage.emitted("Shipped")
    assert (shipped["source"], shipped["state"], int(shipped["time"])) == (
        "payments/charge", "completed", NOW + 60_000
    )  # fmt: skip
    (reaction,) = trace.events[0].reactions
    assert reaction.planned == [Plan("Shipped", due, "published")]
    assert [each.type for each in reaction.emitted] == ["Paid", "Shipped"]
    assert reaction.worked_ms < 60_000
    assert await stage.due() == []
    assert await stage.pending() == []


async def test_a_timedelta(stage: Stage) -> None:
    """``after`` may be a ``timedelta``."""
    clock = HandClock()
    async with started(stage, clock, reminding(timedelta(hours=2))):
        assert await stage.due() == [NOW + 7_200_000]


async def test_zero_is_at_once(stage: Stage) -> None:
    """Nothing is parked for it."""
    async with stage.playing(reminding(0)) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        assert (await choreo.wait("s1", timeout=20)).status == "completed"
        assert (await choreo.trace("s1")).events[0].reactions[0].planned == []


async def test_a_saga_that_waits_for_a_plan_says_so(stage: Stage) -> None:
    """Its trace names the event, who planned it and when it is due."""
    clock = HandClock()
    async with started(stage, clock, reminding()) as choreo:
        await until_view(choreo, "s1", lambda view: view.events == 2, "both events")
        (awaited,) = [each for each in (await choreo.trace("s1")).awaits if each.what == "plan"]
    assert (awaited.type, awaited.handler, awaited.due) == ("Shipped", "payments/charge", NOW + 60_000)


async def test_it_is_cancelled_when_its_saga_aborts(stage: Stage) -> None:
    """At once, and not only when it would be due; the trace says that it is void."""
    clock = HandClock()
    async with started(stage, clock, reminding()) as choreo:
        assert len(await stage.due()) == 1
        await choreo.compensate("s1")
        assert await stage.due() == []
        view = await choreo.wait("s1", timeout=20)
        clock.advance(3600)
        assert await stage.move_due(clock()) == (0, None)
        trace = await choreo.trace("s1")
    assert view.status == "compensated"
    assert await stage.emitted("Shipped") == []
    assert [each.became for each in trace.events[0].reactions[0].planned] == ["void"]
    assert await stage.call("HLEN", stage.topology.keys.parked(0)) == 0


async def test_it_is_cancelled_when_its_saga_completes(stage: Stage) -> None:
    """A plan is part of its saga, and void with it."""
    clock, shipping = HandClock(), Participant("shipping")

    @shipping.on(Paid)
    async def ship(paid: Paid) -> Shipped:
        return Shipped()

    async with started(stage, clock, reminding(), shipping) as choreo:
        assert (await choreo.wait("s1", timeout=20)).status == "completed"
        assert await stage.due() == []
    assert len(await stage.emitted("Shipped")) == 1


async def test_a_plan_of_a_commit_that_ends_the_saga(stage: Stage) -> None:
    """It is void from the beginning."""
    payments = Participant("payments")

    @payments.on(Placed)
    async def charge(placed: Placed, ctx: Context) -> Shipped | Paid:
        ctx.emit(Paid(), after=60)
        return Shipped()

    async with stage.playing(payments) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        assert (await choreo.wait("s1", timeout=20)).status == "completed"
        trace = await choreo.trace("s1")
    assert await stage.due() == []
    assert [each.became for each in trace.events[0].reactions[0].planned] == ["void"]


async def test_it_was_on_its_way_when_the_saga_aborted(stage: Stage) -> None:
    """It had been moved to the inbox already: the gate refuses it, and nothing is published."""
    clock, worker = HandClock(), reminding()
    async with stage.playing(worker, clock=clock, mover=False) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        await until(lambda: stage.emitted("Paid"), "the step to commit")
    clock.advance(60)
    assert (await stage.move_due(clock()))[0] == 1
    await choreo.compensate("s1")
    async with stage.playing(worker, clock=clock) as choreo:
        assert (await choreo.wait("s1", timeout=20)).status == "compensated"
        await until(lambda: _nothing_unread(stage), "the inbox to be empty")
    assert await stage.emitted("Shipped") == []


async def _nothing_unread(stage: Stage) -> bool:
    inbox = stage.topology.keys.inbox(0, "payments")
    groups = await stage.call("XINFO", "GROUPS", inbox)
    last = (await stage.call("XREVRANGE", inbox, "+", "-", "COUNT", 1))[0][0]
    named = [dict(zip(each[::2], each[1::2], strict=True)) for each in groups]
    return all(each[b"last-delivered-id"] == last and each[b"pending"] == 0 for each in named)


async def test_it_is_published_once_however_often_it_is_delivered(stage: Stage) -> None:
    """Its inbox set back to the beginning changes nothing: it has a done mark of its own."""
    clock = HandClock()
    async with started(stage, clock, reminding()) as choreo:
        clock.advance(60)
        await choreo.wait("s1", timeout=20)
        await stage.call("XGROUP", "SETID", stage.topology.keys.inbox(0, "payments"), "payments", "0")
        await until(lambda: _nothing_unread(stage), "the inbox to be read again")
    assert len(await stage.emitted("Shipped")) == 1


async def test_it_aborts_its_saga_when_it_comes(stage: Stage) -> None:
    """An event of ``aborts_with`` does what it says when it is published, and not when it is planned."""
    clock, payments = HandClock(), Participant("payments")

    @payments.on(Placed)
    async def charge(placed: Placed, ctx: Context) -> Paid | Declined:
        ctx.emit(Declined(), after=30)
        return Paid()

    @charge.undo
    async def refund(placed: Placed, ctx: Context) -> Refunded:
        return Refunded()

    async with started(stage, clock, payments) as choreo:
        assert (await until_view(choreo, "s1", lambda view: view.events == 2, "Paid")).status == "running"
        clock.advance(30)
        view = await choreo.wait("s1", timeout=20)
    assert view.status == "compensated"
    assert view.reason == "Declined from payments/charge"
    assert view.undone == {"payments/charge": 1}


async def test_what_it_causes_is_undone_before_what_planned_it(stage: Stage) -> None:
    """A planned event carries its causes along: the chain unwinds backwards across it."""
    clock, order = HandClock(), []
    payments, stock = Participant("payments"), Participant("stock")

    @payments.on(Placed)
    async def charge(placed: Placed, ctx: Context) -> Paid | Reserved:
        ctx.emit(Reserved(), after=30)
        return Paid()

    @charge.undo
    async def refund(placed: Placed, ctx: Context) -> None:
        order.append("refund")

    @stock.on(Reserved)
    async def pick(reserved: Reserved) -> None: ...

    @pick.undo
    async def put_back(reserved: Reserved, ctx: Context) -> None:
        order.append("put back")

    async with started(stage, clock, payments, stock) as choreo:
        clock.advance(30)
        await until_view(choreo, "s1", lambda view: "stock/pick" in view.done, "the second step")
        await choreo.compensate("s1")
        assert (await choreo.wait("s1", timeout=20)).status == "compensated"
    assert order == ["put back", "refund"]


async def test_what_an_undo_plans_comes_in_any_case(stage: Stage) -> None:
    """The way back is gone to its end, though the saga has ended meanwhile."""
    clock, payments = HandClock(), Participant("payments")

    @payments.on(Placed)
    async def charge(placed: Placed) -> Paid:
        return Paid()

    @charge.undo
    async def refund(placed: Placed, ctx: Context) -> Refunded:
        ctx.emit(Refunded(), after=30)
        return Refunded()

    async with started(stage, clock, payments) as choreo:
        await choreo.compensate("s1")
        assert (await choreo.wait("s1", timeout=20)).status == "compensated"
        clock.advance(30)
        await until(lambda: _count(stage, 2), "the planned event")
    assert {each["phase"] for each in await stage.emitted("Refunded")} == {"back"}


async def _count(stage: Stage, wanted: int) -> bool:
    return len(await stage.emitted("Refunded")) == wanted


async def test_a_handler_that_fails_plans_nothing(stage: Stage) -> None:
    """What it planned goes with what it emitted."""
    payments = Participant("payments")

    @payments.on(Placed)
    async def charge(placed: Placed, ctx: Context) -> Paid:
        ctx.emit(Paid(), after=1)
        raise Abort("no")

    async with stage.playing(payments) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        assert (await choreo.wait("s1", timeout=20)).status == "compensated"
    assert await stage.due() == []


@pytest.mark.parametrize("after", [-1, float("nan"), float("inf"), timedelta(days=400)])
def test_times_that_make_no_sense(after: float | timedelta) -> None:
    """They are refused where they stand, and the message says what is allowed."""
    ctx = Context("s1", "order", "payments", "charge", "e1", "k1")
    with pytest.raises(EventError, match=r"charge emits an event after .*; at least 0 and at most a year"):
        ctx.emit(Shipped(), after=after)
