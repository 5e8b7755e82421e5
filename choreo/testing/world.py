"""An event loop with a time of its own, driven by hand.

The world is what runs beside a test: workers, the tracker, the handlers. It has an event loop of its own, in
the test's thread, that only runs while the test waits for something of the harness. Its time stands still
while anything can run, and moves only when it is told to, in one jump, to the next thing that waits for it.
So nothing sleeps in real time, and the same test runs in the same order on any machine.

Why not the test's own loop: its time would be the test's time, too, and whatever else runs on it (a client
library's background task, a debugger's) would take part in the order of things. Why not a thread: nothing
of a test is then where a debugger, a profiler or a coverage tool expects it, and a switch of threads costs
more than a step of a saga.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import selectors
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import anyio

T = TypeVar("T")

#: When the time of a world begins: 2026-01-01T00:00:00Z, in milliseconds since the epoch.
EPOCH = 1_767_225_600_000
#: Seconds of real time that a world waits for sockets, if handlers may wait for them, before its time moves.
_SOCKET_PATIENCE = 0.02
#: Seconds of real time that it waits for threads that are at work.
_THREAD_PATIENCE = 60.0
#: Names of tasks whose timers are choreo's own, by which it polls and renews: nothing that a user waits for.
_OWN = "choreo."


class _Selector(selectors.DefaultSelector):
    """Asks the loop what to do instead of waiting."""

    on_idle: Callable[[float | None], None]
    patience: Callable[[], float]
    """Seconds of real time to wait for what is outside of the loop."""

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is not None and timeout <= 0:
            return list(super().select(0)) if len(self.get_map()) > 1 else []
        patience = self.patience()
        events = super().select(patience) if patience else None
        if events:
            return list(events)
        self.on_idle(timeout)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop that never waits: when nothing can run, it stops, and says when something could."""

    def __init__(self) -> None:
        self.now = 0.0
        """Seconds since the world began."""
        self.next_timer: float | None = None
        """When the next timer is due, as of when the loop stopped last."""
        self.may_move: Callable[[float], bool] = lambda moment: False
        """Whether time may move on to a moment, now that nothing else can be done."""
        self.is_at_work: Callable[[], bool] = lambda: False
        """Whether handlers run, which may wait for sockets."""
        self.threads: anyio.CapacityLimiter | None = None
        """Counts the threads that handlers wait for by way of anyio."""
        self._jobs = 0
        self._appointments: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._sockets = _Selector()
        self._sockets.on_idle = self._on_idle
        self._sockets.patience = self._patience
        super().__init__(self._sockets)

    def time(self) -> float:
        """Seconds since the world began."""
        return self.now

    def _on_idle(self, timeout: float | None) -> None:
        self.next_timer = None if timeout is None else self.now + timeout
        if self.next_timer is not None and self.may_move(self.next_timer):
            self.now = self.next_timer
        else:
            self.stop()

    def _patience(self) -> float:
        if self._jobs or (self.threads is not None and self.threads.borrowed_tokens):
            return _THREAD_PATIENCE
        # One of them is the loop's own, by which threads wake it.
        return _SOCKET_PATIENCE if len(self._sockets.get_map()) > 1 and self.is_at_work() else 0.0

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """As any loop's; what runs in a thread holds the clock."""
        self._jobs += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._job_done)
        return future

    def _job_done(self, _: asyncio.Future[Any]) -> None:
        self._jobs -= 1

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        """As any loop's; timers of tasks that are not choreo's are remembered as appointments."""
        handle = super().call_at(when, callback, *args, context=context)
        task = asyncio.current_task(self)
        if task is not None and not task.get_name().startswith(_OWN):
            heapq.heappush(self._appointments, (when, len(self._appointments), handle))
        return handle

    @property
    def next_appointment(self) -> float | None:
        """When the next timer of a task that is not choreo's is due."""
        while self._appointments and (
            self._appointments[0][2].cancelled() or self._appointments[0][0] < self.now
        ):
            heapq.heappop(self._appointments)
        return self._appointments[0][0] if self._appointments else None


class World:
    """A virtual loop, and how to drive it from outside, even from within another loop's task.

    ``seed`` decides what :mod:`random` gives in this world, choreo's own jitter included.
    """

    def __init__(self, seed: int = 0) -> None:
        self.loop = VirtualLoop()
        self.failure: BaseException | None = None
        """What ended the world before its time."""
        self.ahead = 0
        """Milliseconds by which the clock on the wall is ahead of the time that passes."""
        self._random = random.Random(seed).getstate()

    def clock(self) -> int:
        """The time of day in this world: milliseconds since the epoch."""
        return EPOCH + self.ahead + round(self.loop.now * 1000)

    def seconds_until(self, moment: int) -> float:
        """From a time of day (ms since the epoch) to the loop's time at which it comes."""
        return (moment - EPOCH - self.ahead) / 1000

    def start(self, main: Coroutine[Any, Any, None]) -> None:
        """Have a task run in this world. What it raises is raised where the world is driven."""
        task = self.loop.create_task(main)
        task.add_done_callback(self._on_end)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self.failure = task.exception()

    def ask(self, call: Coroutine[Any, Any, T]) -> T:
        """What a coroutine returns that only looks at the store. Nothing else runs meanwhile.

        Raises:
            RuntimeError: if it waits for something.
        """
        with without_loop():
            asyncio._set_running_loop(self.loop)
            try:
                call.send(None)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
        call.close()
        raise RuntimeError("this takes time, and time stands still in a harness until it is advanced")

    def pump(self) -> None:
        """Run everything that can run without time passing.

        Raises:
            BaseException: whatever ended the world.
        """
        if isinstance(asyncio._get_running_loop(), VirtualLoop):
            raise RuntimeError("a handler cannot drive the harness that it runs in")
        with without_loop(), self._own_random():
            self.loop.run_forever()
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure

    def move(self, moment: float) -> None:
        """Let it be ``moment`` (of the loop's time), and run everything that can run then."""
        self.loop.now = max(self.loop.now, moment)
        self.pump()

    def close(self) -> None:
        """End everything that is left, and the loop with it."""
        with without_loop():
            tasks = asyncio.all_tasks(self.loop)
            for task in tasks:
                task.cancel()
            if tasks:
                self.loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()

    @contextmanager
    def _own_random(self) -> Iterator[None]:
        before = random.getstate()
        random.setstate(self._random)
        try:
            yield
        finally:
            self._random = random.getstate()
            random.setstate(before)


@contextmanager
def without_loop() -> Iterator[None]:
    """Let a block run as if no loop ran in this thread: so another loop can, within a task of this one."""
    loop = asyncio._get_running_loop()
    task = asyncio.current_task(loop) if loop is not None else None
    if loop is not None and task is not None:
        asyncio.tasks._leave_task(loop, task)
    asyncio._set_running_loop(None)
    try:
        yield
    finally:
        asyncio._set_running_loop(loop)
        if loop is not None and task is not None:
            asyncio.tasks._enter_task(loop, task)
