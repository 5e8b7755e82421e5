"""A namespace on a real server under fault: its services, and looks at everything that was written."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
from fault_diary import Diary
from fault_services import Nursery, Service

from choreo import Choreography, Participant
from choreo.broker.broker import Broker
from choreo.errors import BrokerUnavailable
from choreo.model.saga import State
from choreo.wire.keys import TRACKER_GROUP
from choreo.wire.topology import Topology
from tests.shop_load import fails, order, order_id, unbalanced

#: Seconds within which whatever a test waits for must come.
PATIENCE = 60.0


async def until(condition: Callable[[], Any], what: str | Callable[[], str], *, seconds: float = PATIENCE) -> None:
    """Wait until ``condition`` (async or not) holds; fail, naming ``what``, if it does not in time."""
    with anyio.move_on_after(seconds):
        while True:
            answer = condition()
            if hasattr(answer, "__await__"):
                answer = await answer
            if answer:
                return
            await anyio.sleep(0.02)
    raise AssertionError(f"waited {seconds:g} s for {what if isinstance(what, str) else what()}")


@dataclass(frozen=True)
class Held:
    """A delivery that some worker has not decided about."""

    stream: str
    entry: str
    consumer: str
    deliveries: int

    def is_in_hands_of(self, service: Service) -> bool:
        return f"-{service.pid}-" in self.consumer


@dataclass
class Stage:
    """A choreography on a server, its services' processes, and what was written about its sagas."""

    topology: Topology
    broker: Broker
    url: str
    """The server, as its services shall see it: perhaps through a proxy."""
    folder: Path
    """The data and the diary of its services."""
    nursery: Nursery
    participants: Sequence[Participant]
    services: list[Service] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.diary = Diary(self.folder / "diary")
        self.choreo = Choreography(self.topology, self.broker)
        self.listeners = listeners_of(self.topology, self.participants)

    def start(self, job: str, **arguments: Any) -> Service:
        """Start a service; see fault_jobs. It logs to a file of its own."""
        about = {"namespace": self.topology.namespace, "partitions": self.topology.partitions}
        log = self.folder / f"{len(self.services)}-{job}.log"
        service = self.nursery.start(job, log, **{"url": self.url} | about | arguments)
        self.services.append(service)
        return service

    def start_shop(self, *names: str, **options: Any) -> Service:
        """Start a process with workers of these participants of the shop; of all, if none is named."""
        which = {"names": names} if names else {}
        return self.start("shop", folder=self.folder, **which, **options)

    def start_bank(self, **how: Any) -> Service:
        """Start a process with workers of the bank's participants; see fault_bank."""
        return self.start("bank", folder=self.folder, **how)

    async def until_it_says(self, service: Service, text: str) -> None:
        """Wait until a service has printed ``text``."""
        await until(
            lambda: text in service.said or service.ended is not None,
            lambda: f"it to say {text!r}; it said:\n{service.said}",
        )
        assert text in service.said, service.said

    def end(self) -> None:
        """End every service."""
        for service in self.services:
            service.kill()
        self.diary.close()

    # -- looks -------------------------------------------------------------------------------------

    async def streams(self) -> list[str]:
        """Every stream of the namespace, inboxes included."""
        cursor, found = b"0", set()
        while True:
            cursor, page = await self.broker.connection.call(
                "SCAN", cursor, "MATCH", f"{{{self.topology.namespace}:*}}:*", "COUNT", 1000, "TYPE", "stream"
            )
            found.update(each.decode() for each in page)
            if int(cursor) == 0:
                return sorted(found)

    async def entries(self, key: str) -> list[dict[str, str]]:
        """The fields of every entry of a stream, in pages: there may be many."""
        found: list[dict[str, str]] = []
        start = "-"
        while True:
            page = await self.broker.connection.call("XRANGE", key, start, "+", "COUNT", 1000)
            found += [_decoded(flat) for _, flat in page]
            if len(page) < 1000:
                return found
            start = f"({page[-1][0].decode()}"

    async def pending(self) -> list[Held]:
        """What is in the hands of participants' workers, or was when they died."""
        looks = [("XPENDING", key, group, "-", "+", 1000) for key, group in self.listeners]
        answers = await self.broker.connection.call_many(looks)
        return [
            Held(key, entry.decode(), consumer.decode(), count)
            for (_, key, *_), answer in zip(looks, answers, strict=True) if isinstance(answer, list)
            for entry, consumer, _, count in answer
        ]  # fmt: skip

    async def _groups(self, key: str) -> list[dict[str, str]]:
        groups = [_decoded(flat) for flat in await self.broker.connection.call("XINFO", "GROUPS", key)]
        return [group for group in groups if group["name"] != TRACKER_GROUP]

    async def is_quiet(self) -> bool:
        """Whether every group has read and decided everything, and nothing is parked."""
        for key in await self.streams():
            groups = await self._groups(key)
            if not groups:
                continue
            last = _decoded(await self.broker.connection.call("XINFO", "STREAM", key))["last-generated-id"]
            if any(group["pending"] != "0" or group["last-delivered-id"] != last for group in groups):
                return False
        keys = self.topology.keys
        timers = [("ZCARD", keys.timers(number)) for number in range(keys.partitions)]
        return not any(await self.broker.connection.call_many(timers))

    async def letters(self) -> list[dict[str, str]]:
        """Every dead letter."""
        keys = self.topology.keys
        return [each for number in range(keys.partitions) for each in await self.entries(keys.dead(number))]

    async def doubled(self) -> list[tuple[str, str, str]]:
        """What was published or noted more than once: stream, saga, id. Producers may not send twice."""
        found = []
        for key in await self.streams():
            if ":inbox:" not in key:
                ids = Counter((each["subject"], each["id"]) for each in await self.entries(key) if "id" in each)
                found += [(key, *about) for about, times in ids.items() if times > 1]
        return found

    async def state(self, saga_id: str) -> State | None:
        return await self.broker.sagas.state(saga_id)

    async def states(self, ids: Iterable[str]) -> dict[str, State | None]:
        """How the server's records say that sagas stand."""
        keys, wanted = self.topology.keys, list(ids)
        records = [("HGET", keys.record(keys.partition(each), each), "state") for each in wanted]
        answers = await self.broker.connection.call_many(records)
        return {each: State(said.decode()) if said else None for each, said in zip(wanted, answers, strict=True)}

    async def emitted(self, event_type: str) -> list[str]:
        """The saga of every published event of a type."""
        keys, found = self.topology.keys, []
        for number in range(keys.partitions):
            entries = await self.entries(keys.stream(number, self.topology.stream_of(event_type)))
            found += [each["subject"] for each in entries if each["type"] == event_type]
        return sorted(found)

    async def journal(self, kind: str) -> list[dict[str, str]]:
        """The journal's entries of a kind."""
        keys, found = self.topology.keys, []
        for number in range(keys.partitions):
            found += await self.entries(keys.journal(number))
        return [each for each in found if each["kind"] == kind]

    async def until_ended(self, ids: Sequence[str], *, seconds: float = PATIENCE) -> None:
        """Wait until these sagas have ended, and all that follows from it is done."""
        left: set[str] = set()

        async def all_ended() -> bool:
            with suppress(BrokerUnavailable):
                states = await self.states(ids)
                left.clear()
                left.update(each for each, state in states.items() if state is None or not state.ended)
                return not left
            return False

        await until(all_ended, lambda: f"{len(left)} sagas to end: {sorted(left)[:5]}", seconds=seconds)
        await until(self.is_quiet, "nothing to be left to do", seconds=seconds)

    # -- the shop ----------------------------------------------------------------------------------

    async def place_orders(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            await self.choreo.start(order(number), saga_id=order_id(number))

    async def until_orders_end(self, numbers: Sequence[int], *, seconds: float = PATIENCE) -> None:
        """Wait until these orders have ended, and all that follows from it is done."""
        await self.until_ended([order_id(number) for number in numbers], seconds=seconds)

    async def check_orders(self, numbers: Sequence[int]) -> None:
        """Nothing was lost or doubled, and every order ended as it had to; books and views say the same."""
        states = await self.states(map(order_id, numbers))
        wrong = {
            number: states[order_id(number)] for number in numbers
            if states[order_id(number)] != (State.COMPENSATED if fails(number) else State.COMPLETED)
        }  # fmt: skip
        assert not wrong, await self.explain(wrong)
        assert await self.doubled() == []
        assert await self.letters() == []
        shipped = [number for number in numbers if not fails(number)]
        assert not unbalanced(self.folder, shipped), unbalanced(self.folder, shipped)

    async def explain(self, wrong: Iterable[int]) -> str:
        """What the streams tell of the first few orders that ended wrongly."""
        told = [f"ended wrongly: {wrong}"]
        few = {order_id(number) for number in list(wrong)[:3]}
        for key in await self.streams():
            told += [f"{key}: {each}" for each in await self.entries(key) if each.get("subject") in few]
        return "\n".join(told)


@asynccontextmanager
async def open_stage(
    url: str, topology: Topology, folder: Path, nursery: Nursery, participants: Sequence[Participant]
) -> AsyncIterator[Stage]:
    """A stage on the server at ``url``. Its services are ended with the block."""
    async with Broker.open(url, topology.keys) as broker:
        stage = Stage(topology, broker, url, folder, nursery, participants)
        try:
            yield stage
        finally:
            stage.end()


def listeners_of(topology: Topology, participants: Iterable[Participant]) -> list[tuple[str, str]]:
    """Every stream that a participant reads, with its name."""
    keys = topology.keys
    return [
        (key, each.name)
        for each in participants
        for number in range(topology.partitions)
        for key in sorted(
            {keys.inbox(number, each.name), *(keys.stream(number, topology.stream_of(name)) for name in each.reactions)}
        )
    ]


def _decoded(flat: Any) -> dict[str, str]:
    texts = [each.decode(errors="replace") if isinstance(each, bytes) else str(each) for each in flat]
    return dict(zip(texts[::2], texts[1::2], strict=True))
