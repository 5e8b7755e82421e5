"""Casts: events and participants for choreographies in which nothing matters but who did what, and when."""

from __future__ import annotations

import functools
import operator
from collections.abc import Awaitable, Callable
from typing import Any

from saga_wait import until

from choreo import Context, Event, Participant


class Started(Event):
    """How every saga on a stage begins."""

    number: int = 0


class A(Event):
    pass


class B(Event):
    pass


class C(Event):
    pass


class D(Event):
    pass


class E(Event):
    pass


class Finished(Event):
    """Completes a saga."""


class Billed(Event):
    """Completes a saga, where both are needed."""


class Refused(Event):
    """Aborts a saga."""


class Restored(Event):
    """A compensation."""

    what: str = ""


class Cast:
    """Participants of one step each, who note in a diary what they do: ``charge``, then ``undo charge``."""

    def __init__(self) -> None:
        self.diary: list[str] = []
        self.contexts: dict[str, list[Context]] = {}
        """What each step and each undo was told, by its name in the diary."""
        self.results: dict[str, Any] = {}
        """The result that the undo of a step was given."""
        self.participants: list[Participant] = []

    def step(
        self, name: str, on: type[Event] | tuple[type[Event], type[Event]], *emits: type[Event],
        undo: bool | type[Event] = True, does: Callable[[], Awaitable[Event | None]] | None = None,
        undoes: Callable[[], Awaitable[None]] | None = None,
    ) -> None:  # fmt: skip
        """Add a participant ``name`` with a step of that name.

        It reacts to one event, or waits for two. It emits the first of ``emits``, or what ``does``
        returns. ``undo`` says whether it has one, or which event its undo emits; ``undoes`` is awaited
        in the undo.
        """

        async def work(context: Context) -> Event | None:
            self._note(name, context)
            return await does() if does else emits[0]() if emits else None

        async def single(first: Any, ctx: Context) -> Any:
            return await work(ctx)

        async def joined(first: Any, second: Any, ctx: Context) -> Any:
            return await work(ctx)

        participant = Participant(name)
        self.participants.append(participant)
        types = on if isinstance(on, tuple) else (on,)
        outcome = functools.reduce(operator.or_, emits) if emits else None
        handler = joined if len(types) > 1 else single
        handler.__name__ = name
        handler.__annotations__ = {
            **dict(zip(("first", "second"), types, strict=False)), "ctx": Context, "return": outcome,
        }  # fmt: skip
        declare = participant.on_all(*types) if len(types) > 1 else participant.on(*types)
        step = declare(handler)
        if undo:
            step.undo(self._undo(name, types, outcome, undo, undoes))

    def _undo(
        self, name: str, types: tuple[type[Event], ...], outcome: Any, emits: bool | type[Event],
        undoes: Callable[[], Awaitable[None]] | None,
    ) -> Any:  # fmt: skip
        async def work(result: Any, context: Context) -> Event | None:
            self.results[name] = result
            self._note(f"undo {name}", context)
            if undoes:
                await undoes()
            return emits() if isinstance(emits, type) else None

        async def single(first: Any, result: Any, ctx: Context) -> Any:
            return await work(result, ctx)

        async def joined(first: Any, second: Any, result: Any, ctx: Context) -> Any:
            return await work(result, ctx)

        undo = joined if len(types) > 1 else single
        undo.__name__ = f"undo_{name}"
        undo.__annotations__ = {
            **dict(zip(("first", "second"), types, strict=False)),
            "result": outcome | None if outcome else None,
            "ctx": Context,
            "return": emits if isinstance(emits, type) else None,
        }
        return undo

    def _note(self, what: str, context: Context) -> None:
        self.diary.append(what)
        self.contexts.setdefault(what, []).append(context)

    async def until(self, *what: str) -> None:
        """Wait until all of this stands in the diary."""
        await until(lambda: set(what) <= set(self.diary))

    def undone(self) -> list[str]:
        """The steps that were undone, in order."""
        return [entry.removeprefix("undo ") for entry in self.diary if entry.startswith("undo ")]
