"""Workers that are told to stop: they end in time, and others get what they leave at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest
from retry_kit import PATIENCE, HandClock, Placed, Shipped, Stage, quick, until

from choreo import Choreography, Context, Participant
from choreo.runtime.worker import Worker

pytestmark = pytest.mark.anyio

GRACE = 0.2
#: How much longer than its grace a worker may take: a read waits a second at the server.
SLACK = 5.0
#: A lease whose end no test sees.
LONG = 600.0


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """What hanging threads wait for; it is set after the test."""
    released = threading.Event()
    yield released
    released.set()


def hanging(runs: list[str], release: threading.Event, *, sync: bool) -> Participant:
    """A service whose handlers do not return."""
    payments = Participant("payments")

    if sync:

        @payments.on(Placed)
        def charge(placed: Placed, ctx: Context) -> Shipped:
            runs.append(ctx.saga_id)
            release.wait(PATIENCE)
            return Shipped()
    else:

        @payments.on(Placed)
        async def charge(placed: Placed, ctx: Context) -> Shipped:
            runs.append(ctx.saga_id)
            await anyio.sleep_forever()
            return Shipped()

    return payments


def brisk(runs: list[str]) -> Participant:
    """A service whose handlers return at once."""
    payments = Participant("payments")

    @payments.on(Placed)
    async def charge(placed: Placed, ctx: Context) -> Shipped:
        runs.append(ctx.saga_id)
        return Shipped()

    return payments


async def begin(stage: Stage, count: int) -> list[str]:
    choreo = Choreography(stage.topology, stage.broker)
    return [await choreo.start(Placed(), saga_id=f"s{number}") for number in range(count)]


async def all_done(stage: Stage, sagas: list[str]) -> bool:
    return all([await stage.has_ended(saga) for saga in sagas]) and await stage.is_settled()


@asynccontextmanager
async def employed(worker: Worker) -> AsyncIterator[asyncio.Task[None]]:
    """A worker at work, as a task that ends when its run() does."""
    task = asyncio.ensure_future(worker.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
async def test_slots_full_of_handlers_that_hang(stage: Stage, release: threading.Event, sync: bool) -> None:
    """run() returns when the grace is over; a worker that starts then runs at once what was left."""
    runs: list[str] = []
    again: list[str] = []
    sagas = await begin(stage, 5)
    worker = stage.worker(hanging(runs, release, sync=sync), concurrency=3, grace=GRACE, lease=LONG)
    async with employed(worker) as task:
        await until(lambda: len(runs) == 2, "both slots to be full")
        worker.stop()
        with anyio.fail_after(GRACE + SLACK):
            await task
    async with stage.running(stage.worker(brisk(again), lease=LONG)):
        await until(lambda: all_done(stage, sagas), "the next worker to do all of it")
    release.set()
    assert sorted(again) == sagas
    assert len(await stage.emitted("Shipped")) == len(sagas)


async def test_a_colleague_takes_over_at_once(stage: Stage, release: threading.Event) -> None:
    """Also a worker that has been running all the time need not wait for the lease to run out."""
    runs: list[str] = []
    again: list[str] = []
    leaver = stage.worker(hanging(runs, release, sync=False), concurrency=3, grace=GRACE, lease=LONG)
    async with employed(leaver):
        sagas = await begin(stage, 2)
        await until(lambda: len(runs) == 2, "both to be in hand")
        async with stage.running(stage.worker(brisk(again), lease=LONG)):
            leaver.stop()
            await until(lambda: all_done(stage, sagas), "the colleague to take over", seconds=SLACK)
    assert sorted(again) == sagas


async def test_handlers_may_finish_within_the_grace(fake_stage: Stage) -> None:
    """What ends in time is committed by the worker that began it, and runs once."""
    runs: list[str] = []
    finish = anyio.Event()
    payments = Participant("payments")

    @payments.on(Placed)
    async def charge(placed: Placed, ctx: Context) -> Shipped:
        runs.append(ctx.saga_id)
        await finish.wait()
        return Shipped()

    sagas = await begin(fake_stage, 3)
    worker = fake_stage.worker(payments, grace=PATIENCE, lease=LONG)
    async with employed(worker) as task:
        await until(lambda: len(runs) == 3, "all to be in hand")
        worker.stop()
        await anyio.lowlevel.checkpoint()
        assert not task.done()
        finish.set()
        with anyio.fail_after(SLACK):
            await task
    assert await all_done(fake_stage, sagas)
    assert sorted(runs) == sagas


async def test_what_ends_after_the_grace_is_not_committed(
    fake_stage: Stage, release: threading.Event
) -> None:
    """A thread that goes on unseen, and returns when somebody else has the delivery, changes nothing."""
    runs: list[str] = []
    again: list[str] = []
    sagas = await begin(fake_stage, 1)
    worker = fake_stage.worker(hanging(runs, release, sync=True), grace=GRACE, lease=LONG)
    async with employed(worker) as task:
        await until(lambda: runs, "it to be in hand")
        worker.stop()
        with anyio.fail_after(GRACE + SLACK):
            await task
    release.set()
    assert not await fake_stage.has_ended("s0")
    async with fake_stage.running(fake_stage.worker(brisk(again), lease=LONG)):
        await until(lambda: all_done(fake_stage, sagas), "the next worker to do it")
    assert again == ["s0"]
    assert len(await fake_stage.emitted("Shipped")) == 1


async def test_an_idle_worker_ends_at_once(stage: Stage) -> None:
    """There is nothing to wait for; stopping it twice makes no difference."""
    worker = stage.worker(brisk([]), grace=PATIENCE)
    async with employed(worker) as task:
        await anyio.lowlevel.checkpoint()
        worker.stop()
        worker.stop()
        with anyio.fail_after(SLACK):
            await task


async def test_a_worker_that_has_stopped_leaves_no_consumer(fake_stage: Stage) -> None:
    """Consumers of workers that are gone do not pile up."""
    sagas = await begin(fake_stage, 3)
    worker = fake_stage.worker(brisk([]))
    async with employed(worker) as task:
        await until(lambda: all_done(fake_stage, sagas), "the sagas to end")
        worker.stop()
        with anyio.fail_after(SLACK):
            await task
    keys = fake_stage.topology.keys
    for key in (keys.stream(0, "orders"), keys.inbox(0, "payments")):
        assert await fake_stage.call("XINFO", "CONSUMERS", key, "payments") == []


async def test_retries_do_not_hold_up_the_end(fake_stage: Stage) -> None:
    """What is parked is in nobody's hands: the worker ends, and its successor finds it."""
    runs: list[int] = []
    clock = HandClock()
    payments = Participant("payments")

    @payments.on(Placed, retry=quick(2))
    async def charge(placed: Placed, ctx: Context) -> Shipped:
        runs.append(ctx.attempt)
        if ctx.attempt == 1:
            raise OSError("no line")
        return Shipped()

    sagas = await begin(fake_stage, 1)
    worker = fake_stage.worker(payments, clock, grace=PATIENCE, lease=LONG)
    async with employed(worker) as task:
        await until(fake_stage.due, "the retry to be parked")
        worker.stop()
        with anyio.fail_after(SLACK):
            await task
    clock.advance(1)
    async with fake_stage.running(fake_stage.worker(payments, clock, lease=LONG)):
        await until(lambda: all_done(fake_stage, sagas), "the saga to end")
    assert runs == [1, 2]


