"""A worker: one process's share of one participant's work."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
from anyio.abc import TaskStatus

from choreo.broker.broker import Broker
from choreo.broker.clock import Clock
from choreo.broker.connection import NoGroup
from choreo.broker.gate import Identity
from choreo.broker.groups import Delivery
from choreo.broker.patience import Outage, Patience
from choreo.errors import BrokerError, BrokerUnavailable, ConfigurationError, Fault
from choreo.model.event import type_name
from choreo.model.participant import Participant
from choreo.runtime.alarm import Alarm
from choreo.runtime.claims import Claims, Dispatch
from choreo.runtime.committer import Committer
from choreo.runtime.delivery import Handling
from choreo.runtime.handlers import Bench
from choreo.runtime.heart import Heart
from choreo.runtime.lives import Lives
from choreo.runtime.parked import Work
from choreo.runtime.pausing import PauseWatch
from choreo.runtime.reader import Reader
from choreo.runtime.slots import Slots
from choreo.runtime.together import Together
from choreo.runtime.unwanted import Unwanted
from choreo.runtime.upkeep import Upkeep
from choreo.wire.cards import card_of, encode_card
from choreo.wire.facts import Place
from choreo.wire.limits import MAX_NAME_CHARACTERS
from choreo.wire.topology import Topology

logger = logging.getLogger("choreo.runtime")

#: Seconds between looks whether a pause is over.
_LOOK = 0.2


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How a worker works. Durations are seconds."""

    concurrency: int = 256
    """Deliveries in hand at once. A quarter, at least one of two, is kept for undos and retries; as many for
    events."""
    threads: int = 16
    """Threads for steps that are no coroutines; undos have as many of their own."""
    lease: float = 10.0
    """After this long without a sign of life, other workers take over what a worker holds."""
    grace: float = 30.0
    """How long a stopping worker lets handlers finish."""


