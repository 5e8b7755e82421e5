"""What the tests of operators' orders can ask for: a stage on every store, and one on real servers."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import redis.asyncio

from choreo.broker.broker import Broker
from choreo.broker.connection import Connection
from tests.operators.operator_kit import Stage, topology_of


@pytest.fixture
async def stage(
    anyio_backend: str, redis_client: redis.asyncio.Redis, store_url: str, namespace: str
) -> AsyncIterator[Stage]:
    """A stage on fakeredis and on each real server in turn, with connections as processes have them."""
    fake = store_url.startswith("fake")
    connection = Connection(redis_client) if fake else Connection.open(store_url)
    topology = topology_of(namespace)
    yield Stage(topology, Broker(connection, topology.keys))
    await connection.close()
