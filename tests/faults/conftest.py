"""What the fault suite can ask for: services in processes of their own, and a stage for the shop."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias

import pytest
from fault_bank import bank_participants, bank_topology
from fault_jobs import shop_participants, shop_topology
from fault_proxy import Proxy
from fault_services import Nursery
from fault_stage import Stage, open_stage

from choreo.broker.engine import EngineProcess
from tests.conftest import StartServer

#: A choreography, and the server that it alone uses.
OwnBank: TypeAlias = tuple[Stage, EngineProcess]
OwnShop: TypeAlias = tuple[Stage, EngineProcess]


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
) -> AsyncIterator[OwnBank]:
    """The bank on a server of this test's own, each kind in turn, and that server."""
    server, url = server_on_a_port(server_process)
    async with bank_stage(url, "bank", tmp_path / "bank", nursery) as stage:
        yield stage, server


@pytest.fixture
async def own_shop(
    anyio_backend: str, server_process: StartServer, tmp_path: Path, nursery: Nursery
) -> AsyncIterator[OwnShop]:
    """The shop on a server of this test's own, each kind in turn, and that server."""
    server, url = server_on_a_port(server_process)
    async with shop_stage(url, "shop", tmp_path / "shop", nursery) as stage:
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


def server_on_a_port(server_process: StartServer) -> tuple[EngineProcess, str]:
    """A server, and a url of it that stays the same when it is started again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return server_process({"port": str(port), "bind": "127.0.0.1"}), f"redis://127.0.0.1:{port}"
