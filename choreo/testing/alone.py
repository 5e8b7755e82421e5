"""One participant alone: given some events, when one arrives, then these are emitted."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import Any, Self

import msgspec

from choreo.broker.groups import fields_of
from choreo.model.event import Event, type_name
from choreo.model.facts import Kind
from choreo.model.participant import Participant
from choreo.testing.harness import Harness
from choreo.testing.sagas import SagaHandle
from choreo.wire.envelope import parse

_SAGA = "saga-1"


def given(participant: Participant, *events: Event) -> Scene:
    """A participant that has seen these events of a saga already, to go on with from there::

        await (given(shipping, OrderPlaced("o1"))
               .when(PaymentCaptured("o1", 4200))
               .then(ShipmentBooked("o1")))
    """
    return Scene(participant, events)


class Scene:
    """What a participant sees and does, step by step. Nothing happens before it is awaited.

    What it says is checked in the order in which it was written; a failure shows the saga's trace.
    """

    def __init__(self, participant: Participant, events: tuple[Event, ...]) -> None:
        self._participant = participant
        self._acts: list[Callable[[_Play], Awaitable[None]]] = []
        for event in events:
            self.when(event)

    def when(self, event: Event) -> Self:
        """This event of the saga arrives."""
        self._acts.append(lambda play: play.arrive(event))
        return self

    def later(self, seconds: float) -> Self:
        """So much time passes: for retries, and for events that are emitted later."""
        self._acts.append(lambda play: play.wait(seconds))
        return self

    def then(self, *events: Event) -> Self:
        """Exactly these events were emitted by what happened last, in this order; without any: none."""
        self._acts.append(lambda play: play.check_emitted(events))
        return self

    def then_aborts(self, reason: str = "") -> Self:
        """The step raised Abort, and ``reason`` stands in what it said."""
        self._acts.append(lambda play: play.check_aborted(reason))
        return self

    def when_unwound(self) -> Self:
        """The saga is unwound, by an operator's order."""
        self._acts.append(lambda play: play.unwind())
        return self

    def __await__(self) -> Generator[Any, None, None]:
        return self._run().__await__()

    async def _run(self) -> None:
        async with Harness(participants=[self._participant]) as harness:
            play = _Play(harness, self._participant)
            for act in self._acts:
                await act(play)


class _Play:
    """A scene while it is played."""

    def __init__(self, harness: Harness, participant: Participant) -> None:
        self._harness = harness
        self._types = {type_name(event): event for event in _emitted_types(participant)}
        self._prefix = f"{participant.name}/"
        self._seen = self._before = 0

    @property
    def _saga(self) -> SagaHandle:
        return self._harness.saga(_SAGA)

    async def arrive(self, event: Event) -> None:
        await self._harness.emit(event, _SAGA)
        await self._settle()

    async def wait(self, seconds: float) -> None:
        await self._harness.advance(seconds)
        await self._settle()

    async def unwind(self) -> None:
        await self._harness.compensate(_SAGA)
        await self._settle()

    async def _settle(self) -> None:
        self._before = self._seen
        await self._harness.settle()
        self._seen = len(self._emitted())

    def _emitted(self) -> list[Event]:
        """Every event that the participant has emitted so far."""
        keys = self._harness.cast.topology.keys
        stream = keys.stream(keys.partition(_SAGA), self._prefix.rstrip("/")).encode()
        envelopes = [parse(fields_of(flat)) for key, flat in self._harness.added if key == stream]
        return [
            msgspec.json.decode(each.data, type=self._types[each.type])
            for each in envelopes
            if each.source.startswith(self._prefix)
        ]

    async def check_emitted(self, events: tuple[Event, ...]) -> None:
        found = self._emitted()[self._before :]
        if found != list(events):
            self._fail(f"it emitted {_list(found)}, not {_list(events)}")

    async def check_aborted(self, reason: str) -> None:
        said = [fact.note for fact in self._saga.facts if fact.kind is Kind.ABORTED]
        if not any(reason in each for each in said):
            self._fail(f"it did not abort with {reason!r}; it said {', '.join(map(repr, said)) or 'nothing'}")

    def _fail(self, what: str) -> None:
        raise AssertionError(f"{self._prefix.rstrip('/')}: {what}\n\n{self._saga.tree}")


def _emitted_types(participant: Participant) -> set[type[Event]]:
    types: set[type[Event]] = set()
    for step in participant.steps:
        types |= step.outcome.types | (step.compensation.outcome.types if step.compensation else set())
    return types


def _list(events: Sequence[Event]) -> str:
    return ", ".join(map(repr, events)) or "nothing"
