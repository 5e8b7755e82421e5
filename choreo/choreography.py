"""The client: what programs use to start sagas, to look at them and to unwind them."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Self

import anyio

from choreo.broker.address import server_url
from choreo.broker.broker import Broker
from choreo.broker.clock import Clock
from choreo.errors import BrokerUnavailable, ConfigurationError, SagaNotFound, UnroutableEvent, WaitTimeout
from choreo.model.event import Event, type_name
from choreo.model.facts import View
from choreo.model.policy import seconds_of
from choreo.model.saga import State
from choreo.model.trace import Trace, build_trace
from choreo.model.waits import Listeners, Stuck
from choreo.operations import Operations, user
from choreo.tracker.queries import FOREVER, Queries
from choreo.tracker.readings import look_up
from choreo.tracker.stuck import find_stuck
from choreo.wire.cards import decode_card
from choreo.wire.envelope import Envelope, derive_id, encode_data
from choreo.wire.keys import check_saga_id
from choreo.wire.topology import Topology

#: Seconds between looks while waiting for a saga: the first, and the longest.
_FIRST_LOOK = 0.01
_LONGEST_LOOK = 0.25


class Choreography(Operations):
    """A choreography on a server: start sagas, wait for them, look at them, unwind them, put them right.

    Open one with :meth:`open`; it may be shared by any number of tasks of one event loop.
    """

    def __init__(self, topology: Topology, broker: Broker, clock: Clock | None = None) -> None:
        self.topology = topology
        self.broker = broker
        self.clock = clock or broker.clock
        """What it takes for now: the server's clock, in milliseconds since the epoch."""
        self._queries = Queries(topology, broker)

    @classmethod
    @asynccontextmanager
    async def open(
        cls, source: str | Path | Topology = "streams.yaml", *, redis: str | None = None
    ) -> AsyncIterator[Self]:
        """A choreography for a block of code::

            async with Choreography.open("streams.yaml") as choreo:
                saga_id = await choreo.start(OrderPlaced(...))

        Args:
            source: path of streams.yaml, or a topology that was loaded already.
            redis: the server's URL. By default ``CHOREO_REDIS_URL``, then ``redis`` of streams.yaml,
                then the engine that `choreo dev` runs beside the file, then ``redis://localhost:6379/0``.

        Raises:
            ConfigurationError: if streams.yaml or the URL is wrong.
            LayoutMismatch, UnsupportedServer: if the server and this program do not fit.
            BrokerUnavailable: if the server cannot be reached.
        """
        topology = source if isinstance(source, Topology) else _load(source)
        async with Broker.open(server_url(topology, redis), topology.keys) as broker:
            await broker.join()
            yield cls(topology, broker)

    async def start(self, event: Event, *, saga_id: str | None = None) -> str:
        """Begin a saga with its first event. Returns the saga's id.

        Idempotent on ``saga_id``: the same event again is the same saga, and begins it once. Without an
        id a random one is made.

        Raises:
            InvalidSagaId: if the id is not 1 to 128 printable characters, or holds braces.
            UnroutableEvent: if no stream carries the event, or no saga of streams.yaml starts with it.
            InvalidEvent: if it is no event, or cannot be told in JSON.
            PayloadTooLarge: if its JSON is too large.
            SagaConflict: if the id is taken by a saga that began with another event or payload.
            BrokerUnavailable: if it is not known whether it was begun, after trying for ten seconds;
                the message names the id with which to start again.
        """
        data = encode_data(event)
        return await self.start_raw(type_name(event), data, saga_id=saga_id)

    async def start_raw(self, event_type: str, data: bytes, *, saga_id: str | None = None) -> str:
        """As :meth:`start`, for an event given as its type's name and JSON that fits it."""
        stream = self.topology.stream_of(event_type)
        saga = self.topology.starts.get(event_type)
        if saga is None:
            raise UnroutableEvent(
                f"no saga starts with {event_type};"
                f" sagas start with {', '.join(sorted(self.topology.starts))}"
            )
        saga_id = check_saga_id(saga_id or uuid.uuid4().hex)
        await self.broker.clock.refresh()
        envelope = Envelope(
            id=derive_id("start", saga_id, event_type, data.decode()), type=event_type, subject=saga_id,
            data=data, source="client", time=self.clock(), sagatype=saga.name,
        )  # fmt: skip
        try:
            await self.broker.persist(partial(self.broker.sagas.start, stream, envelope))
        except BrokerUnavailable as error:
            raise BrokerUnavailable(
                f"it is not known whether saga {saga_id!r} was begun; start it again with this id: {error}"
            ) from error
        return saga_id

    async def wait(self, saga_id: str, *, timeout: float | timedelta | None = None) -> View:
        """Wait until a saga has ended, however it ends. Returns its view.

        A tracker must run, for it is what makes views. ``timeout`` is in seconds; ``None`` waits for ever.

        Raises:
            WaitTimeout: if it has not ended in time; the message says how it stands.
            BrokerUnavailable: if the time is over and the server cannot be reached.
        """
        seconds = timeout.total_seconds() if isinstance(timeout, timedelta) else timeout
        look = _FIRST_LOOK
        with anyio.move_on_after(seconds):
            while True:
                # A server that is away for a while is no reason to give up before the time is over.
                with suppress(BrokerUnavailable):
                    view = await self._queries.view(saga_id)
                    if view is not None and view.status.ended:
                        return view
                await anyio.sleep(look)
                look = min(look * 1.5, _LONGEST_LOOK)
        raise WaitTimeout(await self._why_not_ended(saga_id, seconds))

    async def _why_not_ended(self, saga_id: str, seconds: float | None) -> str:
        state = await self.broker.sagas.state(saga_id)
        if state is None:
            return f"saga {saga_id!r} is not known: it was not started, or no participant has handled it yet"
        if state.ended:
            return f"saga {saga_id!r} is {state}, but no tracker has projected that; is one running?"
        return f"saga {saga_id!r} is still {state} after {seconds:g} s; look at its trace"

    async def view(self, saga_id: str) -> View:
        """How a saga stands, as far as the tracker has projected it.

        Raises:
            SagaNotFound: if the tracker has not seen it.
        """
        view = await self._queries.view(saga_id)
        if view is None:
            raise SagaNotFound(await self._why_not_seen(saga_id))
        return view

    async def _why_not_seen(self, saga_id: str) -> str:
        if await self.broker.sagas.state(saga_id) is not None:
            return f"saga {saga_id!r} exists, but no tracker has projected it; is one running?"
        return f"no saga {saga_id!r} in namespace {self.topology.namespace!r}"

    async def trace(self, saga_id: str) -> Trace:
        """The causal tree of a saga, as far as the tracker has projected it.

        Raises:
            SagaNotFound: if the tracker has not seen it.
        """
        view = await self.view(saga_id)
        trace = build_trace(view, await self._queries.facts(saga_id), await self.listeners())
        if not view.status.ended:
            waits = [(saga_id, each) for each in trace.awaits]
            await look_up(self.topology, self.broker, waits, self.clock())
        return trace

    async def listeners(self) -> Listeners:
        """Event type -> the (participant, step) that react to it, as workers have said."""
        found: dict[str, list[tuple[str, str]]] = {}
        for packed in (await self.broker.meta.contracts()).values():
            card = decode_card(packed)
            for step in card.steps:
                for event_type in step.on:
                    found.setdefault(event_type, []).append((card.participant, step.name))
        return {event_type: sorted(steps) for event_type, steps in found.items()}

    async def sagas(
        self, *, saga_type: str | None = None, states: Sequence[State | str] = (),
        since: int = 0, until: int = FOREVER, limit: int = 50,
    ) -> list[View]:  # fmt: skip
        """The newest sagas: of one type (or all), in any of ``states`` (or all).

        ``since`` and ``until`` bound the start time, in milliseconds since the epoch.

        Raises:
            ConfigurationError: if one of ``states`` is none.
        """
        try:
            wanted = [State(each) for each in states]
        except ValueError as error:
            raise ConfigurationError(f"{error}; there are {', '.join(State)}") from None
        return await self._queries.views(
            saga_type=saga_type, states=wanted, since=since, until=until, limit=limit
        )

    async def stuck(
        self, *, longest: float | timedelta = 60.0, saga_type: str | None = None, limit: int = 50
    ) -> list[Stuck]:
        """Sagas that have not moved for longer than they should, and what they wait for.

        That are open sagas to which nothing has happened for ``longest`` (seconds), unless they wait for
        something that is due later, as planned; failed ones; and those whose step is left to an operator.
        What has waited longest comes first. Looks at the ten thousand oldest open sagas.
        """
        await self.broker.clock.refresh()
        return await find_stuck(
            self._queries, await self.listeners(), self.clock(),
            longest=round(seconds_of(longest) * 1000), saga_type=saga_type, limit=limit,
        )  # fmt: skip

    async def compensate(self, saga_id: str, *, note: str = "", who: str | None = None) -> State:
        """Unwind a running saga. Returns its state right after: ``compensating``, or ``compensated``
        if there was nothing to undo.

        ``note`` says why and ``who`` on whose word (the user of this process by default); both are kept
        in the saga's trace.

        Raises:
            SagaNotFound: if nothing is known of it.
            SagaClosed: if it has ended, or unwinds already; ``state`` says which.
        """
        token = uuid.uuid4().hex[:16]
        why = note or "an operator said so"
        words = [each.encode("utf-8", "backslashreplace").decode() for each in (why, who or user())]
        await self.broker.clock.refresh()
        unwind = partial(self.broker.sagas.compensate, check_saga_id(saga_id), self.clock(), token, *words)
        return await self.broker.persist(unwind)


def _load(source: str | Path) -> Topology:
    # A harness whose participants are given in code is made without YAML.
    from choreo.wire.streams_yaml import load

    return load(source)
