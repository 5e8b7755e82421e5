"""Running workers and trackers until a signal says to stop."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Protocol

import anyio
from anyio.abc import TaskStatus

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
#: How many more containers there must be before cyclic garbage is looked for; Python's own number is 700.
_CONTAINERS = 5_000


class Job(Protocol):
    """What runs until it is stopped: a worker or a tracker."""

    def stop(self) -> None:
        """Begin to stop, in good order."""

    async def run(self, *, task_status: TaskStatus[None]) -> None:
        """Run until stopped."""


def end_at_once(number: int) -> None:
    """End this process, as the signal ``number`` would have."""
    os._exit(128 + number)


@dataclass(slots=True)
class Orders:
    """What SIGINT and SIGTERM bring about. Both may be exchanged while the process runs."""

    stop: Callable[[], object]
    """Called at the first signal."""
    at_once: Callable[[int], object] = end_at_once
    """Called at every further one, with its number."""


@asynccontextmanager
async def obeying(orders: Orders) -> AsyncIterator[None]:
    """Let signals do what ``orders`` say, for a block of code."""
    async with anyio.create_task_group() as watching:
        await watching.start(_obey, orders)
        yield
        watching.cancel_scope.cancel()


async def _obey(orders: Orders, *, task_status: TaskStatus[None]) -> None:
    with anyio.open_signal_receiver(*STOP_SIGNALS) as signals:
        task_status.started()
        stopping = False
        async for number in signals:
            if stopping:
                orders.at_once(number)
            else:
                stopping = True
                orders.stop()


async def serve(
    jobs: Sequence[Job], orders: Orders, *, ready: Callable[[], object], lifeline: int | None = None
) -> None:
    """Run ``jobs`` until ``orders.stop`` is called, which stops them all.

    ``ready`` is called when all of them are at work. ``lifeline`` is the end of a pipe whose other end a
    supervisor holds: that the supervisor was killed says to stop, too.

    Raises:
        ExceptionGroup: of what jobs raised; the others were cancelled.
    """

    def stop() -> None:
        for job in jobs:
            job.stop()

    orders.stop = stop
    with _held_by(lifeline, stop), sparing_the_collector():
        async with anyio.create_task_group() as working:
            for job in jobs:
                await working.start(_start_job, job)
            ready()


async def _start_job(job: Job, *, task_status: TaskStatus[None]) -> None:
    await job.run(task_status=task_status)


@contextmanager
def sparing_the_collector() -> Iterator[None]:
    """Have cyclic garbage looked for less often, for a block of code.

    What deliveries leave behind is freed without that, and the looking takes a tenth of a busy worker's
    time. What handlers leave in cycles stays somewhat longer. Whoever has told the collector otherwise
    is not overruled.
    """
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    gc.collect()
    gc.freeze()  # what is there now is there to stay
    if before[0]:
        gc.set_threshold(max(_CONTAINERS, before[0]), *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
        if not frozen:
            gc.unfreeze()


@contextmanager
def _held_by(lifeline: int | None, stop: Callable[[], None]) -> Iterator[None]:
    if lifeline is None:
        yield
        return
    loop = asyncio.get_running_loop()

    def let_go() -> None:
        loop.remove_reader(lifeline)
        stop()

    loop.add_reader(lifeline, let_go)
    try:
        yield
    finally:
        loop.remove_reader(lifeline)
