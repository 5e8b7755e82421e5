"""A stage: workers, a tracker and a client of one choreography, all in one process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio.abc import TaskGroup
from saga_cast import Finished, Refused, Started
from saga_wait import PATIENCE, until

from choreo import Choreography, Event, Participant
from choreo.broker.broker import Broker
from choreo.broker.connection import Connection
from choreo.model.event import type_name
from choreo.model.facts import View
from choreo.model.policy import Policy, Retry
from choreo.model.saga import State
from choreo.model.trace import EventNode, Reaction, Trace
from choreo.runtime.worker import Worker, WorkerOptions
from choreo.tracker.follower import Tracker
from choreo.wire.topology import SagaType, Topology


def choreography(
    namespace: str, participants: Iterable[Participant], *, completes: tuple[type[Event], ...] = (Finished,),
    every: bool = False, aborts: tuple[type[Event], ...] = (Refused,), retry: Retry | None = None,
) -> Topology:  # fmt: skip
    """A topology for these participants: one stream with all their events, and sagas that Started begins.

    Nothing is tried again unless ``retry`` says so.
    """
    events: set[type[Event]] = {Started, *completes, *aborts}
    for participant in participants:
        for step in participant.steps:
            events |= {*step.on, *step.outcome.types}
            events |= step.compensation.outcome.types if step.compensation else set()
    saga = SagaType(
        "order", frozenset({"Started"}), frozenset(map(type_name, completes)), every,
        frozenset(map(type_name, aborts)),
    )  # fmt: skip
    return Topology(
        namespace, 2, {"facts": tuple(sorted(map(type_name, events)))}, {}, {"order": saga},
        Policy(retry or Retry(attempts=1)),
    )  # fmt: skip


class Stage:
    """A choreography that runs."""

    def __init__(self, topology: Topology, connection: Connection, actors: TaskGroup) -> None:
        self.topology = topology
        self.broker = Broker(connection, topology.keys)
        self.choreo = Choreography(topology, self.broker)
        self.workers: dict[str, list[Worker]] = {}
        self.tracker = Tracker(topology, self.broker)
        self._actors = actors
        self._scopes: dict[Worker, anyio.CancelScope] = {}

    async def add(self, participant: Participant, options: WorkerOptions | None = None) -> Worker:
        """One more worker of a participant."""
        worker = Worker(participant, self.topology, self.broker, options=options)
        self.workers.setdefault(participant.name, []).append(worker)
        await self._actors.start(self._run, worker)
        return worker

    async def _run(self, worker: Worker, *, task_status: Any) -> None:
        with anyio.CancelScope() as self._scopes[worker]:
            await worker.run(task_status=task_status)

    async def reaches(self, state: State, saga: str = "s1") -> None:
        """Wait until a saga's record says so."""

        async def reached() -> bool:
            return await self.state(saga) is state

        await until(reached)

    async def is_in(self, status: State, saga: str = "s1") -> None:
        """Wait until the tracker says so of a saga."""

        async def reached() -> bool:
            return status in [view.status for view in await self.choreo.sagas() if view.id == saga]

        await until(reached)

    async def parks(self, saga: str = "s1") -> None:
        """Wait until an attempt is parked in a saga's partition."""
        timers = self.topology.keys.timers(self.topology.keys.partition(saga))

        async def parked() -> bool:
            return bool(await self.broker.connection.call("ZCARD", timers))

        await until(parked)

    def kill(self, worker: Worker) -> None:
        """A worker's process is gone: it finishes nothing, and says goodbye to nobody."""
        self._scopes[worker].cancel()

    def stop(self) -> None:
        self.tracker.stop()
        for workers in self.workers.values():
            for worker in workers:
                worker.stop()

    # -- a saga ------------------------------------------------------------------------------------

    async def start(self, number: int = 0, *, saga: str = "s1") -> None:
        await self.choreo.start(Started(number), saga_id=saga)

    async def write(
        self, *events: tuple[str, str], saga: str = "s1", data: str = "{}", **attributes: str
    ) -> None:
        """Write events, each given by its id and type, as any program may: with XADD."""
        key = self.topology.keys.stream(self.topology.keys.partition(saga), "facts")
        fields = {"subject": saga, "data": data, **attributes}
        flat = [part for pair in fields.items() for part in pair]
        await self.broker.connection.call_many(
            [("XADD", key, "*", "id", event, "type", kind, *flat) for event, kind in events]
        )
        self.broker.connection.announce_change()

    async def ended(self, saga: str = "s1") -> View:
        """The view of a saga that has ended, when nothing more happens."""
        with anyio.fail_after(PATIENCE):
            await self.choreo.wait(saga)
        await self.quiet()
        return await self.choreo.view(saga)

    async def view(self, saga: str = "s1") -> View:
        """The view of a saga, when nothing more happens."""
        await self.quiet()
        return await self.choreo.view(saga)

    async def state(self, saga: str = "s1") -> State | None:
        """What the saga's record says."""
        return await self.broker.sagas.state(saga)

    async def has_no_work(self, saga: str = "s1") -> bool:
        """Whether nothing is kept of a saga's effects and joins."""
        work = self.topology.keys.work(self.topology.keys.partition(saga), saga)
        return not await self.broker.connection.call("EXISTS", work)

    async def published(self, saga: str = "s1") -> list[str]:
        """The types of a saga's events, in order."""
        return [fields["type"] for fields in await self.entries(saga)]

    async def entries(self, saga: str = "s1") -> list[dict[str, str]]:
        """The entries of a saga's events, in order."""
        partition = self.topology.keys.partition(saga)
        found = await self._read(self.topology.keys.stream(partition, "facts"))
        return [fields for fields in found if fields["subject"] == saga]

    async def pending(self, participant: str, saga: str = "s1") -> int:
        """How many events of a saga's partition a participant has in hand."""
        key = self.topology.keys.stream(self.topology.keys.partition(saga), "facts")
        summary = await self.broker.connection.call("XPENDING", key, participant)
        return int(summary[0])

    async def letters(self, saga: str = "s1") -> list[str]:
        """The reasons of a saga's dead letters, in order."""
        found = await self._read(self.topology.keys.dead(self.topology.keys.partition(saga)))
        return [fields["reason"] for fields in found if fields.get("subject") == saga]

    async def _read(self, stream: str) -> list[dict[str, str]]:
        entries = await self.broker.connection.call("XRANGE", stream, "-", "+")
        return [
            {name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)}
            for _, flat in entries
        ]

    # -- everything --------------------------------------------------------------------------------

    async def quiet(self) -> None:
        """Wait until nothing is under way: all is read, handled, projected, and nothing is parked."""
        with anyio.fail_after(PATIENCE):
            before = await self._snapshot()
            while True:
                after = await self._snapshot()
                # Twice the same, for the streams are not looked at all in one moment.
                if before is not None and before == after:
                    return
                if after is None:
                    await anyio.sleep(0.005)
                before = after

    async def _snapshot(self) -> list[Any] | None:
        """The last id of every stream; ``None`` if a group has not come so far, or holds something."""
        keys, call_many = self.topology.keys, self.broker.connection.call_many
        partitions = range(self.topology.partitions)
        streams = [
            key for number in partitions
            for key in (keys.stream(number, "facts"), keys.journal(number),
                        *[keys.inbox(number, name) for name in self.workers])
        ]  # fmt: skip
        parked = await call_many([("ZCARD", keys.timers(number)) for number in partitions])
        infos = await call_many([("XINFO", "STREAM", key) for key in streams])
        groups = await call_many([("XINFO", "GROUPS", key) for key in streams])
        if any(isinstance(info, Exception) for info in infos):
            return None  # a tracker that has not looked at everything yet has not made every stream
        lasts = [_pairs(info)[b"last-generated-id"] for info in infos]
        for last, of_stream in zip(lasts, groups, strict=True):
            for group in map(_pairs, of_stream):
                if group[b"last-delivered-id"] != last or group[b"pending"]:
                    return None
        return None if any(parked) else lasts

    async def wake(self) -> None:
        """Let reads that wait at the server return now, as if their time was up."""
        connection = self.broker.connection
        connection.announce_change()
        if connection.blocking:
            listed = await connection.call("CLIENT", "LIST")
            for line in listed.decode().splitlines():
                about = dict(word.partition("=")[::2] for word in line.split())
                if "b" in about["flags"]:
                    await connection.call("CLIENT", "UNBLOCK", about["id"])

    async def keep_awake(self) -> None:
        """Let no read wait any more, so that stopping takes no time."""
        while True:
            await self.wake()
            await anyio.sleep(0.005)


