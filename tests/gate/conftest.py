"""What the gate's tests can ask for: a desk on every store, and one on every real server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import redis.asyncio
from gate_kit import Desk, connected

from choreo.broker.connection import Connection


@pytest.fixture
def desk(redis_client: redis.asyncio.Redis, namespace: str) -> Desk:
    """A desk on fakeredis and on each real server in turn."""
    return Desk.on(Connection(redis_client), namespace)


@pytest.fixture
async def real_desk(anyio_backend: str, server_url: str, namespace: str) -> AsyncIterator[Desk]:
    """A desk on each real server in turn, with connections as processes have them."""
    async with connected(server_url) as connection:
        yield Desk.on(connection, namespace)
