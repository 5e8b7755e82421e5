"""`choreo dev`: server, participants and tracker in one process and one terminal."""

from __future__ import annotations

import logging
import shlex
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
from rich.console import Group
from rich.text import Text

from choreo.broker.address import engine_folder, given_url
from choreo.broker.broker import Broker
from choreo.broker.connection import public_url
from choreo.broker.engine import Engine
from choreo.cli import failures, logs, serving
from choreo.cli.output import show
from choreo.cli.payload import event_class, example
from choreo.cli.session import naming_server, run_async
from choreo.cli.settings import Settings
from choreo.drawing.text import clean
from choreo.errors import BrokerUnavailable, ConfigurationError
from choreo.loading import load_all
from choreo.model.participant import Participant
from choreo.runtime.worker import Worker
from choreo.tracker.follower import Tracker
from choreo.wire.streams_yaml import load
from choreo.wire.topology import Topology

#: Seconds between looks at whether the engine still runs.
_LOOK = 0.5


@dataclass(frozen=True, slots=True)
class Development:
    """What `choreo dev` runs."""

    settings: Settings
    topology: Topology
    participants: Sequence[Participant]


def run_all(settings: Settings) -> int:
    """`choreo dev`."""
    logs.configure(settings.verbose, logging.INFO)
    topology = load(settings.path)
    participants = load_all(topology)
    if not participants:
        raise ConfigurationError(f"{topology.source} names no participants; list them under `participants`")
    return run_async(_run_all, Development(settings, topology, participants))


async def _run_all(dev: Development) -> int:
    with anyio.CancelScope() as scope:
        # Until everything runs there is nothing to finish: giving up is clean and takes moments.
        orders = serving.Orders(stop=scope.cancel, at_once=lambda number: None)
        async with serving.obeying(orders):
            url = given_url(dev.topology, dev.settings.redis)
            if url is not None:
                orders.at_once = serving.end_at_once
                await _serve(dev, orders, url)
            else:
                async with _engine(engine_folder(dev.topology), orders) as engine:
                    await _serve(dev, orders, engine.url, f" ({engine.server}, embedded)")
    return failures.INTERRUPTED if scope.cancelled_caught else failures.FINE


@asynccontextmanager
async def _engine(folder: Path, orders: serving.Orders) -> AsyncIterator[Engine]:
    """The embedded engine, watched for as long as it should run."""
    async with Engine(folder) as engine, anyio.create_task_group() as watching:

        def end_at_once(number: int) -> None:
            engine.process.stop()
            serving.end_at_once(number)

        orders.at_once = end_at_once
        watching.start_soon(_watch, engine)
        yield engine
        watching.cancel_scope.cancel()


async def _watch(engine: Engine) -> None:
    while engine.process.alive:  # noqa: ASYNC110 - a process has no event to wait for
        await anyio.sleep(_LOOK)
    raise BrokerUnavailable(f"the embedded server has ended by itself; {engine.process.log} may say why")


async def _serve(dev: Development, orders: serving.Orders, url: str, kind: str = "") -> None:
    server = public_url(url) + kind
    with naming_server(url):
        async with AsyncExitStack() as open_brokers:
            brokers = [
                await open_brokers.enter_async_context(Broker.open(url, dev.topology.keys))
                for _ in range(len(dev.participants) + 1)
            ]
            await brokers[0].join()
            jobs: list[serving.Job] = [Tracker(dev.topology, brokers[0])]
            for participant, broker in zip(dev.participants, brokers[1:], strict=True):
                jobs.append(Worker(participant, dev.topology, broker))
            await serving.serve(jobs, orders, ready=lambda: show(format_banner(dev, server), fold=False))


def format_banner(dev: Development, server: str) -> Group:
    """What runs, where, and what to try next."""
    names = ", ".join(participant.name for participant in dev.participants)
    facts = {
        "server": server,
        "namespace": dev.topology.namespace,
        "participants": names,
        "tracker": "in this process, too",
    }
    width = max(map(len, facts)) + 2
    return Group(
        Text.assemble(("choreo is running", "bold green"), (" (Ctrl-C stops it)", "bright_black")),
        Text(),
        *(Text.assemble((f"  {name:{width}}", "bright_black"), clean(fact)) for name, fact in facts.items()),
        Text(),
        Text("To try next, in another terminal:"),
        *(Text.assemble("  ", (line, "cyan")) for line in _suggestions(dev)),
    )


def _suggestions(dev: Development) -> Iterator[str]:
    flags = "".join(
        f" {flag} {shlex.quote(clean(value))}"
        for flag, value in (("-c", dev.settings.config), ("--redis", dev.settings.redis))
        if value
    )
    for event_type in sorted(dev.topology.starts)[:1]:
        event = event_class(dev.participants, event_type)
        data = f" --data {shlex.quote(example(event))}" if event else ""
        yield f"choreo start{flags} {event_type}{data} --wait"
    yield f"choreo sagas{flags}"
    yield f"choreo trace{flags} ID"
