"""Coroutines that begin before the task that goes on with them has woken."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Begun(Generic[T]):
    """A coroutine that begins at once, in whatever task it is made. Awaited, once, by the one that goes on
    with it: that is told what comes of it, even if it has ended before.

    Until it first waits, it must not look at the task that it is in.
    """

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._coroutine = coroutine
        self._ended = False
        self._error: BaseException | None = None
        self._wanted: Any = None
        self._result: Any = None
        self._go_on(coroutine.send, None)

    def _go_on(self, step: Callable[[Any], Any], news: Any) -> None:
        try:
            self._wanted = step(news)
        except StopIteration as end:
            self._ended, self._result = True, end.value
        except BaseException as error:
            self._ended, self._error = True, error

    def __await__(self) -> Generator[Any, Any, T]:
        while not self._ended:
            try:
                news = yield self._wanted
            except BaseException as error:
                self._go_on(self._coroutine.throw, error)
            else:
                self._go_on(self._coroutine.send, news)
        if self._error is not None:
            raise self._error
        result: T = self._result
        return result
