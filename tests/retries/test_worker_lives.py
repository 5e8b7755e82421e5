"""Lives: many in one task while they wait for the gate alone, each in its own as soon as it may wait for more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

import anyio
import pytest
from retry_kit import NOW, HandClock, Stage

from choreo.broker.gate import Head, Identity, Look
from choreo.broker.patience import Outage
from choreo.errors import Unsendable
from choreo.runtime.committer import Committer
from choreo.runtime.lives import Lives, apart, ask, ask_all, may_wait

pytestmark = pytest.mark.anyio

@asynccontextmanager
async def running(stage: Stage, *, answered: bool = True) -> AsyncIterator[Lives]:
    """Lives that are driven while the block runs. ``answered``: whether the gate is there to answer them."""
    outage = Outage(logging.getLogger("choreo.test"), "payments")
    committer = Committer(stage.broker.gate, Identity("payments", "one"), HandClock(), outage)
    async with anyio.create_task_group() as tasks:
        lives = Lives(tasks, committer)
        tasks.start_soon(lives.run)
        if answered:
            tasks.start_soon(committer.run)
        yield lives
        tasks.cancel_scope.cancel()


def look(saga_id: str) -> Look:
    """May a step run, of a saga in partition 0?"""
    head = Head(
        partition=0, stream="{t:0}:stream:orders", entry="1-0", deliveries=1, saga_id=saga_id, saga_type="order",
        step="charge", event="e1", type="Placed", token="t1", began=NOW,
    )  # fmt: skip
    return Look(head)


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition."""
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110 - the test asks from outside
            await anyio.sleep(0.001)


async def waits_by_name() -> None:
    await asyncio.sleep(0)


async def waits_in_a_block(lock: asyncio.Lock) -> None:
    async with lock:
        pass


async def waits_for_items() -> list[int]:
    async def items() -> AsyncIterator[int]:
        yield 1

    return [item async for item in items()]


async def waits_not() -> int:
    return sum(number for number in range(3))


@pytest.mark.parametrize(
    ("function", "may"),
    [(waits_by_name, True), (waits_in_a_block, True), (waits_for_items, True), (partial(waits_not), True), (waits_not, False)],
)
def test_what_may_wait_is_told_from_the_code(function: Callable[..., object], may: bool) -> None:
    """Only a coroutine function without any ``await`` surely never waits; in doubt it may."""
    assert may_wait(function) is may


async def test_lives_share_a_task_and_their_calls_have_their_own(fake_stage: Stage) -> None:
    """What is called apart has a task with all that belongs to one: here, a timeout."""
    shared: list[asyncio.Task[None] | None] = []
    own: list[asyncio.Task[None] | None] = []

    async def call(name: str) -> str:
        own.append(asyncio.current_task())
        with anyio.move_on_after(0.001):
            await anyio.sleep_forever()
        own.append(asyncio.current_task())
        return name

    async def live(name: str) -> None:
        await ask(look(name))
        shared.append(asyncio.current_task())
        assert await apart(lambda: call(name)) == name
        shared.append(asyncio.current_task())

    async with running(fake_stage) as lives:
        lives.start(live("a"))
        lives.start(live("b"))
        await until(lambda: len(shared) == 4)
    assert len(set(shared)) == 1
    assert len(set(own)) == 2
    assert shared[0] not in own


async def test_answers_and_errors_reach_a_life(fake_stage: Stage) -> None:
    """What cannot be sent is an error of who asks, and what a call raises an error of who calls."""
    heard: list[str] = []

    async def fail() -> None:
        await asyncio.sleep(0)
        raise LookupError("on purpose")

    async def live() -> None:
        heard.append((await ask(look("s1"))).verdict)
        try:
            await ask(look("\ud800"))
        except Unsendable:
            heard.append("unsendable")
        try:
            await apart(fail)
        except LookupError as error:
            heard.append(str(error))

    async with running(fake_stage) as lives:
        lives.start(live())
        await until(lambda: len(heard) == 3)
    assert heard == ["run", "unsendable", "on purpose"]


async def test_several_questions_are_answered_at_once_and_in_order(fake_stage: Stage) -> None:
    """A life may ask for many deliveries together."""
    await fake_stage.call("HSET", fake_stage.topology.keys.record(0, "s2"), "state", "compensating")
    heard: list[str] = []

    async def live() -> None:
        heard.extend([each.verdict for each in await ask_all([look("s1"), look("s2"), look("s3")])])

    async with running(fake_stage) as lives:
        lives.start(live())
        await until(lambda: heard)
    assert heard == ["run", "ask", "run"]


async def test_a_life_that_cancels_its_task_or_fails_harms_no_other(fake_stage: Stage) -> None:
    """The shared task survives what one of its lives does to it."""
    done: list[str] = []

    async def cancel() -> None:
        await ask(look("s1"))
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    async def fail() -> None:
        await ask(look("s1"))
        raise ValueError("on purpose")

    async def live() -> None:
        await ask(look("s1"))
        done.append("lived")

    async with running(fake_stage) as lives:
        lives.start(cancel())
        lives.start(fail())
        lives.start(live())
        await until(lambda: len(done) == 1)
        await asyncio.sleep(0)
        lives.start(live())
        await until(lambda: len(done) == 2)


async def test_lives_end_with_what_drives_them(fake_stage: Stage) -> None:
    """Those that wait are closed, and nobody commits any more what they waited for."""
    ended: list[str] = []

    async def wait() -> None:
        try:
            await ask(look("s1"))
        finally:
            ended.append("shared")

    async def wait_apart() -> None:
        try:
            await apart(anyio.sleep_forever)
        finally:
            ended.append("apart")

    async with running(fake_stage, answered=False) as lives:
        lives.start(wait())
        lives.start(wait_apart())
        await anyio.wait_all_tasks_blocked()
    lives.start(wait())
    assert sorted(ended) == ["apart", "shared"]
