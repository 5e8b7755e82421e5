"""Sagas that abort while a step of theirs waits for its next attempt."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import anyio
import pytest
from retry_kit import NEVER, NOW, HandClock, Paid, Placed, Refunded, Reserved, Stage, quick, until, until_view

from choreo import Abort, Choreography, Context, Participant
from choreo.model.facts import Kind

pytestmark = pytest.mark.anyio


@dataclass
class Shop:
    """Payments that cannot reach the bank, for an hour; and what was run of them."""

    undoable: bool = True
    runs: list[int] = field(default_factory=list)
    undone: list[Paid | None] = field(default_factory=list)
    clock: HandClock = field(default_factory=HandClock)

    def payments(self) -> Participant:
        payments = Participant("payments")

        @payments.on(Placed, retry=NEVER)
        async def charge(placed: Placed, ctx: Context) -> Paid:
            self.runs.append(ctx.attempt)
            raise OSError("no line")

        if self.undoable:

            @charge.undo
            async def refund(placed: Placed, paid: Paid | None) -> Refunded:
                self.undone.append(paid)
                return Refunded()

        return payments

    @asynccontextmanager
    async def parked(self, stage: Stage, *others: Participant) -> AsyncIterator[Choreography]:
        """A saga whose payment waits for its second attempt, an hour from now."""
        async with stage.playing(self.payments(), *others, clock=self.clock) as choreo:
            await choreo.start(Placed(), saga_id="s1")
            # Not among the timers: another branch may have had it moved on already.
            await until(lambda: _tells_of_retry(stage), "the retry to be parked")
            yield choreo


async def _tells_of_retry(stage: Stage) -> bool:
    return any(entry["kind"] == "retrying" for entry in await stage.entries("journal"))


async def test_the_undo_is_asked_for_at_once(stage: Stage) -> None:
    """It is not run again; as nobody knows what the first attempt did, it is undone, an hour early."""
    shop = Shop()
    async with shop.parked(stage) as choreo:
        await choreo.compensate("s1")
        view = await choreo.wait("s1", timeout=20)
        assert shop.clock.now == NOW
    assert (view.status, view.undone) == ("compensated", {"payments/charge": 1})
    assert shop.runs == [1]
    assert shop.undone == [None]
    assert len(await stage.emitted("Refunded")) == 1
    assert await stage.emitted("Paid") == []
    assert await stage.due() == []
    assert await stage.pending() == []
    assert await stage.letters() == []


async def test_another_branch_that_aborts_does_the_same(stage: Stage) -> None:
    """An Abort, and an attempt of another step that fails for good, unwind a parked step at once."""
    shop = Shop()
    inventory = Participant("inventory")

    @inventory.on(Placed, retry=quick(1))
    async def reserve(placed: Placed, ctx: Context) -> Reserved:
        await until(stage.due, "the payment's retry to be parked")
        raise Abort("sold out")

    async with shop.parked(stage, inventory) as choreo:
        view = await choreo.wait("s1", timeout=20)
    assert (view.status, view.reason) == ("compensated", "inventory/reserve: sold out")
    assert (shop.runs, shop.undone) == ([1], [None])


async def test_without_an_undo_it_is_skipped(stage: Stage) -> None:
    """The saga is compensated at once; when the retry is due, it is not run."""
    shop = Shop(undoable=False)
    async with shop.parked(stage) as choreo:
        await choreo.compensate("s1")
        assert (await choreo.wait("s1", timeout=20)).status == "compensated"
        shop.clock.advance(3600)
        await until(lambda: stage.journal("skipped"), "the retry to be skipped")
        view = await until_view(choreo, "s1", lambda view: view.updated == shop.clock.now, "that")
        trace = await choreo.trace("s1")
    assert view.status == "compensated"
    assert shop.runs == [1]
    (reaction,) = trace.events[0].reactions
    assert [each.number for each in reaction.failed] == [1]
    assert reaction.outcome is Kind.SKIPPED
    assert await stage.letters() == []


async def test_an_attempt_that_fails_while_the_saga_unwinds(stage: Stage) -> None:
    """It is the last one: nothing is parked, and the step is undone at once."""
    undone: list[Paid | None] = []
    runs: list[int] = []
    payments = Participant("payments")
    unwinding = anyio.Event()

    @payments.on(Placed, retry=NEVER)
    async def charge(placed: Placed, ctx: Context) -> Paid:
        runs.append(ctx.attempt)
        await unwinding.wait()
        raise OSError("no line")

    @charge.undo
    async def refund(placed: Placed, paid: Paid | None) -> None:
        undone.append(paid)

    async with stage.playing(payments, clock=HandClock()) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        await until(lambda: runs, "the step to run")
        await choreo.compensate("s1")
        unwinding.set()
        view = await choreo.wait("s1", timeout=20)
    assert (runs, undone) == ([1], [None])
    assert (view.status, view.dead_letters) == ("compensated", 0)
    assert await stage.due() == []
    assert await stage.pending() == []


async def test_a_second_attempt_that_succeeds_while_the_saga_unwinds(stage: Stage) -> None:
    """It has taken effect: its event is withheld, and it is undone with its result."""
    undone: list[Paid | None] = []
    payments = Participant("payments")
    clock = HandClock()
    running, unwinding = anyio.Event(), anyio.Event()

    @payments.on(Placed, retry=NEVER)
    async def charge(placed: Placed, ctx: Context) -> Paid:
        if ctx.attempt == 1:
            raise OSError("no line")
        running.set()
        await unwinding.wait()
        return Paid(42)

    @charge.undo
    async def refund(placed: Placed, paid: Paid | None) -> None:
        undone.append(paid)

    async with stage.playing(payments, clock=clock) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        await until(stage.due, "the retry to be parked")
        clock.advance(3600)
        await running.wait()
        await choreo.compensate("s1")
        unwinding.set()
        assert (await choreo.wait("s1", timeout=20)).status == "compensated"
    assert undone == [Paid(42)]
    assert await stage.emitted("Paid") == []


async def test_a_join_that_is_parked_is_undone_with_its_events(stage: Stage) -> None:
    """The undo of a join in doubt gets the very events that the join got."""
    undone: list[tuple[int, object]] = []
    clock = HandClock()
    payments, shipping = Participant("payments"), Participant("shipping")

    @payments.on(Placed)
    async def charge(placed: Placed) -> tuple[Paid, Reserved]:
        return Paid(placed.amount), Reserved()

    @shipping.on_all(Paid, Reserved, retry=NEVER)
    async def send(paid: Paid, reserved: Reserved) -> None:
        raise OSError("no truck")

    @send.undo
    async def recall(paid: Paid, reserved: Reserved) -> None:
        undone.append((paid.amount, reserved))

    async with stage.playing(payments, shipping, clock=clock) as choreo:
        await choreo.start(Placed(42), saga_id="s1")
        await until(stage.due, "the retry to be parked")
        await choreo.compensate("s1")
        assert (await choreo.wait("s1", timeout=20)).status == "compensated"
    assert undone == [(42, Reserved())]
    assert await stage.due() == []


async def test_only_the_saga_that_aborts_is_hurried(stage: Stage) -> None:
    """Another saga's retry stays parked, also if the events of both have one id, as producers may choose."""
    shop = Shop()
    stream = stage.topology.keys.stream(0, "orders")

    async def state(saga_id: str) -> Any:
        return await stage.broker.sagas.state(saga_id)

    async with stage.playing(shop.payments(), clock=shop.clock) as choreo:
        for saga in ("s1", "s2"):
            fields = ("id", "1", "type", "Placed", "subject", saga, "data", "{}")
            await stage.call("XADD", stream, "*", *fields)

        async def both() -> bool:
            return len(await stage.due()) == 2

        await until(both, "both retries to be parked")
        await choreo.compensate("s1")
        await until(lambda: stage.has_ended("s1"), "s1 to end")
        assert await state("s2") == "running"
        assert await stage.due() == [NOW + 3_600_000]
    assert shop.runs == [1, 1]


async def test_the_workers_that_are_down_find_the_undo_when_they_are_back(stage: Stage) -> None:
    """The saga is unwound while no worker of the service runs; the next one undoes, and does not retry."""
    shop = Shop()
    async with shop.parked(stage):
        pass
    choreo = Choreography(stage.topology, stage.broker, shop.clock)
    await choreo.compensate("s1")
    async with stage.playing(shop.payments(), clock=shop.clock) as choreo:
        assert (await choreo.wait("s1", timeout=20)).status == "compensated"
    assert (shop.runs, shop.undone) == ([1], [None])
