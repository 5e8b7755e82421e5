"""What the tests of retries can ask for: a stage on every store, and one on every real server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import fakeredis
import pytest
import redis.asyncio
from retry_kit import Stage, topology_of
from retry_seat import Seat

from choreo.broker.broker import Broker
from choreo.broker.connection import Connection


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


@pytest.fixture
async def fake_stage(anyio_backend: str, namespace: str) -> AsyncIterator[Stage]:
    """A stage on fakeredis alone, for what does not depend on the store."""
    connection = Connection(fakeredis.FakeAsyncRedis(protocol=2))
    topology = topology_of(namespace)
    yield Stage(topology, Broker(connection, topology.keys))
    await connection.close()


@pytest.fixture
async def real_stage(anyio_backend: str, server_url: str, namespace: str) -> AsyncIterator[Stage]:
    """A stage on each real server in turn."""
    topology = topology_of(namespace)
    async with Broker.open(server_url, topology.keys) as broker:
        yield Stage(topology, broker)


@pytest.fixture
async def seat(stage: Stage) -> Seat:
    """A consumer of ``payments`` whose decisions are made by hand, on every store."""
    return await Seat.at(stage)


@pytest.fixture
async def real_seat(real_stage: Stage) -> Seat:
    """As ``seat``, on each real server in turn."""
    return await Seat.at(real_stage)
