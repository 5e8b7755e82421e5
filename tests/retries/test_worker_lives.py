"""Lives: many in one task while they wait for the gate alone, each in its own as soon as it may wait for more."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import partial

import anyio
import pytest

from choreo.runtime.lives import Lives, Pending, driven, may_wait, own_task

pytestmark = pytest.mark.anyio

COLOUR: ContextVar[str] = ContextVar("colour", default="none")


@asynccontextmanager
async def running() -> AsyncIterator[Lives]:
    """Lives that are driven while the block runs."""
    async with anyio.create_task_group() as tasks:
        lives = Lives(tasks)
        tasks.start_soon(lives.run)
        yield lives
        tasks.cancel_scope.cancel()


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


async def test_lives_share_a_task_until_one_wants_its_own() -> None:
    """Behind ``own_task`` a life has a task with all that belongs to one: here, a timeout."""
    seen: dict[str, list[asyncio.Task[None] | None]] = {"a": [], "b": []}

    async def live(name: str) -> None:
        assert driven()
        seen[name].append(asyncio.current_task())
        await own_task()
        assert not driven()
        seen[name].append(asyncio.current_task())
        await own_task()
        seen[name].append(asyncio.current_task())
        with anyio.move_on_after(0.001):
            await anyio.sleep_forever()
        seen[name].append(asyncio.current_task())

    async with running() as lives:
        for name in seen:
            lives.start(live(name))
        await until(lambda: all(len(tasks) == 4 for tasks in seen.values()))
    assert seen["a"][0] is seen["b"][0]
    assert len({seen["a"][0], seen["a"][1], seen["b"][1]}) == 3
    assert len(set(seen["a"][1:])) == len(set(seen["b"][1:])) == 1


async def test_answers_and_errors_reach_a_life_in_either_task() -> None:
    """What is pending may be awaited in the shared task and in an own one."""
    asked: list[Pending[str]] = []
    heard: list[str] = []

    async def ask() -> str:
        asked.append(Pending())
        return await asked[-1]

    async def live() -> None:
        for _ in range(2):
            heard.append(await ask())
            try:
                await ask()
            except LookupError as error:
                heard.append(repr(error))
            await own_task()

    async with running() as lives:
        lives.start(live())
        for number in range(4):
            await until(lambda number=number: len(asked) > number)
            if number % 2:
                asked[-1].fail(LookupError(number))
            else:
                asked[-1].settle(f"answer {number}")
        await until(lambda: len(heard) == 4)
    assert heard == ["answer 0", "LookupError(1)", "answer 2", "LookupError(3)"]


async def test_context_variables_stay_with_their_life() -> None:
    """What one life sets, no other sees; it keeps it when it gets a task of its own."""
    seen: list[tuple[str, str]] = []
    pending: list[Pending[None]] = []

    async def live(colour: str) -> None:
        before = COLOUR.get()
        COLOUR.set(colour)
        pending.append(Pending())
        await pending[-1]
        await own_task()
        await asyncio.sleep(0)
        seen.append((before, COLOUR.get()))

    async with running() as lives:
        lives.start(live("red"))
        lives.start(live("blue"))
        await until(lambda: len(pending) == 2)
        for each in pending:
            each.settle(None)
        await until(lambda: len(seen) == 2)
    assert sorted(seen) == [("none", "blue"), ("none", "red")]


async def test_a_life_that_cancels_its_task_or_fails_harms_no_other() -> None:
    """The shared task survives what one of its lives does to it."""
    done: list[str] = []

    async def cancel() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    async def fail() -> None:
        raise ValueError("on purpose")

    async def live() -> None:
        done.append("lived")

    async with running() as lives:
        lives.start(cancel())
        lives.start(fail())
        lives.start(live())
        await until(lambda: len(done) == 1)
        await asyncio.sleep(0)
        lives.start(live())
        await until(lambda: len(done) == 2)


async def test_lives_end_with_what_drives_them() -> None:
    """Those that wait are closed, and nobody commits any more what they waited for."""
    ended: list[str] = []
    pending: Pending[None] = Pending()

    async def wait() -> None:
        try:
            await pending
        finally:
            ended.append("shared")

    async def wait_alone() -> None:
        await own_task()
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("alone")

    async with running() as lives:
        lives.start(wait())
        lives.start(wait_alone())
        await anyio.wait_all_tasks_blocked()
    lives.start(wait())
    assert sorted(ended) == ["alone", "shared"]
    assert pending.cancelled()
    pending.settle(None)