class Worker:
    """Reads what is delivered to a participant, and handles it until stopped."""

    def __init__(
        self, participant: Participant, topology: Topology, broker: Broker, *,
        options: WorkerOptions | None = None, clock: Clock | None = None,
    ) -> None:  # fmt: skip
        check_routes(participant, topology)
        self.participant = participant
        self.topology = topology
        self.broker = broker
        self.options = options or WorkerOptions()
        self.identity = Identity(participant.name, _consumer_name())
        self.clock = clock or broker.clock
        self.stopwatch = time.monotonic
        self._topics = self._find_topics()
        self._inboxes = {
            topology.keys.inbox(partition, participant.name): partition
            for partition in range(topology.partitions)
        }
        self._slots = Slots(self.options.concurrency, self._inboxes)
        self._claims = Claims(broker.leases, self.identity, self._slots, self.clock)
        topics = {key: place.partition for key, place in self._topics.items()}
        self._streams = self._inboxes | topics
        self._readers = [
            Reader(broker, self._claims, self._inboxes, back=True),
            Reader(broker, self._claims, topics, back=False),
        ]
        self._outage = Outage(logger, participant.name)
        self._committer = Committer(broker.gate, self.identity, self.clock, self._outage)
        self._unwanted = Unwanted(broker.groups, participant.name, self._outage)
        self._pausing = PauseWatch(broker.meta, participant.name)
        self._stopping = anyio.Event()

    def _find_topics(self) -> dict[str, Place]:
        """Stream key -> its place, for every partition of every topic that this participant listens to."""
        heard = {self.topology.stream_of(name) for name in self.participant.reactions}
        return {
            self.topology.keys.stream(partition, topic): Place(topic, partition)
            for topic in sorted(heard)
            for partition in range(self.topology.partitions)
        }

    def stop(self) -> None:
        """Begin to stop: read no more, let handlers finish within the grace period, hand over the rest."""
        self._stopping.set()
        self._slots.close()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Work until :meth:`stop`. ``task_status.started()`` is called when the first read is about to begin.

        A server that is away is waited for, also at the start.

        Raises:
            LayoutMismatch, UnsupportedServer: the server and this process do not fit.
            BrokerRefused: the server lets nobody in with such a password, or grants it too few rights, or
                something is in the way.
        """
        joined = await self._join_patiently()
        if not joined:
            task_status.started()
            return
        async with self._lifespan() as resources, anyio.create_task_group() as background:
            handling = self._make_handling(resources)
            upkeep = self._make_upkeep()
            heart = Heart(self.broker, self.identity, self._slots, self.options.lease)
            alarm = Alarm(self.broker.timers, self.clock, self.participant.name, self._outage)
            for work in (self._committer.run, self.broker.clock.follow, heart.run, alarm.run, upkeep.tidy,
                         self._pausing.follow, self._unwanted.run):  # fmt: skip
                background.start_soon(work)
            async with anyio.create_task_group() as handlers:
                lives = Lives(handlers, self._committer, self.stopwatch)
                handlers.start_soon(lives.run)
                alone = partial(self._handle, handling)
                together = Together(lives, handling, alone, self._slots.release)
                dispatch = partial(self._dispatch, together)
                handlers.start_soon(upkeep.recover, self._stopping, dispatch)
                task_status.started()
                logger.info("%s: worker %s is ready", self.participant.name, self.identity.consumer)
                async with anyio.create_task_group() as reading:
                    for reader in self._readers:
                        reading.start_soon(self._read, reader, dispatch)
                with anyio.move_on_after(self.options.grace):
                    await self._slots.wait_until_idle()
                handlers.cancel_scope.cancel()
            background.cancel_scope.cancel()
        await self._leave()

    async def _join_patiently(self) -> bool:
        """Join, as soon as the server is there. Returns whether that happened before :meth:`stop`."""
        patience = Patience(logger, "joining", self._outage)
        while not self._stopping.is_set():
            try:
                await self._join()
            except BrokerUnavailable as error:
                await patience.pause(error, self._stopping)
            else:
                patience.succeeded()
                await self._pausing.look()
                return True
        return False

    async def _join(self) -> None:
        await self.broker.join_to_commit()
        await self.broker.meta.publish_contract(self.participant.name, encode_card(card_of(self.participant)))
        await self.broker.groups.ensure(list(self._streams), self.participant.name)

    @asynccontextmanager
    async def _lifespan(self) -> AsyncIterator[Any]:
        if self.participant.lifespan is None:
            yield None
        else:
            async with self.participant.lifespan() as resources:
                yield resources

    def _make_upkeep(self) -> Upkeep:
        def doubt() -> None:
            for reader in self._readers:
                reader.doubt()

        def paused() -> bool:
            return self._pausing.paused

        return Upkeep(self._claims, self._streams, self.options.lease, doubt, paused)

    def _make_handling(self, resources: Any) -> Handling:
        threads, undo_threads = (anyio.CapacityLimiter(self.options.threads) for _ in range(2))
        defaults = self.topology.defaults
        benches = {
            step: Bench(step, threads, defaults, undo_threads=undo_threads) for step in self.participant.steps
        }
        return Handling(
            self.participant.name, self.topology,
            {name: benches[step] for name, step in self.participant.reactions.items()},
            self.clock, resources, lambda: self._committer.hindered,
        )  # fmt: skip

    async def _leave(self) -> None:
        try:
            await self._unwanted.flush()
            left = await self.broker.leases.leave(self.identity, list(self._streams))
        except BrokerError as error:
            logger.warning("%s: could not say goodbye: %s", self.participant.name, error)
        else:
            if left:
                logger.warning("%s: handed over unfinished: %d", self.participant.name, left)
            logger.info("%s: worker %s has stopped", self.participant.name, self.identity.consumer)

    # -- taking ------------------------------------------------------------------------------------

    async def _read(self, reader: Reader, dispatch: Dispatch) -> None:
        """Read until stopped, or while paused not."""
        what = "reading inboxes" if reader is self._readers[0] else "reading topics"
        patience = Patience(logger, what, self._outage)
        while not self._stopping.is_set():
            if self._pausing.paused:
                with anyio.move_on_after(_LOOK):
                    await self._stopping.wait()
                continue
            try:
                await reader.read(dispatch)
            except NoGroup as error:
                await self._heal(error, patience)
            except BrokerError as error:
                await patience.pause(error, self._stopping)
            else:
                patience.succeeded()

    async def _heal(self, error: NoGroup, patience: Patience) -> None:
        """Groups are gone: somebody deleted them, or the server came back without its data."""
        try:
            await self._join()
        except BrokerError as obstacle:
            await patience.pause(obstacle, self._stopping)
        else:
            await patience.pause(f"a consumer group was gone and is made anew: {error}", self._stopping)

    # -- handling ----------------------------------------------------------------------------------

    async def _dispatch(self, together: Together, found: Sequence[Delivery]) -> None:
        """Begin the life of every delivery that this participant can do something with."""
        wanted = []
        for delivery in found:
            if not delivery.fields:
                continue  # deleted: it stays pending until it is claimed, which tells its saga
            work = self._understand(together.handling, delivery)
            if work is None:
                self._unwanted.add(delivery.stream, delivery.entry)
            else:
                self._slots.hold(delivery)
                wanted.append((delivery, work))
        together.start(wanted)
        await asyncio.sleep(0)  # what they ask shall leave before the next read is sent

    def _understand(self, handling: Handling, delivery: Delivery) -> Work | None:
        if delivery.stream in self._inboxes:
            return handling.understand_request(delivery, self._inboxes[delivery.stream])
        return handling.understand(delivery, self._topics[delivery.stream])

    async def _handle(self, handling: Handling, delivery: Delivery, work: Work, asked: bool) -> None:
        try:
            await handling.handle(delivery, work, asked=asked)
        except BrokerError as error:
            # It stays pending, and is delivered again when its lease has run out.
            logger.warning("%s: %s of %s is left pending: %s", self.participant.name,
                           delivery.entry, delivery.stream, error)  # fmt: skip
        except Exception:
            # Whatever is wrong with one delivery must not end the worker, and with it all others.
            logger.exception("%s: %s of %s is left pending", self.participant.name,
                             delivery.entry, delivery.stream)  # fmt: skip
        finally:
            self._slots.release(delivery)


def _consumer_name() -> str:
    """A name that no other worker has or had: a consumer must not inherit what another one left."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(3)}"


def check_routes(participant: Participant, topology: Topology) -> None:
    """Refuse a participant whose contract the topology cannot carry.

    Raises:
        ConfigurationError: naming every event type that no stream carries, and where it is used.
    """
    faults = []
    if not participant.steps:
        faults.append(Fault(participant.name, "has no step; decorate a handler with @participant.on(Event)"))
    for step in participant.steps:
        undo = step.compensation
        used = {*step.on, *step.outcome.types, *(undo.outcome.types if undo else ())}
        for name in sorted(type_name(event) for event in used):
            if name not in topology.routes:
                what = (
                    f"{participant.name}/{step.name} uses {name}, which no stream carries;"
                    f" add it to `events` of a stream in {topology.source or 'the topology'}"
                )
                faults.append(Fault(step.location, what))
        names = {step.name, *(type_name(event) for event in used), *([undo.name] if undo else ())}
        for name in sorted(names):
            if len(name) > MAX_NAME_CHARACTERS:
                what = f"the name {name[:40]}… has {len(name)} characters; at most {MAX_NAME_CHARACTERS}"
                faults.append(Fault(step.location, what))
    if faults:
        raise ConfigurationError(faults)
