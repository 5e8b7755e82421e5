"""The jobs of services, done in processes of their own; see fault_services."""

from __future__ import annotations

import asyncio
import dataclasses
import importlib
import logging
import os
import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from fault_bank import bank_participants, bank_topology, overhear
from fault_diary import Diary, Handler, around, run_at_once, wrap_handlers
from fault_points import Failpoint

from choreo import Participant
from choreo.broker.broker import Broker
from choreo.cli import serving
from choreo.runtime.worker import Worker, WorkerOptions
from choreo.tracker.follower import Tracker
from choreo.wire.streams_yaml import load
from choreo.wire.topology import Topology
from participants import inventory, orders, payments, shipping, store
from tests.shop_load import PARTICIPANTS

ROOT = Path(__file__).resolve().parents[2]
SHOP = load(ROOT / "streams.yaml")


def warm_up() -> None:
    """Load what a service would load when it first needs it."""
    for module in ("anyio._backends._asyncio", "redis.asyncio", "sqlite3"):
        importlib.import_module(module)


def shop_topology(namespace: str, partitions: int = 1) -> Topology:
    """The reference shop, in a namespace of its own."""
    return dataclasses.replace(SHOP, namespace=namespace, partitions=partitions)


def shop_participants(names: Sequence[str] = PARTICIPANTS) -> list[Participant]:
    modules = {module.__name__.rpartition(".")[2]: module for module in (orders, payments, inventory, shipping)}
    return [getattr(modules[name], name) for name in names]


def shop(
    url: str, namespace: str, folder: str, names: Sequence[str] = PARTICIPANTS, partitions: int = 1,
    dawdle: float = 0, failpoint: Sequence[str] = (), at_once: bool = False,
    **options: Any,
) -> None:  # fmt: skip
    """Workers of the shop's participants. Handlers note in ``folder``/diary what they do.

    ``at_once``: whether they are coroutines that never wait, so that many are handled together, rather
    than functions that run in threads.
    """
    os.environ[store.FOLDER_VARIABLE] = folder
    diary = Diary(Path(folder, "diary"))
    participants = shop_participants(names)
    if failpoint:
        handler, point, marker = failpoint
        Failpoint(handler, point, Path(marker)).arm(participants)
    for each in participants:
        wrap_handlers(each, partial(linger, dawdle))
        wrap_handlers(each, diary.wrap)
        if at_once:
            run_at_once(each)
    work(url, shop_topology(namespace, partitions), participants, **options)


def linger(longest: float, function: Handler, name: str) -> Handler:
    """``function``, taking up to ``longest`` seconds before its effect and as many after it."""

    def pause(_: object) -> None:
        time.sleep(random.uniform(0, longest))

    return around(function, pause, pause) if longest else function


def track(url: str, namespace: str, partitions: int = 1) -> None:
    """The shop's tracker."""
    topology = shop_topology(namespace, partitions)
    serve(url, topology, [partial(Tracker, topology)])


def bank(
    url: str, namespace: str, folder: str, partitions: int = 1, role: str = "", outcome: str = "",
    **options: Any,
) -> None:  # fmt: skip
    """Workers of the bank's participants; see fault_bank. Those with a ``role`` are overheard."""
    if role:
        overhear(Diary(Path(folder, "diary")), role)
    participants = bank_participants(Path(folder), role=role, outcome=outcome)
    work(url, bank_topology(namespace, partitions), participants, **options)


def watch_bank(url: str, namespace: str, partitions: int = 1) -> None:
    """The bank's tracker."""
    topology = bank_topology(namespace, partitions)
    serve(url, topology, [partial(Tracker, topology)])


def work(url: str, topology: Topology, participants: Sequence[Participant], **options: Any) -> None:
    """A worker of each participant."""
    how = WorkerOptions(**options)
    serve(url, topology, [partial(_worker, each, topology, how) for each in participants])


def _worker(participant: Participant, topology: Topology, options: WorkerOptions, broker: Broker) -> Worker:
    return Worker(participant, topology, broker, options=options)


def serve(url: str, topology: Topology, makers: Sequence[Callable[[Broker], serving.Job]]) -> None:
    """Do jobs until a signal says to stop."""
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)d %(levelname)s %(message)s")
    asyncio.run(_serve(url, topology, makers))


async def _serve(url: str, topology: Topology, makers: Sequence[Callable[[Broker], serving.Job]]) -> None:
    with anyio.CancelScope() as scope:
        orders = serving.Orders(stop=scope.cancel)
        async with serving.obeying(orders), Broker.open(url, topology.keys) as broker:
            jobs = [make(broker) for make in makers]
            await serving.serve(jobs, orders, ready=lambda: print("all are ready", flush=True))
