"""What the tracker's tests can ask for: brokers on every store, and on every real server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest
import redis.asyncio
from tracker_kit import OpenBroker, topology_of

from choreo.broker.broker import Broker
from choreo.broker.connection import Connection
from choreo.wire.topology import Topology

Connect = Callable[[], redis.asyncio.Redis]


@pytest.fixture
def topology(namespace: str) -> Topology:
    return topology_of(namespace)


@pytest.fixture
async def open_broker(anyio_backend: str, connect: Connect, store_url: str) -> AsyncIterator[OpenBroker]:
    """Opens brokers on the same store, each with connections of its own: fakeredis and each real server."""
    async with AsyncExitStack() as opened:

        def open_one(topology: Topology) -> Broker:
            fake = store_url.startswith("fake")
            connection = Connection(connect()) if fake else Connection.open(store_url)
            opened.push_async_callback(connection.close)
            return Broker(connection, topology.keys)

        yield open_one


@pytest.fixture
def broker(open_broker: OpenBroker, topology: Topology) -> Broker:
    return open_broker(topology)


@pytest.fixture
async def real_broker(anyio_backend: str, server_url: str, topology: Topology) -> AsyncIterator[Broker]:
    """A broker on each real server in turn."""
    async with Broker.open(server_url, topology.keys) as broker:
        yield broker
