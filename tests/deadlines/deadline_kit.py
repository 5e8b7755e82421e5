"""A choreography on a clock that is led by hand: time passes when a test says so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import anyio
from anyio.abc import TaskGroup

from choreo import Choreography, Event, Participant, Retry, SagaTimedOut
from choreo.broker.broker import Broker
from choreo.model.deadlines import Deadlines, Expectation
from choreo.model.facts import View
from choreo.model.policy import Policy
from choreo.model.saga import State
from choreo.runtime.worker import Worker, WorkerOptions
from choreo.tracker.follower import Tracker
from choreo.wire.topology import OWN_STREAM, SagaType, Topology

#: Seconds within which whatever a test waits for must come.
PATIENCE = 20.0
#: Milliseconds.
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
START = 1_800_000_000_000

OpenBroker: TypeAlias = Callable[[Topology], Broker]


class Placed(Event):
    amount: int = 1


class Paid(Event):
    pass


class Declined(Event):
    pass


class Reserved(Event):
    pass


class Shipped(Event):
    pass


class Apologised(Event):
    what: str = ""


PAYMENT = Expectation("Placed", MINUTE, ("Paid", "Declined"))


def topology_of(
    namespace: str, whole: int | None = None, *expects: Expectation, partitions: int = 2
) -> Topology:
    """A topology whose sagas have these deadlines. Nothing is tried again unless a step says so."""
    order = SagaType(
        "order", frozenset({"Placed"}), frozenset({"Shipped"}), False, frozenset({"Declined"}),
        Deadlines(whole, expects),
    )  # fmt: skip
    streams = {
        "orders": ("Placed", "Shipped", "Apologised"), "money": ("Paid", "Declined"), "stock": ("Reserved",),
    }  # fmt: skip
    return Topology(namespace, partitions, streams, {}, {"order": order}, Policy(Retry(attempts=1)))


class HandClock:
    """Shows what it was set to: milliseconds since the epoch."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> int:
        return self.now


async def until(condition: Callable[[], Awaitable[object]], what: str) -> None:
    """Wait until ``condition`` holds; fail, naming ``what``, if it does not in time."""
    with anyio.move_on_after(PATIENCE):
        while not await condition():  # noqa: ASYNC110 - what changes is on a server
            await anyio.sleep(0.01)
        return
    raise AssertionError(f"waited {PATIENCE:g} s for {what}")


class Stage:
    """Workers that run, and a tracker that is led by hand, all by one clock."""

    def __init__(self, topology: Topology, broker: Broker, actors: TaskGroup) -> None:
        self.topology = topology
        self.broker = broker
        self.clock = HandClock()
        self.choreo = Choreography(topology, broker, self.clock)
        self.tracker = self.new_tracker()
        self._actors = actors

    def new_tracker(self) -> Tracker:
        """A tracker that knows nothing yet, as one that was started just now."""
        return Tracker(self.topology, self.broker, self.clock)

    async def add(self, *participants: Participant) -> None:
        """Start a worker of each."""
        for participant in participants:
            options = WorkerOptions(grace=0.1)
            worker = Worker(participant, self.topology, self.broker, options=options, clock=self.clock)
            await self._actors.start(worker.run)

    async def start(self, *saga_ids: str) -> None:
        for saga_id in saga_ids or ("s1",):
            await self.choreo.start(Placed(), saga_id=saga_id)

    async def write(self, stream: str, event_type: str, saga_id: str = "s1", **attributes: str) -> None:
        """XADD an event, as any program may."""
        key = self.topology.keys.stream(self.topology.keys.partition(saga_id), stream)
        fields = {
            "id": f"{event_type}-{saga_id}", "type": event_type, "subject": saga_id, "data": "{}",
            "time": str(self.clock()), **attributes,
        }  # fmt: skip
        flat = [part for pair in fields.items() for part in pair]
        await self.broker.connection.call("XADD", key, "*", *flat)
        self.broker.connection.announce_change()

    async def pass_time(self, milliseconds: int) -> int:
        """Let time pass, and the tracker look. Returns how many sagas have timed out."""
        self.clock.now += milliseconds
        return await self.look()

    async def look(self) -> int:
        """Let the tracker project all that is there and let pass what is due. Returns how many timed out."""
        await self.tracker.catch_up()
        fired = 0
        while count := await self.tracker.expire():
            fired += count
        await self.tracker.catch_up()
        return fired

    async def view(self, saga_id: str = "s1") -> View:
        """How a saga stands, once the tracker has projected all that is there."""
        await self.tracker.catch_up()
        return await self.choreo.view(saga_id)

    async def reaches(self, state: State, saga_id: str = "s1") -> None:
        """Wait until the saga's record says so."""

        async def reached() -> bool:
            return await self.broker.sagas.state(saga_id) is state

        await until(reached, f"{saga_id} to be {state}")

    async def shows(self, event_type: str, saga_id: str = "s1") -> None:
        """Wait until an event of a saga has been published."""

        async def shown() -> bool:
            return event_type in [fields["type"] for fields in await self.published(saga_id)]

        await until(shown, f"{event_type} of {saga_id}")

    async def published(self, saga_id: str = "s1") -> list[dict[str, str]]:
        """The events of a saga, stream by stream."""
        partition, found = self.topology.keys.partition(saga_id), []
        for name in self.topology.streams:
            found += await self._entries(self.topology.keys.stream(partition, name))
        return [fields for fields in found if fields["subject"] == saga_id]

    async def timed_out(self) -> list[str]:
        """The sagas of which a SagaTimedOut was published, once for each that was."""
        found: list[str] = []
        for partition in range(self.topology.partitions):
            entries = await self._entries(self.topology.keys.stream(partition, OWN_STREAM))
            found += [fields["subject"] for fields in entries]
        return sorted(found)

    async def armed(self) -> dict[str, int]:
        """The sagas of which a deadline is pending, and when it passes."""
        found: dict[str, int] = {}
        for partition in range(self.topology.partitions):
            key = self.topology.keys.deadlines(partition)
            flat = await self.broker.connection.call("ZRANGE", key, 0, -1, "WITHSCORES")
            found |= {each.decode(): int(float(due)) for each, due in zip(flat[::2], flat[1::2], strict=True)}
        return found

    async def _entries(self, stream: str) -> list[dict[str, str]]:
        entries = await self.broker.connection.call("XRANGE", stream, "-", "+")
        return [
            {name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)}
            for _, flat in entries
        ]


