"""The clock follows the server's, and never goes back."""

from __future__ import annotations

import time

import pytest
import redis.asyncio

from choreo import Choreography, Event, Participant
from choreo.broker.broker import Broker
from choreo.broker.clock import ServerClock, wall_clock
from choreo.broker.connection import Connection
from choreo.errors import BrokerError, BrokerUnavailable
from choreo.runtime.worker import Worker
from choreo.wire.keys import Keys
from choreo.wire.topology import Topology

pytestmark = pytest.mark.anyio


class ScriptedServer(Connection):
    """A connection to a server whose clock says what the test says (seconds), or that is away."""

    def __init__(self, says: float | BrokerError) -> None:
        self.says = says

    async def call(self, *command: object) -> list[bytes]:
        assert command == ("TIME",)
        if isinstance(self.says, BrokerError):
            raise self.says
        return [b"%d" % int(self.says), b"%d" % round(self.says % 1 * 1_000_000)]


class Stopwatch:
    """A monotonic clock that a test moves. Seconds."""

    def __init__(self) -> None:
        self.at = 50.0

    def __call__(self) -> float:
        return self.at


async def test_it_shows_the_servers_time(redis_client: redis.asyncio.Redis) -> None:
    """To the fraction of a second that the way to the server takes."""
    clock = ServerClock(Connection(redis_client))
    before = await redis_client.time()
    await clock.synchronise()
    shown = clock()
    after = await redis_client.time()
    assert before[0] * 1000 + before[1] // 1000 - 1 <= shown <= after[0] * 1000 + after[1] // 1000 + 1


async def test_a_host_whose_clock_is_wrong() -> None:
    """Hours do not matter: the server's time counts, and this host only counts on from there."""
    server, watch = ScriptedServer(1000.25), Stopwatch()
    clock = ServerClock(server, watch)
    assert abs(clock() - wall_clock()) < 60_000  # before it has seen the server's
    await clock.refresh()
    assert clock() == 1_000_250
    watch.at += 7
    assert clock() == 1_007_250


async def test_it_looks_again_after_a_while() -> None:
    """What the host's pace has lost or gained is made up for."""
    server, watch = ScriptedServer(1000.0), Stopwatch()
    clock = ServerClock(server, watch)
    await clock.refresh()
    server.says = 2000.0
    watch.at += 1
    await clock.refresh()
    assert clock() == 1_001_000
    watch.at += 10
    await clock.refresh()
    assert clock() == 2_000_000


async def test_it_never_goes_back() -> None:
    """A server whose clock is behind: this one runs at half its pace until the two agree."""
    server, watch = ScriptedServer(1000.0), Stopwatch()
    clock = ServerClock(server, watch)
    await clock.synchronise()
    assert clock() == 1_000_000
    server.says = 990.0
    await clock.synchronise()
    shown = []
    for _ in range(30):
        watch.at += 1
        shown.append(clock())
    assert shown[:3] == [1_000_500, 1_001_000, 1_001_500]
    assert shown[19:] == [1_000 * (990 + second) for second in range(20, 31)]


async def test_a_server_that_is_away() -> None:
    """The clock counts on, and looks again when it is next asked to."""
    server, watch = ScriptedServer(1000.0), Stopwatch()
    clock = ServerClock(server, watch)
    await clock.refresh()
    server.says = BrokerUnavailable("connection refused")
    watch.at += 20
    await clock.refresh()
    assert clock() == 1_020_000
    server.says = 3000.0
    await clock.refresh()
    assert clock() == 3_000_000


class Placed(Event):
    pass


async def test_what_takes_it_by_default(redis_client: redis.asyncio.Redis, namespace: str) -> None:
    """Clients and workers date what they write by the server's clock."""
    topology = Topology(namespace, 1, {"orders": ("Placed",)})
    payments = Participant("payments")

    @payments.on(Placed)
    async def charge(placed: Placed) -> None:
        pass

    broker = Broker(Connection(redis_client), Keys(namespace, 1))
    assert Choreography(topology, broker).clock is broker.clock
    assert Worker(payments, topology, broker).clock is broker.clock
    await broker.join()
    assert abs(broker.clock() - time.time() * 1000) < 60_000
