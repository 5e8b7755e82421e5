"""Lives of deliveries: coroutines that share one task, and wait for nothing but the gate and handlers.

A task of its own costs a delivery more than everything else that Python does for it. So a life is
driven by hand: it says ``await ask(decision)``, and is resumed when the gate has answered. A handler
that may wait for anything else it has called by ``await apart(call)``, in a task of its own with all
that a task has: it can be cancelled, and cancel scopes and timeouts belong to it.
"""

from __future__ import annotations

import asyncio
import dis
import inspect
import logging
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from contextlib import suppress
from functools import cache
from types import CodeType
from typing import Any, TypeVar

import anyio
from anyio.abc import TaskGroup

from choreo.broker.answers import Answer
from choreo.broker.gate import Decision
from choreo.runtime.committer import Asking, Committer

logger = logging.getLogger("choreo.runtime")

T = TypeVar("T")

#: Steps of lives between two looks at the event loop: reads, replies and timers come in there.
_TURN = 64
#: Seconds after which it has its turn, even if fewer steps were made: handlers may take their time.
SLICE = 0.002


class _Question:
    """Awaited by a life that asks the gate. Whoever drives the life has it asked, and sends the answers."""

    __slots__ = ("decisions",)

    def __init__(self, decisions: Sequence[Decision]) -> None:
        self.decisions = decisions

    def __await__(self) -> Generator[_Question, Sequence[Answer], Sequence[Answer]]:
        return (yield self)


class _OneQuestion(_Question):
    """Awaited by a life that wants but one answer."""

    __slots__ = ()

    def __await__(self) -> Generator[_Question, Sequence[Answer], Answer]:  # type: ignore[override]
        return (yield self)[0]


def ask(decision: Decision) -> Awaitable[Answer]:
    """The gate's answer to a decision; for lives alone. Waits for as long as the server cannot serve.

    Raises:
        Unsendable: if the decision holds something that cannot be sent.
    """
    return _OneQuestion((decision,))


def ask_all(decisions: Sequence[Decision]) -> Awaitable[Sequence[Answer]]:
    """The gate's answers to several decisions at once; see :class:`Asking`. Raises as :func:`ask` does."""
    return _Question(decisions)


class _Turn:
    """Awaited by a life that waits for nothing, but must not go on in whatever task it was begun in."""

    __slots__ = ()

    def __await__(self) -> Generator[_Turn, None, None]:
        yield self


_AWAIT_TURN = _Turn()


def turn() -> Awaitable[None]:
    """Wait until it is this life's turn, in the task that drives lives; for lives alone."""
    return _AWAIT_TURN


class _Apart:
    """Awaited by a life whose handler may wait for anything. Whoever drives the life gives it a task."""

    __slots__ = ("call",)

    def __init__(self, call: Callable[[], Awaitable[Any]]) -> None:
        self.call = call

    def __await__(self) -> Generator[_Apart, Any, Any]:
        return (yield self)


def apart(call: Callable[[], Awaitable[T]]) -> Awaitable[T]:
    """What ``call()`` returns, awaited in a task of its own; for lives alone. It must raise nothing but
    exceptions, and no cancellation but the worker's."""
    return _Apart(call)


def may_wait(function: Callable[..., Any]) -> bool:
    """Whether a coroutine function may wait for anything. ``False`` if it is certain that it does not."""
    code = getattr(function, "__code__", None)
    if code is None or not inspect.iscoroutinefunction(function):
        return True
    return _sends(code)


@cache
def _sends(code: CodeType) -> bool:
    return any(each.opname == "SEND" for each in dis.get_instructions(code))


