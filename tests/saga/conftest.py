"""What the saga tests can ask for: a connection to every store, and one to every real server."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import redis.asyncio
from saga_cast import Cast

from choreo.broker.connection import Connection


@pytest.fixture
async def connection(store_url: str, redis_client: redis.asyncio.Redis) -> AsyncIterator[Connection]:
    """A connection to fakeredis and to each real server in turn, as processes have it."""
    if store_url.startswith("fake"):
        yield Connection(redis_client)
        return
    opened = Connection.open(store_url)
    yield opened
    await opened.close()


@pytest.fixture
async def real_connection(anyio_backend: str, server_url: str) -> AsyncIterator[Connection]:
    """A connection to each real server in turn."""
    opened = Connection.open(server_url)
    yield opened
    await opened.close()


@pytest.fixture
def cast() -> Cast:
    return Cast()
