"""Attempts that take too long."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator

import anyio
import pytest
from retry_kit import Paid, Placed, Reserved, Shipped, Stage, quick, until

from choreo import Abort, Context, Participant
from choreo.model.facts import Kind
from choreo.model.policy import Policy
from choreo.wire.topology import Topology

pytestmark = pytest.mark.anyio


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What hanging threads wait for; it opens after the test."""
    opened = threading.Event()
    yield opened
    opened.set()


async def test_an_async_handler_is_cancelled(stage: Stage) -> None:
    """It is told, may tidy up, and its attempt has failed with TimeoutError; the next one follows."""
    told: list[int] = []
    payments = Participant("payments")

    @payments.on(Placed, timeout=0.05, retry=quick(3))
    async def charge(placed: Placed, ctx: Context) -> Shipped:
        if ctx.attempt < 3:
            try:
                await anyio.sleep(3600)
            finally:
                told.append(ctx.attempt)
        return Shipped()

    async with stage.playing(payments) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        view = await choreo.wait("s1", timeout=20)
        trace = await choreo.trace("s1")
    assert told == [1, 2]
    assert (view.status, view.retries) == ("completed", 2)
    (reaction,) = trace.events[0].reactions
    assert {each.note for each in reaction.failed} == {"TimeoutError: took longer than 0.05 s"}
    assert len(await stage.emitted("Shipped")) == 1


async def test_a_sync_handler_is_abandoned(stage: Stage, gate: threading.Event) -> None:
    """Its thread goes on unseen: the attempt has failed, and what it returns later is lost."""
    runs: list[int] = []
    payments = Participant("payments")

    @payments.on(Placed, timeout=0.05, retry=quick(50))
    def charge(placed: Placed, ctx: Context) -> Shipped:
        runs.append(ctx.attempt)
        if ctx.attempt == 1:
            gate.wait(20)
        return Shipped()

    async with stage.playing(payments) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        view = await choreo.wait("s1", timeout=20)
        gate.set()
        await choreo.start(Placed(), saga_id="s2")
        await choreo.wait("s2", timeout=20)
    assert runs[:2] == [1, 2]
    assert view.status == "completed"
    assert view.last_error is not None
    assert view.last_error.message == "TimeoutError: took longer than 0.05 s"
    assert len([each for each in await stage.emitted("Shipped") if each["subject"] == "s1"]) == 1


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_attempts_that_all_take_too_long(fake_stage: Stage, gate: threading.Event, kind: str) -> None:
    """They are used up like others: a dead letter, and the step is undone, for it may have taken effect."""
    undone: list[Paid | None] = []
    payments = Participant("payments")

    if kind == "async":

        @payments.on(Placed, timeout=0.05, retry=quick(2))
        async def charge(placed: Placed) -> Paid:
            await anyio.sleep(3600)
            return Paid()
    else:

        @payments.on(Placed, timeout=0.05, retry=quick(2))
        def charge(placed: Placed) -> Paid:
            gate.wait(20)
            return Paid()

    @charge.undo
    async def refund(placed: Placed, paid: Paid | None) -> None:
        undone.append(paid)

    async with fake_stage.playing(payments) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        view = await choreo.wait("s1", timeout=20)
    assert (view.status, view.retries, view.dead_letters) == ("compensated", 1, 1)
    assert view.reason == "payments/charge: TimeoutError: took longer than 0.05 s"
    assert undone == [None]


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_handler_that_is_fast_enough(fake_stage: Stage, kind: str) -> None:
    """Its timeout changes nothing."""
    payments = Participant("payments")

    if kind == "async":

        @payments.on(Placed, timeout=10)
        async def charge(placed: Placed) -> Shipped:
            await anyio.sleep(0.02)
            return Shipped()
    else:

        @payments.on(Placed, timeout=10)
        def charge(placed: Placed) -> Shipped:
            time.sleep(0.02)
            return Shipped()

    async with fake_stage.playing(payments) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        view = await choreo.wait("s1", timeout=20)
    assert (view.status, view.retries) == ("completed", 0)


async def test_waiting_for_a_thread_is_not_the_handlers_time(fake_stage: Stage) -> None:
    """A sync handler that had to wait for a free thread has its whole timeout still before it."""
    payments = Participant("payments")

    @payments.on(Placed, timeout=0.6, retry=quick(1))
    def charge(placed: Placed) -> Shipped:
        time.sleep(0.1)
        return Shipped()

    sagas = [f"s{number}" for number in range(10)]
    async with fake_stage.playing(payments, threads=1) as choreo:
        for saga in sagas:
            await choreo.start(Placed(), saga_id=saga)
        views = [await choreo.wait(saga, timeout=20) for saga in sagas]
    assert [view.status for view in views] == ["completed"] * 10


