"""How much the tracker reads at once."""

from __future__ import annotations

import anyio
import pytest
import redis.asyncio

from choreo.broker.broker import Broker
from choreo.broker.projections import Entry
from choreo.tracker.appetite import Appetite
from choreo.tracker.follower import Tracker
from choreo.wire.topology import SagaType, Topology

pytestmark = pytest.mark.anyio

LARGE = 200_000


def entries(count: int, size: int) -> dict[str, list[Entry]]:
    return {"a": [(f"{number + 1}-0", {b"data": bytes(size)}) for number in range(count)]}


def test_it_grows_while_entries_are_small() -> None:
    """Up to its limit, and only as long as there is more to read."""
    appetite = Appetite(1000, streams=1)
    assert appetite.count == 64
    appetite.note(entries(63, 100))
    assert appetite.count == 64
    for _ in range(9):
        appetite.note(entries(appetite.count, 100))
    assert appetite.count == 1000


def test_it_shrinks_when_entries_are_large() -> None:
    """Until what is read at once is no more than a few megabytes; never to nothing."""
    appetite = Appetite(1000, streams=1)
    for _ in range(9):
        appetite.note(entries(appetite.count, 100))
    for _ in range(20):
        appetite.note(entries(appetite.count, LARGE))
    assert 10 <= appetite.count <= 50
    for _ in range(20):
        appetite.lose()
    assert appetite.count == 1


def test_a_failed_read_is_not_asked_for_again_as_it_was() -> None:
    """It may have failed because it was too much."""
    appetite = Appetite(1000, streams=2)
    for _ in range(9):
        appetite.note(entries(appetite.count, 100))
    appetite.lose()
    assert appetite.count == 32
    appetite.lose()
    assert appetite.count == 16


async def test_large_events_are_read_in_several_bites(
    server_url: str, real_client: redis.asyncio.Redis, namespace: str
) -> None:
    """A backlog of many megabytes is projected whole, and no single answer holds much of it."""
    saga = SagaType("s", frozenset({"Begun"}), frozenset({"Ended"}))
    topology = Topology(namespace, 1, {"a": ("Begun", "Ended")}, {}, {"s": saga})
    stream = topology.keys.stream(0, "a")
    data = b'{"x": "' + b"x" * LARGE + b'"}'
    for number in range(300):
        fields = {"id": f"e{number}", "type": "Begun", "subject": f"s{number}", "time": 1, "data": data}
        await real_client.xadd(stream, fields)
    before = (await real_client.info("commandstats")).get("cmdstat_xread", {"calls": 0})["calls"]
    async with Broker.open(server_url, topology.keys) as broker:
        await broker.join()
        with anyio.fail_after(60):
            assert await Tracker(topology, broker).catch_up() == 300
        views = await broker.projections.views([f"s{number}" for number in range(300)])
    assert all(views)
    assert (await real_client.info("commandstats"))["cmdstat_xread"]["calls"] - before >= 5