@asynccontextmanager
async def on_stage(
    connection: Connection, topology: Topology, participants: Iterable[Participant], *,
    options: WorkerOptions | None = None,
) -> AsyncIterator[Stage]:  # fmt: skip
    """A stage with one worker of each participant. All are stopped in the end, and must stop in peace."""
    failure: Exception | None = None
    async with anyio.create_task_group() as waker:
        async with anyio.create_task_group() as actors:
            stage = Stage(topology, connection, actors)
            for participant in participants:
                await stage.add(participant, options)
            await actors.start(stage.tracker.run)
            try:
                yield stage
            except Exception as error:  # raised below as it is, and not within a group
                failure = error
                actors.cancel_scope.cancel()
            stage.stop()
            waker.start_soon(stage.keep_awake)
        waker.cancel_scope.cancel()
    if failure is not None:
        raise failure


def reactions(trace: Trace) -> dict[str, Reaction]:
    """Every reaction in a trace, by ``participant/step``."""
    found: dict[str, Reaction] = {}

    def walk(events: list[EventNode]) -> None:
        for event in events:
            for reaction in event.reactions:
                found[f"{reaction.participant}/{reaction.step}"] = reaction
                walk(reaction.emitted)

    walk(trace.events)
    return found


def _pairs(flat: Any) -> dict[bytes, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