async def test_threads_that_hang_do_not_use_up_all_threads(fake_stage: Stage, gate: threading.Event) -> None:
    """A handler that was abandoned gives its place to the next one."""
    payments = Participant("payments")

    @payments.on(Placed, timeout=0.05, retry=quick(1))
    def charge(placed: Placed) -> Paid:
        gate.wait(20)
        return Paid()

    @payments.on(Reserved, timeout=20)
    def send(reserved: Reserved) -> Shipped:
        return Shipped()

    async with fake_stage.playing(payments, threads=2) as choreo:
        for number in range(3):
            await choreo.start(Placed(), saga_id=f"s{number}")
        for number in range(3):
            assert (await choreo.wait(f"s{number}", timeout=20)).status == "compensated"
        stock = fake_stage.topology.keys.stream(0, "stock")
        fields = ("id", "r1", "type", "Reserved", "subject", "fresh", "sagatype", "order", "data", "{}")
        await fake_stage.call("XADD", stock, "*", *fields)
        await until(lambda: fake_stage.emitted("Shipped"), "a handler that finds a thread")


async def test_what_a_handler_makes_of_its_cancellation_counts(fake_stage: Stage) -> None:
    """In the last moment it may return, abort, or raise an error of its own."""
    payments = Participant("payments")

    @payments.on(Placed, timeout=0.05, retry=quick(1))
    async def charge(placed: Placed, ctx: Context) -> Shipped:
        try:
            await anyio.sleep(3600)
        except asyncio.CancelledError:
            if ctx.saga_id == "abort":
                raise Abort("it took too long") from None
            if ctx.saga_id == "error":
                raise ValueError("it took too long") from None
        return Shipped()

    reasons = {"return": "", "abort": "it took too long", "error": "ValueError: it took too long"}
    async with fake_stage.playing(payments) as choreo:
        for saga in reasons:
            await choreo.start(Placed(), saga_id=saga)
        for saga, reason in reasons.items():
            view = await choreo.wait(saga, timeout=20)
            assert view.status == ("compensated" if reason else "completed")
            assert view.reason == (f"payments/charge: {reason}" if reason else "")


async def test_timeouts_of_the_handlers_own_are_ordinary_errors(fake_stage: Stage) -> None:
    """`asyncio.timeout` or `anyio.fail_after` within a handler are its own business."""
    payments = Participant("payments")

    @payments.on(Placed, timeout=30, retry=quick(3))
    async def charge(placed: Placed, ctx: Context) -> Shipped:
        if ctx.attempt == 1:
            async with asyncio.timeout(0.01):
                await anyio.sleep(3600)
        if ctx.attempt == 2:
            with anyio.fail_after(0.01):
                await anyio.sleep(3600)
        return Shipped()

    async with fake_stage.playing(payments) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        view = await choreo.wait("s1", timeout=20)
    assert (view.status, view.retries) == ("completed", 2)
    assert view.last_error is not None
    assert view.last_error.message == "TimeoutError"


async def test_an_undo_that_takes_too_long(fake_stage: Stage) -> None:
    """It is tried again, as steps are."""
    runs: list[int] = []
    payments, shipping = Participant("payments"), Participant("shipping")

    @payments.on(Placed)
    async def charge(placed: Placed) -> Paid:
        return Paid()

    @charge.undo(timeout=0.05, retry=quick(2))
    async def refund(placed: Placed, ctx: Context) -> None:
        runs.append(ctx.attempt)
        if ctx.attempt == 1:
            await anyio.sleep(3600)

    @shipping.on(Paid)
    async def send(paid: Paid) -> None:
        raise Abort("no truck")

    async with fake_stage.playing(payments, shipping) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        view = await choreo.wait("s1", timeout=20)
        trace = await choreo.trace("s1")
    assert runs == [1, 2]
    assert view.status == "compensated"
    (undo,) = trace.events[0].reactions[0].undone_by
    assert [(each.number, each.note) for each in undo.failed] == [
        (1, "TimeoutError: took longer than 0.05 s")
    ]
    assert undo.outcome is Kind.UNDONE


async def test_the_default_timeout(fake_stage: Stage) -> None:
    """`defaults` of the topology hold for handlers that do not say otherwise."""
    topology = fake_stage.topology
    defaults = Policy(quick(1), timeout=0.05)
    strict = Topology(topology.namespace, 1, topology.streams, {}, topology.sagas, defaults)
    payments = Participant("payments")

    @payments.on(Placed)
    async def charge(placed: Placed) -> None:
        await anyio.sleep(3600)

    async with Stage(strict, fake_stage.broker).playing(payments) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        assert (await choreo.wait("s1", timeout=20)).reason.endswith("took longer than 0.05 s")
