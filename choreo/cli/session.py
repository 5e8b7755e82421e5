"""What commands need to reach a choreography: its file, its server, an event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.util import find_spec
from typing import TypeVar, TypeVarTuple

import anyio

from choreo.broker.address import server_url
from choreo.broker.connection import CannotServe, public_url
from choreo.choreography import Choreography
from choreo.cli import logs
from choreo.cli.settings import Settings
from choreo.errors import BrokerUnavailable
from choreo.wire.streams_yaml import load
from choreo.wire.topology import Topology

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def run_async(function: Callable[[*Ts], Awaitable[T]], *arguments: *Ts) -> T:
    """Run a coroutine function in an event loop of its own; in uvloop's if that is installed."""
    options = {"use_uvloop": find_spec("uvloop") is not None}
    return anyio.run(function, *arguments, backend="asyncio", backend_options=options)


@asynccontextmanager
async def open_choreography(
    settings: Settings, topology: Topology | None = None
) -> AsyncIterator[Choreography]:
    """The choreography that the settings name, for a command that ends soon: it logs warnings only.

    ``topology`` is what streams.yaml says, if it was loaded already.

    Raises:
        ConfigurationError: if streams.yaml or the server's URL is wrong.
        BrokerUnavailable: at any time in the block; the message names the server.
    """
    logs.configure(settings.verbose)
    topology = topology or load(settings.path)
    url = server_url(topology, settings.redis)
    with naming_server(url):
        async with Choreography.open(topology, redis=url) as choreo:
            yield choreo


@contextmanager
def naming_server(url: str) -> Iterator[None]:
    """Let the message of a :class:`BrokerUnavailable` of the block name the server, without its password."""
    name = public_url(url)
    try:
        yield
    except* BrokerUnavailable as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        hint = "The server is there, and cannot serve now; `choreo doctor` may say why"
        if not isinstance(error, CannotServe):
            hint = (
                "Is a server running there? `choreo dev` starts one;"
                " --redis or CHOREO_REDIS_URL says where another is"
            )
        raise BrokerUnavailable(f"{name}: {error}\n{hint}") from error
