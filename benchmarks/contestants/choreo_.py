"""choreo itself, with all guarantees on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import anyio

from benchmarks import chain, handlers
from benchmarks.server import Server
from choreo.broker.broker import Broker
from choreo.cli.serving import sparing_the_collector
from choreo.model.participant import Participant
from choreo.runtime.worker import Worker, WorkerOptions
from choreo.tracker.follower import Tracker
from choreo.wire.envelope import encode_data
from choreo.wire.keys import Keys
from choreo.wire.topology import Topology

INSTALLED = True
TRACKER = "tracker"


def prepare(server: Server) -> None:
    """Workers make what they need when they join."""


def commands(first: int, count: int) -> Iterator[tuple[object, ...]]:
    """As any program may begin sagas: with a plain XADD."""
    keys = chain.TOPOLOGY.keys
    for number in range(first, first + count):
        saga = chain.saga_id(number)
        yield (
            "XADD", keys.stream(keys.partition(saga), "orders"), "*",
            "id", f"o-{number}", "type", "OrderPlaced", "subject", saga, "sagatype", "order",
            "source", "client", "time", int(time.time() * 1000), "data", encode_data(chain.order(number)),
        )  # fmt: skip


def end_streams() -> list[str]:
    """Where the last events go."""
    return [chain.TOPOLOGY.keys.stream(number, chain.END) for number in range(chain.PARTITIONS)]


def journals() -> list[str]:
    """Where undos are told of."""
    return [chain.TOPOLOGY.keys.journal(number) for number in range(chain.PARTITIONS)]


async def serve(url: str, roles: Sequence[str]) -> None:
    """Run participants (``payments``, ``payments:unwinding``, ...), ``handlers:...`` or the ``tracker``."""
    with sparing_the_collector():  # as `choreo run` does
        await _serve_all(url, roles)


async def _serve_all(url: str, roles: Sequence[str]) -> None:
    async with anyio.create_task_group() as tasks:
        for role in roles:
            tasks.start_soon(_serve, url, role)


async def _serve(url: str, role: str) -> None:
    if role == TRACKER:
        topology = chain.TOPOLOGY
        async with Broker.open(url, topology.keys) as broker:
            await Tracker(topology, broker).run()
        return
    topology, participant, options = _find(role)
    async with Broker.open(url, Keys(topology.namespace, topology.partitions)) as broker:
        await Worker(participant, topology, broker, options=options).run()


def _find(role: str) -> tuple[Topology, Participant, WorkerOptions]:
    name, _, kind = role.partition(":")
    if name == handlers.NAME:
        return handlers.TOPOLOGY, handlers.participant(kind), WorkerOptions(concurrency=1000)
    people = chain.unwinding() if kind == "unwinding" else chain.forward()
    return chain.TOPOLOGY, people[name], WorkerOptions()
