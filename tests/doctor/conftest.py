"""What the doctor's tests can ask for: brokers on every store, and on every real server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import redis.asyncio
from doctor_kit import topology_of

from choreo.broker.broker import Broker
from choreo.broker.connection import Connection
from choreo.wire.topology import Topology


@pytest.fixture
def topology(namespace: str) -> Topology:
    return topology_of(namespace)


@pytest.fixture
def broker(redis_client: redis.asyncio.Redis, topology: Topology) -> Broker:
    """A broker on every store in turn."""
    return Broker(Connection(redis_client), topology.keys)


@pytest.fixture
async def real_broker(anyio_backend: str, server_url: str, topology: Topology) -> AsyncIterator[Broker]:
    """A broker on each real server in turn."""
    async with Broker.open(server_url, topology.keys) as broker:
        yield broker
