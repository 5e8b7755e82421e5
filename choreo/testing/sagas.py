"""A saga as a test sees it: how it stands, what happened, and assertions that show its trace."""

from __future__ import annotations

import io
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from choreo.choreography import Choreography
from choreo.errors import SagaNotFound
from choreo.model.event import Event, type_name
from choreo.model.facts import Fact, Kind, View
from choreo.model.saga import State
from choreo.model.trace import Trace
from choreo.tracker.queries import Queries

T = TypeVar("T")


class Ask(Protocol):
    """Runs a coroutine of the world to its end, while time stands still."""

    def __call__(self, call: Coroutine[Any, Any, T], /) -> T: ...


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A delivery that will not be tried again by itself."""

    reason: str
    """A stable code; see the reference of reason codes."""
    handler: str
    """``participant/step``, or the participant alone."""
    type: str
    """The type of the event that was handled."""
    error: str


class SagaHandle:
    """One saga of a harness. Everything is read anew each time it is asked for."""

    def __init__(self, saga_id: str, client: Choreography, ask: Ask) -> None:
        self.id = saga_id
        self._client = client
        self._ask = ask

    def __repr__(self) -> str:
        return f"<saga {self.id}>"

    def __str__(self) -> str:
        return self.id

    # -- looking -----------------------------------------------------------------------------------

    @property
    def view(self) -> View:
        """How it stands, as the tracker projects it.

        Raises:
            SagaNotFound: if nothing was handled of it; `await shop.settle()` lets things happen.
        """
        return self._ask(self._client.view(self.id))

    @property
    def status(self) -> State:
        """Its state: it compares equal to its name, ``"completed"`` for one."""
        return self.view.status

    @property
    def trace(self) -> Trace:
        """Its causal tree, as data; :attr:`tree` is the same as text."""
        return self._ask(self._client.trace(self.id))

    @property
    def tree(self) -> str:
        """Its causal tree as text, as `choreo trace --errors` prints it."""
        try:
            trace = self.trace
        except SagaNotFound:
            return f"{self.id}: nothing has happened in this saga yet"
        # Only a test that fails, or asks, draws anything.
        from rich.console import Console

        from choreo.drawing.trace_format import format_trace

        out = io.StringIO()
        drawing = format_trace(trace, now=self._client.clock(), errors=True)
        Console(file=out, width=110, highlight=False, color_system=None).print(drawing)
        return out.getvalue().rstrip()

    @property
    def facts(self) -> list[Fact]:
        """Everything that is known of it, in order."""
        return self._ask(Queries(self._client.topology, self._client.broker).facts(self.id))

    @property
    def events(self) -> list[str]:
        """The types of its events, causes before effects."""
        return [fact.type for fact in self.facts if fact.kind is Kind.EVENT]

    @property
    def undone(self) -> list[str]:
        """The steps that were undone, as ``participant/step``, in the order in which they were."""
        return [fact.handler for fact in self.facts if fact.kind is Kind.UNDONE]

    @property
    def dead_letters(self) -> list[DeadLetter]:
        """Its deliveries that were given up."""
        return self._ask(self._read_letters())

    async def _read_letters(self) -> list[DeadLetter]:
        keys = self._client.topology.keys
        stream = keys.dead(keys.partition(self.id))
        entries = await self._client.broker.connection.call("XRANGE", stream, "-", "+")
        return [
            letter
            for _, flat in entries
            if (letter := _letter(self.id, dict(zip(flat[::2], flat[1::2], strict=True)))) is not None
        ]

    # -- asserting ---------------------------------------------------------------------------------

    def assert_status(self, *states: State | str) -> None:
        """Fail unless it is in one of ``states``."""
        status = self.status
        if status not in states:
            self._fail(f"it is {status}, not {' or '.join(states)}")

    def assert_events(self, *events: type[Event] | str) -> None:
        """Fail unless exactly these events were published, in this order."""
        wanted, found = _names(events), self.events
        if found != wanted:
            self._fail(f"its events are {_list(found)}, not {_list(wanted)}")

    def assert_emitted(self, *events: type[Event] | str) -> None:
        """Fail unless each of these events was published, among others, in any order."""
        found = self.events
        missing = [name for name in _names(events) if name not in found]
        if missing:
            self._fail(f"{_list(missing)} was not published; {_list(found)} were")

    def assert_not_emitted(self, *events: type[Event] | str) -> None:
        """Fail if any of these events was published."""
        there = [name for name in _names(events) if name in self.events]
        if there:
            self._fail(f"{_list(there)} was published")

    def assert_undone(self, *steps: str) -> None:
        """Fail unless exactly these steps (``participant/step``) were undone, in this order."""
        found = self.undone
        if found != list(steps):
            self._fail(f"undone were {_list(found)}, not {_list(steps)}")

    def assert_no_dead_letters(self) -> None:
        """Fail if a delivery was given up."""
        letters = self.dead_letters
        if letters:
            told = ", ".join(f"{each.handler}: {each.error}" for each in letters)
            self._fail(f"it has dead letters: {told}")

    def _fail(self, what: str) -> None:
        __tracebackhide__ = True
        raise AssertionError(f"saga {self.id}: {what}\n\n{self.tree}")


def _names(events: tuple[type[Event] | str, ...]) -> list[str]:
    return [each if isinstance(each, str) else type_name(each) for each in events]


def _list(names: list[str] | tuple[str, ...]) -> str:
    return ", ".join(names) or "none"


def _letter(saga_id: str, fields: dict[bytes, bytes]) -> DeadLetter | None:
    def text(name: str) -> str:
        return fields.get(name.encode(), b"").decode(errors="replace")

    if text("subject") != saga_id:
        return None
    handler = "/".join(filter(None, (text("participant"), text("step"))))
    return DeadLetter(text("reason"), handler, text("type"), text("error"))