class _Life(Asking):
    """A coroutine that is driven by hand, and what it is to be sent next."""

    __slots__ = ("apart", "coroutine", "error", "news", "resume")

    def __init__(self, coroutine: Coroutine[Any, Any, None], resume: Callable[[_Life], None]) -> None:
        self.coroutine = coroutine
        self.resume = resume
        self.news: Any = None
        self.error: Exception | None = None
        self.gone = False
        #: Whether it waits for a call in a task of its own.
        self.apart = False

    def settle(self, answers: Any) -> None:
        """Go on with what was waited for, soon."""
        self.news = answers
        self.resume(self)

    def fail(self, error: Exception) -> None:
        """Go on with an error, soon."""
        self.error = error
        self.resume(self)

    def go_on(self) -> Any:
        """Run until it waits for something; returns what that is.

        Raises:
            StopIteration: if it has ended.
        """
        error, self.error = self.error, None
        return self.coroutine.send(self.news) if error is None else self.coroutine.throw(error)


class Lives:
    """Runs lives. They must not raise: what they raise is logged, and goes no further."""

    def __init__(
        self, tasks: TaskGroup, committer: Committer, stopwatch: Callable[[], float] = time.monotonic
    ) -> None:
        self.stopwatch = stopwatch
        self._tasks = tasks
        self._committer = committer
        self._driven: set[_Life] = set()
        self._ready: deque[_Life] = deque()
        self._woken = asyncio.Event()
        self._ended = False

    def start(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Begin a life, and run it until it waits for something. If :meth:`run` has ended, it never begins.

        A life asks the gate, or waits for its turn, before its handler runs: none runs in the caller's task.
        """
        if self._ended:
            coroutine.close()
        else:
            life = _Life(coroutine, self._resume)
            self._driven.add(life)
            self._go_on(life)

    def hurry(self) -> None:
        """Have what lives have asked for sent now, if that can be."""
        self._committer.hurry()

    def _resume(self, life: _Life) -> None:
        if not self._ready:
            self._woken.set()
        self._ready.append(life)

    async def run(self) -> None:
        """Drive lives until cancelled; those that are left then end where they stand, or with their call."""
        try:
            while True:
                try:
                    await self._woken.wait()
                    self._woken.clear()
                    while self._ready:
                        self._take_turn()
                        if self._ready:
                            await asyncio.sleep(0)
                except asyncio.CancelledError:
                    if anyio.current_effective_deadline() == -math.inf:
                        raise
                    # A handler has cancelled the task that it runs in. That is not for the others.
                    self._uncancel()
        finally:
            self._ended = True
            for life in self._driven:
                life.gone = True
                if not life.apart:
                    life.coroutine.close()

    def _uncancel(self) -> None:
        self._woken.set()
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()

    def _take_turn(self) -> None:
        """Go on with those that are ready; what they ask is lined up, and leaves together."""
        end = self.stopwatch() + SLICE
        for _ in range(min(_TURN, len(self._ready))):
            self._go_on(self._ready.popleft())
            if self.stopwatch() > end:
                break
        self.hurry()

    def _go_on(self, life: _Life) -> None:
        try:
            wanted = life.go_on()
        except StopIteration:
            self._driven.discard(life)
        except Exception:
            self._driven.discard(life)
            logger.exception("the life of a delivery has ended early")
        else:
            if type(wanted) is _Apart:
                life.apart = True
                self._tasks.start_soon(self._call_for, life, wanted.call)
            elif type(wanted) is _Turn:
                life.settle(None)
            else:
                life.decisions = wanted.decisions
                self._committer.line_up(life)

    async def _call_for(self, life: _Life, call: Callable[[], Awaitable[Any]]) -> None:
        """Have a life go on with what a call comes to; or end, if the others have."""
        try:
            result = await call()
        except Exception as error:
            life.fail(error)
        else:
            life.settle(result)
        finally:
            life.apart = False
            if self._ended:
                life.coroutine.close()
        await _absorb_cancellation()


async def _absorb_cancellation() -> None:
    """Should a handler have cancelled its own task, that comes only now, and is for nobody else."""
    task = asyncio.current_task()
    if task is not None and task.cancelling() and anyio.current_effective_deadline() != -math.inf:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        task.uncancel()
