"""A service that some orders kill, and what keeps starting it again. Run by test_retry_poison.

Usage: suicidal_worker.py URL NAMESPACE FOLDER

Each order that is handled leaves a line in FOLDER/runs. The amount of an order says what happens.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from retry_kit import DEADLY, Placed, Shipped, topology_of

from choreo import Context, Participant
from choreo.broker.broker import Broker
from choreo.runtime.worker import Worker, WorkerOptions

LEASE = 0.3


def service(folder: Path) -> Participant:
    payments = Participant("payments")

    def note(line: str) -> None:
        with (folder / "runs").open("a") as runs:
            runs.write(f"{line}\n")

    @payments.on(Placed)
    async def charge(placed: Placed, ctx: Context) -> Shipped:
        note(f"charge {ctx.saga_id} {ctx.attempt}")
        if placed.amount == DEADLY:
            await asyncio.sleep(0.1)
            os.kill(os.getpid(), signal.SIGKILL)
        return Shipped()

    @charge.undo
    async def refund(placed: Placed, shipped: Shipped | None, ctx: Context) -> None:
        note(f"refund {ctx.saga_id} {shipped}")

    return payments


async def work(url: str, namespace: str, folder: Path) -> None:
    topology = topology_of(namespace)
    async with Broker.open(url, topology.keys) as broker:
        await Worker(service(folder), topology, broker, options=WorkerOptions(lease=LEASE)).run()


def main() -> None:
    """Start a worker, and another one whenever it has died."""
    url, namespace, folder = sys.argv[1:]
    while True:
        child = os.fork()
        if not child:
            asyncio.run(work(url, namespace, Path(folder)))
            os._exit(0)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
