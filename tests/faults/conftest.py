"""What the fault suite can ask for: services in processes of their own, and a stage for the shop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fault_jobs import shop_participants, shop_topology
from fault_services import Nursery
from fault_stage import Stage

from choreo.broker.broker import Broker


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """Starts services; one is shared by all tests of a process."""
    nursery = Nursery()
    yield nursery
    nursery.end()


@asynccontextmanager
async def shop_stage(
    url: str, namespace: str, folder: Path, nursery: Nursery, *, partitions: int = 1
) -> AsyncIterator[Stage]:
    """The shop on the server at ``url``. Its services are ended with the block."""
    topology = shop_topology(namespace, partitions)
    async with Broker.open(url, topology.keys) as broker:
        stage = Stage(topology, broker, url, folder, nursery, shop_participants())
        try:
            yield stage
        finally:
            stage.end()


@pytest.fixture
async def stage(
    anyio_backend: str, server_url: str, namespace: str, tmp_path: Path, nursery: Nursery
) -> AsyncIterator[Stage]:
    """The shop on each real server in turn."""
    async with shop_stage(server_url, namespace, tmp_path / "shop", nursery) as stage:
        yield stage