async def test_a_handler_that_cleans_up_keeps_its_delivery_until_it_has(real_stage: Stage) -> None:
    """A handler is cancelled at the end of the grace period, and takes longer than a lease to put things in
    order: nobody else begins before it has ended."""
    told: list[str] = []
    tidy = anyio.Event()

    def service(name: str) -> Participant:
        payments = Participant("payments")

        @payments.on(Placed)
        async def charge(placed: Placed) -> None:
            told.append(f"{name} begins")
            if name == "old":
                try:
                    await anyio.sleep_forever()
                finally:
                    with anyio.CancelScope(shield=True):
                        told.append("old tidies up")
                        await tidy.wait()
                    told.append("old has ended")

        return payments

    old = real_stage.worker(service("old"), lease=0.3, grace=0.1)
    key = real_stage.topology.keys.stream(0, "orders")
    async with anyio.create_task_group() as tasks:
        await tasks.start(old.run)
        await real_stage.call("XADD", key, "*", "id", "e1", "type", "Placed", "subject", "s1", "data", "{}")
        await until(lambda: told, "the handler to begin")
        async with real_stage.running(real_stage.worker(service("new"), lease=0.3)):
            old.stop()
            await until(lambda: "old tidies up" in told, "the grace period to end")
            # The heir looks for what is left two times a lease.
            with anyio.move_on_after(1.0):
                await until(lambda: "new begins" in told, "somebody else to begin", seconds=5)
            tidy.set()
            await until(lambda: "new begins" in told, "the heir to begin")
    assert told == ["old begins", "old tidies up", "old has ended", "new begins"]
