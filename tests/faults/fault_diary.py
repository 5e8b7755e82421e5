"""What handlers did, noted outside of Redis: it survives every process, and no server's fault changes it."""

from __future__ import annotations

import functools
import inspect
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from choreo import Context, Event, Participant

Handler: TypeAlias = Callable[..., Any]
#: Given a handler and its name, makes another one to be called in its stead.
Wrapper: TypeAlias = Callable[[Handler, str], Handler]


class Diary:
    """Lines that any number of processes append to one file; each is whole or not there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)

    def note(self, *words: object) -> None:
        os.write(self._file, f"{' '.join(map(str, words))}\n".encode())

    @property
    def lines(self) -> list[str]:
        return self._path.read_text().splitlines()

    @property
    def runs(self) -> Counter[str]:
        """How often each handler began for each of its keys: ``began <name> <key>``."""
        return Counter(line for line in self.lines if line.startswith("began "))

    def close(self) -> None:
        os.close(self._file)

    def wrap(self, function: Handler, name: str) -> Handler:
        """``function``, noting ``began <name> <key>`` before and ``ended <name> <key>`` after it."""

        def begin(arguments: tuple[Any, ...]) -> str:
            line = f"{name} {key_of(arguments)}"
            self.note("began", line)
            return line

        return around(function, begin, lambda line: self.note("ended", line))

    @property
    def broken_off(self) -> int:
        """How many runs of handlers began and never ended."""
        return sum(line.startswith("began ") for line in self.lines) - sum(
            line.startswith("ended ") for line in self.lines
        )


def key_of(arguments: tuple[Any, ...]) -> str:
    """What tells one run of a handler from another: its idempotency key, or else its event."""
    for each in arguments:
        if isinstance(each, Context):
            return each.key
    return "-".join(repr(each).replace(" ", "") for each in arguments if isinstance(each, Event))


def around(
    function: Handler, before: Callable[[tuple[Any, ...]], Any], after: Callable[[Any], object]
) -> Handler:
    """A handler that calls ``before`` with its arguments, then ``function``, and then, however that
    ends, ``after`` with what ``before`` returned."""
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def waits(*arguments: Any) -> Any:
            began = before(arguments)
            try:
                return await function(*arguments)
            finally:
                after(began)

        return waits

    @functools.wraps(function)
    def runs(*arguments: Any) -> Any:
        began = before(arguments)
        try:
            return function(*arguments)
        finally:
            after(began)

    return runs


def handlers_of(participant: Participant) -> dict[str, bool]:
    """Every handler as ``participant/step`` or ``participant/step/undo``; whether it is an undo."""
    found = {}
    for step in participant.steps:
        found[f"{participant.name}/{step.name}"] = False
        if step.compensation:
            found[f"{participant.name}/{step.name}/{step.compensation.name}"] = True
    return found


def wrap_handlers(participant: Participant, wrapper: Wrapper) -> None:
    """Put ``wrapper`` around every handler of ``participant``, in this process."""
    for step in participant.steps:
        name = f"{participant.name}/{step.name}"
        step.function = wrapper(step.function, name)
        if undo := step.compensation:
            undo.function = wrapper(undo.function, f"{name}/{undo.name}")


def run_at_once(participant: Participant) -> None:
    """Make every handler that is a function a coroutine that never waits, in this process."""
    for handler in (*participant.steps, *(step.compensation for step in participant.steps)):
        if handler is not None and not handler.is_async:
            handler.function, handler.is_async = at_once(handler.function), True


def at_once(function: Handler) -> Handler:
    """A coroutine function that never waits, and does what ``function`` does."""

    @functools.wraps(function)
    async def runs(*arguments: Any) -> Any:
        return function(*arguments)

    return runs