@asynccontextmanager
async def on_stage(
    topology: Topology, broker: Broker, participants: Iterable[Participant] = ()
) -> AsyncIterator[Stage]:
    """A stage with one worker of each participant; in the end they are ended where they stand."""
    async with anyio.create_task_group() as actors:
        stage = Stage(topology, broker, actors)
        await broker.join()
        await stage.add(*participants)
        try:
            yield stage
        finally:
            actors.cancel_scope.cancel()


class Cast:
    """Participants that note what they do in a diary."""

    def __init__(self) -> None:
        self.diary: list[str] = []
        self.told: list[SagaTimedOut] = []
        """What those heard who react to a timeout."""
        self.paying = anyio.Event()
        """Set when the charge of a slow cashier has begun."""
        self.paid = anyio.Event()
        """Set by a test to let it end."""

    def payments(
        self, retry: Retry | None = None, *, fails: bool = False, slow: bool = False, park: bool = False
    ) -> Participant:
        """Charges what was placed, and can refund it."""
        payments = Participant("payments")

        @payments.on(Placed, retry=retry, on_failure="park" if park else None)
        async def charge(placed: Placed) -> Paid:
            self.diary.append("charge")
            self.paying.set()
            if fails:
                raise RuntimeError("the bank is closed")
            if slow:
                await self.paid.wait()
            return Paid()

        @charge.undo
        async def refund(placed: Placed, paid: Paid | None) -> None:
            self.diary.append("refund" if paid else "refund perhaps")

        return payments

    def stock(self) -> Participant:
        """Reserves what was placed, and can release it."""
        stock = Participant("stock")

        @stock.on(Placed)
        async def reserve(placed: Placed) -> Reserved:
            self.diary.append("reserve")
            return Reserved()

        @reserve.undo
        async def release(placed: Placed) -> None:
            self.diary.append("release")

        return stock

    def shipping(self) -> Participant:
        """Sends when there is money and goods."""
        shipping = Participant("shipping")

        @shipping.on_all(Paid, Reserved)
        async def send(paid: Paid, reserved: Reserved) -> Shipped:
            self.diary.append("send")
            return Shipped()

        return shipping

    def support(self) -> Participant:
        """Apologises when a saga has timed out."""
        support = Participant("support")

        @support.on(SagaTimedOut)
        async def apologise(timed_out: SagaTimedOut) -> Apologised:
            self.told.append(timed_out)
            return Apologised(timed_out.deadline)

        return support


def types(published: Sequence[dict[str, Any]]) -> list[str]:
    return sorted(fields["type"] for fields in published)
