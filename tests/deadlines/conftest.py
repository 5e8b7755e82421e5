"""What the tests of deadlines can ask for: brokers on every store, and a cast."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest
import redis.asyncio
from deadline_kit import Cast, OpenBroker

from choreo.broker.broker import Broker
from choreo.broker.connection import Connection
from choreo.wire.topology import Topology

Connect = Callable[[], redis.asyncio.Redis]


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
def cast() -> Cast:
    return Cast()
