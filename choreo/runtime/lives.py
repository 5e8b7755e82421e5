"""Lives of deliveries: coroutines that share one task for as long as they only wait for the gate.

A task of its own costs a delivery more than everything else that Python does for it. So a life is
driven by hand: it is resumed when the gate has answered. Before it calls a handler that may wait for
anything else it says ``await own_task()``, and from then on runs in a task of its own, with all that a
task has: it can be cancelled, and cancel scopes and timeouts belong to it.
"""

from __future__ import annotations

import asyncio
import dis
import inspect
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from functools import cache, partial
from types import CodeType
from typing import Any, TypeVar

import anyio
from anyio.abc import TaskGroup

logger = logging.getLogger("choreo.runtime")

T = TypeVar("T")

#: Steps of lives between two looks at the event loop: reads, replies and timers come in there.
_TURN = 50


class Pending(asyncio.Future[T]):
    """What a life waits for. Whoever has the answer calls :meth:`settle`; anything may await it."""

    _wake: Callable[[], None] | None = None

    def settle(self, answer: T) -> None:
        """Give the answer. It is ignored if nobody waits for it any more."""
        if not self.done():
            self.set_result(answer)
            self._tell()

    def fail(self, error: Exception) -> None:
        """There is no answer. It is ignored if nobody waits for it any more."""
        if not self.done():
            self.set_exception(error)
            self._tell()

    def _tell(self) -> None:
        if self._wake is not None:
            self._wake()


class _OwnTask:
    """Awaited by a life that needs a task of its own; nothing happens in one that has."""

    def __await__(self) -> Generator[_OwnTask, None, None]:
        if driven():
            yield self


_OWN_TASK = _OwnTask()
_driven: ContextVar[bool] = ContextVar("driven", default=False)


def driven() -> bool:
    """Whether what runs now is a life that shares its task with others."""
    return _driven.get()


def own_task() -> Awaitable[None]:
    """Await this before anything but a :class:`Pending` is waited for."""
    return _OWN_TASK


def may_wait(function: Callable[..., Any]) -> bool:
    """Whether a coroutine function may wait for anything. ``False`` if it is certain that it does not."""
    code = getattr(function, "__code__", None)
    if code is None or not inspect.iscoroutinefunction(function):
        return True
    return _sends(code)


@cache
def _sends(code: CodeType) -> bool:
    return any(each.opname == "SEND" for each in dis.get_instructions(code))


class _Life:
    """A coroutine, and the context variables that it sees."""

    __slots__ = ("context", "coroutine", "pending")

    def __init__(self, coroutine: Coroutine[Any, Any, None], context: Context) -> None:
        self.coroutine = coroutine
        self.context = context
        self.pending: Pending[Any] | None = None


class Lives:
    """Runs lives. They must not raise: what they raise is logged, and goes no further."""

    def __init__(self, tasks: TaskGroup) -> None:
        self._tasks = tasks
        self._context = copy_context()
        self._context.run(_driven.set, True)
        self._ready: deque[_Life] = deque()
        self._waiting: set[_Life] = set()
        self._woken = asyncio.Event()
        self._ended = False

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Begin a life; :meth:`run` takes it up. If that has ended, the life never begins."""
        if self._ended:
            coroutine.close()
        else:
            self._resume(_Life(coroutine, self._context.copy()))

    def _resume(self, life: _Life) -> None:
        self._waiting.discard(life)
        if not self._ready:
            self._woken.set()
        self._ready.append(life)

    async def run(self) -> None:
        """Drive lives until cancelled; those that have no task of their own end then as well."""
        try:
            while True:
                try:
                    await self._woken.wait()
                    self._woken.clear()
                    while self._ready:
                        for _ in range(min(_TURN, len(self._ready))):
                            self._step(self._ready.popleft())
                        if self._ready:
                            await asyncio.sleep(0)
                except asyncio.CancelledError:
                    if anyio.current_effective_deadline() == -math.inf:
                        raise
                    # A handler has cancelled the task that it runs in. That is not for the others.
                    self._uncancel()
        finally:
            self._ended = True
            for life in (*self._waiting, *self._ready):
                if life.pending is not None:
                    life.pending.cancel()
                life.coroutine.close()

    def _uncancel(self) -> None:
        self._woken.set()
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()

    def _step(self, life: _Life) -> None:
        try:
            # The coroutine takes the answer out of the Pending that it awaits, as it would in a task.
            wanted = life.context.run(life.coroutine.send, None)
        except StopIteration:
            return
        except Exception:
            logger.exception("the life of a delivery has ended early")
            return
        if isinstance(wanted, Pending):
            self._wait(life, wanted)
        else:
            life.context.run(_driven.set, False)
            self._tasks.start_soon(_carry, life, None if wanted is _OWN_TASK else wanted)

    def _wait(self, life: _Life, pending: Pending[Any]) -> None:
        pending._asyncio_future_blocking = False  # a task does so, too, with what its coroutine awaits
        pending._wake = partial(self._resume, life)
        life.pending = pending
        self._waiting.add(life)


async def _carry(life: _Life, awaited: Any) -> None:
    """Run what is left of a life in this task; first wait for what it already awaits."""
    await _Carried(life, awaited)


class _Carried:
    """Goes on with a life where it stands: the task that awaits this becomes the life's own."""

    def __init__(self, life: _Life, awaited: Any) -> None:
        self._life = life
        self._awaited = awaited

    def __await__(self) -> Generator[Any, Any, None]:
        run, coroutine, awaited = self._life.context.run, self._life.coroutine, self._awaited
        while True:
            error: BaseException | None = None
            try:
                yield awaited
            except BaseException as thrown:
                error = thrown
            try:
                awaited = run(coroutine.send, None) if error is None else run(coroutine.throw, error)
            except StopIteration:
                return
