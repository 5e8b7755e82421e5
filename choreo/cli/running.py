"""`choreo run`: one participant or tracker, in this process or in several."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import anyio
import click

from choreo.broker.address import URL_VARIABLE, server_url
from choreo.broker.broker import Broker
from choreo.broker.connection import WrongAddress
from choreo.cli import failures, logs, serving, supervisor
from choreo.cli.session import naming_server, run_async
from choreo.cli.settings import CONFIG_VARIABLE, Settings
from choreo.errors import BrokerUnavailable, ConfigurationError, Fault
from choreo.loading import import_root, load_participant
from choreo.model.participant import Participant
from choreo.runtime.worker import Worker, WorkerOptions
from choreo.tracker.follower import Tracker
from choreo.wire.nodes import suggest
from choreo.wire.streams_yaml import load
from choreo.wire.topology import Topology

logger = logging.getLogger("choreo.cli")


@dataclass(frozen=True, slots=True)
class Crew:
    """Which participant to run, and by how many."""

    name: str
    """Its name in streams.yaml, or ``module:attribute``."""
    workers: int = 1
    """Processes."""
    options: WorkerOptions = field(default_factory=WorkerOptions)
    """How each of them works."""
    lifeline: int | None = None
    """In a process that has a supervisor: the pipe by which it learns that the supervisor was killed."""


def run_participant(settings: Settings, crew: Crew) -> int:
    """`choreo run participant`."""
    logs.configure(settings.verbose, logging.INFO)
    topology = load(settings.path)
    participant = _load(topology, crew.name)
    url = server_url(topology, settings.redis)
    if crew.workers == 1:
        return run_async(_work, topology, url, participant, crew)
    # What would keep every worker from starting is better said once, and before they start.
    run_async(_rehearse, topology, url, participant)
    command, environment = _worker_command(settings, crew), _environment(settings, url)
    return run_async(supervisor.supervise, command, environment, crew.workers)


def _load(topology: Topology, name: str) -> Participant:
    spec = find_spec(topology, name)
    participant = load_participant(spec, import_root(topology))
    if name not in (spec, participant.name):
        where = f"{topology.source}:{topology.lines.get(f'participant:{name}', 1)}"
        what = f"{spec} calls itself {participant.name!r}, but stands here as {name!r}; give both one name"
        raise ConfigurationError([Fault(where, what)])
    return participant


def find_spec(topology: Topology, name: str) -> str:
    """``module:attribute`` of a participant, given as such or by its name in streams.yaml."""
    if ":" in name:
        return name
    if name not in topology.participants:
        known = list(topology.participants)
        right = suggest(name, known) or f"; there are {', '.join(known)}" if known else ""
        raise click.UsageError(
            f"{topology.source} has no participant {name!r}{right}. What is not there is module:attribute"
        )
    return topology.participants[name]


async def _work(topology: Topology, url: str, participant: Participant, crew: Crew) -> int:
    def make_worker(broker: Broker) -> Worker:
        return Worker(participant, topology, broker, options=crew.options)

    return await _serve_one(topology, url, make_worker, crew.lifeline)


async def _serve_one(
    topology: Topology, url: str, make_job: Callable[[Broker], serving.Job], lifeline: int | None = None
) -> int:
    with anyio.CancelScope() as scope, naming_server(url):
        orders = serving.Orders(stop=scope.cancel)
        async with serving.obeying(orders), Broker.open(url, topology.keys) as broker:
            await _join_if_there(broker)
            await serving.serve([make_job(broker)], orders, ready=_nothing, lifeline=lifeline)
    return failures.FINE


async def _rehearse(topology: Topology, url: str, participant: Participant) -> None:
    with naming_server(url):
        async with Broker.open(url, topology.keys) as broker:
            Worker(participant, topology, broker)
            await _join_if_there(broker)


async def _join_if_there(broker: Broker) -> None:
    """Find out what would keep a process from ever starting. A server that is away is none of it: workers
    and trackers wait for it, and say so."""
    try:
        await broker.join_to_commit()
    except WrongAddress:
        raise
    except BrokerUnavailable as error:
        logger.debug("the server is away: %s", error)


def _worker_command(settings: Settings, crew: Crew) -> list[str]:
    return [
        sys.executable, "-m", "choreo.cli", "run", "participant", crew.name,
        "--concurrency", str(crew.options.concurrency), "--lease", f"{crew.options.lease:.3f}s",
        "--grace", f"{crew.options.grace:.3f}s", *["-v"] * settings.verbose,
    ]  # fmt: skip


def _environment(settings: Settings, url: str) -> dict[str, str]:
    """The workers' environment. It names the server, not their command line: a URL may hold a password."""
    return {**os.environ, URL_VARIABLE: url, CONFIG_VARIABLE: str(settings.path)}


def run_tracker(settings: Settings) -> int:
    """`choreo run tracker`."""
    logs.configure(settings.verbose, logging.INFO)
    topology = load(settings.path)
    return run_async(_serve_one, topology, server_url(topology, settings.redis), partial(Tracker, topology))


def _nothing() -> None:
    pass
