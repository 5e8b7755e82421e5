"""Listing sagas: by type, status and time, newest first, from the index and at a cost that does not grow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from tracker_kit import (
    BOOM,
    DECLINED,
    NO_STOCK,
    ORDER,
    STREAMS,
    STUCK,
    OpenBroker,
    catch_up,
    run_sagas,
)

from choreo.broker.broker import Broker
from choreo.broker.projections import Batch, Update
from choreo.choreography import Choreography
from choreo.model.facts import Fact, Kind, View, encode_fact, encode_view
from choreo.model.saga import State
from choreo.tracker.projection import Projector
from choreo.tracker.queries import FOREVER, Queries
from choreo.wire.topology import SagaType, Topology

pytestmark = pytest.mark.anyio


@pytest.fixture
def topology(namespace: str) -> Topology:
    """Four partitions, and two types of sagas."""
    trip = SagaType("trip", frozenset({"Reserved"}), frozenset({"Released"}))
    return Topology(namespace, 4, STREAMS, {}, {"order": ORDER, "trip": trip})


async def write_views(broker: Broker, topology: Topology, views: Sequence[View]) -> None:
    """Have the tracker's projections hold these views, as if sagas had made them."""
    by_partition: dict[int, list[View]] = {}
    for view in views:
        by_partition.setdefault(topology.keys.partition(view.id), []).append(view)
    for partition, mine in by_partition.items():
        for portion in portions(mine, 2_000):
            progress = await broker.projections.progress(partition, Projector(topology, partition).streams)
            batch = Batch(partition, progress.version)
            for view in portion:
                fact = encode_fact(Fact(f"e:{view.id}", Kind.EVENT, view.started, "Placed"))
                listed = (view.type, view.status.value, view.started)
                batch.updates.append(Update(view.id, encode_view(view), [fact], None, listed))
            assert await broker.projections.write(batch) is not None


def portions(views: Sequence[View], size: int) -> list[Sequence[View]]:
    return [views[at : at + size] for at in range(0, len(views), size)]


def a_view(number: int, saga_type: str = "order", status: State = State.RUNNING) -> View:
    return View(f"s{number}", saga_type, status, started=1_000 + number, updated=1_000 + number)


def ids(views: Sequence[View]) -> list[str]:
    return [view.id for view in views]


# -- what is listed ----------------------------------------------------------------------------------


async def test_sagas_are_listed_newest_first(broker: Broker, topology: Topology) -> None:
    """Across partitions, the sagas that began last come first; those that began together by their ids."""
    await write_views(broker, topology, [a_view(number) for number in (5, 1, 9, 3, 7)])
    twins = [View(name, "order", started=2_000) for name in ("b", "c", "a")]
    await write_views(broker, topology, twins)
    assert ids(await Choreography(topology, broker).sagas()) == ["a", "b", "c", "s9", "s7", "s5", "s3", "s1"]


async def test_a_limit_keeps_the_newest(broker: Broker, topology: Topology) -> None:
    """At most `limit` sagas are listed, whichever partitions they are in."""
    await write_views(broker, topology, [a_view(number) for number in range(30)])
    choreo = Choreography(topology, broker)
    assert ids(await choreo.sagas(limit=3)) == ["s29", "s28", "s27"]
    assert len(await choreo.sagas(limit=1_000)) == 30
    assert await choreo.sagas(limit=0) == []


async def test_sagas_are_listed_by_type_and_state(broker: Broker, topology: Topology) -> None:
    """Types and states, alone and together, choose what is listed; unknown starts have an empty type."""
    states = list(State)
    views = [
        a_view(number, saga_type, states[number % len(states)])
        for number, saga_type in enumerate(["order", "trip", ""] * 12)
    ]
    await write_views(broker, topology, views)
    choreo = Choreography(topology, broker)
    everything = sorted(views, key=lambda view: -view.started)
    assert await choreo.sagas() == everything
    for saga_type in ("order", "trip", ""):
        expected = [view for view in everything if view.type == saga_type]
        assert await choreo.sagas(saga_type=saga_type) == expected
        for state in states:
            chosen = [view for view in expected if view.status is state]
            assert await choreo.sagas(saga_type=saga_type, states=[state.value]) == chosen
    both = [view for view in everything if view.status in (State.FAILED, State.COMPENSATED)]
    assert await choreo.sagas(states=[State.FAILED, "compensated"]) == both
    assert await choreo.sagas(saga_type="nonsense") == []


async def test_sagas_are_listed_by_time(broker: Broker, topology: Topology) -> None:
    """`since` and `until` bound the start, both included, in milliseconds."""
    await write_views(broker, topology, [a_view(number) for number in range(10)])
    choreo = Choreography(topology, broker)
    assert ids(await choreo.sagas(since=1_007)) == ["s9", "s8", "s7"]
    assert ids(await choreo.sagas(until=1_001)) == ["s1", "s0"]
    assert ids(await choreo.sagas(since=1_004, until=1_005)) == ["s5", "s4"]
    assert ids(await choreo.sagas(since=1_004, until=1_003)) == []


