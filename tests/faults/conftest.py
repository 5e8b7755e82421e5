"""What the fault suite can ask for: services in processes of their own, and a stage for the shop."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from fault_bank import bank_participants, bank_topology
from fault_jobs import shop_participants, shop_topology
from fault_proxy import Proxy
from fault_services import Nursery
from fault_stage import Stage, open_stage

from choreo.broker.engine import EngineProcess
from tests.conftest import StartServer


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
    async with open_stage(url, topology, folder, nursery, shop_participants()) as stage:
        yield stage


@asynccontextmanager
async def bank_stage(url: str, namespace: str, folder: Path, nursery: Nursery) -> AsyncIterator[Stage]:
    """As :func:`shop_stage`, for the bank; see fault_bank."""
    topology = bank_topology(namespace)
    async with open_stage(url, topology, folder, nursery, bank_participants(folder)) as stage:
        yield stage


@pytest.fixture
async def stage(
    anyio_backend: str, server_url: str, namespace: str, tmp_path: Path, nursery: Nursery
) -> AsyncIterator[Stage]:
    """The shop on each real server in turn."""
    async with shop_stage(server_url, namespace, tmp_path / "shop", nursery) as stage:
        yield stage


@pytest.fixture
async def bank(
    anyio_backend: str, server_url: str, namespace: str, tmp_path: Path, nursery: Nursery
) -> AsyncIterator[Stage]:
    """The bank on each real server in turn."""
    async with bank_stage(server_url, namespace, tmp_path / "bank", nursery) as stage:
        yield stage


@pytest.fixture
async def own_bank(
    anyio_backend: str, server_process: StartServer, tmp_path: Path, nursery: Nursery
) -> AsyncIterator[tuple[Stage, EngineProcess]]:
    """The bank on a server of this test's own, each kind in turn, and that server."""
    # On a port: where it listens must not change when it is started again.
    port = free_port()
    server = server_process({"port": str(port), "bind": "127.0.0.1"})
    async with bank_stage(f"redis://127.0.0.1:{port}", "bank", tmp_path / "bank", nursery) as stage:
        yield stage, server


@pytest.fixture
async def proxy(anyio_backend: str, server_url: str) -> AsyncIterator[Proxy]:
    """A proxy before each real server in turn."""
    async with Proxy.before(server_url) as proxy:
        yield proxy


@pytest.fixture
async def proxied_bank(bank: Stage, proxy: Proxy) -> Stage:
    """The bank, whose services reach the server through ``proxy``; the test itself needs no proxy."""
    bank.url = proxy.url
    return bank


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