async def test_whatever_time_an_event_may_have_is_listed(open_broker: OpenBroker, namespace: str) -> None:
    """The largest time that an envelope takes is before the end of time for a listing."""
    topology = Topology(namespace, 1, {"orders": ("Placed",)}, {}, {})
    broker = open_broker(topology)
    for time in ("1", "9" * 15):
        fields = {"id": time, "type": "Placed", "subject": f"at-{time}", "data": "{}", "time": time}
        flat = [part for pair in fields.items() for part in pair]
        await broker.connection.call("XADD", topology.keys.stream(0, "orders"), "*", *flat)
    await catch_up(topology, broker)
    assert ids(await Choreography(topology, broker).sagas()) == [f"at-{'9' * 15}", "at-1"]
    assert int("9" * 15) < FOREVER


async def test_real_sagas_are_listed_where_they_are(broker: Broker, topology: Topology) -> None:
    """Sagas that were run for real stand under the states in which they ended."""
    await run_sagas(topology, broker, [1, DECLINED, NO_STOCK, BOOM, STUCK])
    await catch_up(topology, broker)
    choreo = Choreography(topology, broker)
    listed = {state: set(ids(await choreo.sagas(saga_type="order", states=[state]))) for state in State}
    assert {state: found for state, found in listed.items() if found} == {
        State.COMPLETED: {"s0"}, State.COMPENSATED: {"s1", "s2", "s3"}, State.FAILED: {"s4"},
    }  # fmt: skip


async def test_a_listed_saga_whose_view_is_gone_is_left_out(broker: Broker, topology: Topology) -> None:
    """A listing never fails because a view is missing."""
    await write_views(broker, topology, [a_view(1), a_view(2)])
    await broker.connection.call("DEL", topology.keys.view(topology.keys.partition("s2"), "s2"))
    assert ids(await Choreography(topology, broker).sagas()) == ["s1"]


async def test_a_view_that_is_not_there(broker: Broker, topology: Topology) -> None:
    """An unknown saga has neither view nor facts."""
    queries = Queries(topology, broker)
    assert await queries.view("never-was") is None
    assert await queries.facts("never-was") == []


# -- what it costs -----------------------------------------------------------------------------------


async def commands(broker: Broker) -> Counter[str]:
    """How often the server has run each command, scripts' commands included."""
    text = (await broker.connection.call("INFO", "commandstats")).decode()
    rows = [line.removeprefix("cmdstat_").split(":calls=") for line in text.splitlines() if ":calls=" in line]
    return Counter({name: int(rest.partition(",")[0]) for name, rest in rows})


async def cost(broker: Broker, topology: Topology, **asked: object) -> Counter[str]:
    """The commands that one listing runs."""
    before = await commands(broker)
    await Choreography(topology, broker).sagas(**asked)  # type: ignore[arg-type]
    found = await commands(broker) - before
    del found["info"]
    return found


async def test_a_listing_asks_the_index_and_no_more(real_broker: Broker, topology: Topology) -> None:
    """One range per partition, type and state, and one GET per saga that is listed: no SCAN, no KEYS."""
    await write_views(real_broker, topology, [a_view(number) for number in range(500)])
    ranges = topology.partitions * 3 * len(State)
    assert await cost(real_broker, topology, limit=20) == {"zrevrangebyscore": ranges, "get": 20}
    asked = {"saga_type": "order", "states": [State.RUNNING], "limit": 7}
    assert await cost(real_broker, topology, **asked) == {"zrevrangebyscore": topology.partitions, "get": 7}
    asked = {"saga_type": "trip", "states": [State.FAILED, State.RUNNING], "limit": 7}
    assert await cost(real_broker, topology, **asked) == {"zrevrangebyscore": topology.partitions * 2}


@pytest.mark.load
async def test_two_hundred_thousand_sagas_cost_a_listing_nothing(
    real_broker: Broker, topology: Topology
) -> None:
    """With 200,000 sagas a listing runs the same commands and gets as many rows as with few."""
    states = list(State)
    for start in range(0, 200_000, 20_000):
        views = [a_view(number, "order", states[number % 4]) for number in range(start, start + 20_000)]
        await write_views(real_broker, topology, views)
    asked = {"saga_type": "order", "states": [State.COMPLETED], "limit": 10}
    await real_broker.connection.call("CONFIG", "RESETSTAT")
    assert await cost(real_broker, topology, **asked) == {"zrevrangebyscore": topology.partitions, "get": 10}
    sent = await bytes_sent(real_broker)
    for _ in range(10):
        found = await Choreography(topology, real_broker).sagas(**asked)
    assert await bytes_sent(real_broker) - sent < 10 * 50_000, "ten short answers, not the whole index"
    assert ids(found) == [f"s{number}" for number in range(199_999, 0, -1) if number % 4 == 1][:10]
    old = await Choreography(topology, real_broker).sagas(until=1_000, limit=10)
    assert ids(old) == ["s0"]


async def bytes_sent(broker: Broker) -> int:
    """What the server has sent to clients since its statistics were reset."""
    text = (await broker.connection.call("INFO", "stats")).decode()
    return next(
        int(line.partition(":")[2]) for line in text.splitlines() if line.startswith("total_net_output")
    )
