"""The server is away, or serves no writes: workers wait, say so, use up no attempt, and go on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

import anyio
import pytest
import redis
from retry_kit import Placed, Shipped, Stage, topology_of, until

from choreo import Context, Participant
from choreo.broker.broker import Broker
from choreo.broker.engine import EngineProcess
from choreo.tracker.follower import Tracker

pytestmark = pytest.mark.anyio

#: Seconds: what takes longer than this is not a wait, but a hang.
LONG = 60.0


@dataclass
class Fault:
    """Something that keeps a server from serving."""

    begin: Callable[[EngineProcess], object]
    end: Callable[[EngineProcess], object]


def admin(*command: str) -> Callable[[EngineProcess], object]:
    def call(server: EngineProcess) -> None:
        with redis.Redis.from_url(server.url) as client:
            client.execute_command(*command)

    return call


def kill(server: EngineProcess) -> None:
    assert server.pid
    os.kill(server.pid, signal.SIGKILL)


def restart(server: EngineProcess) -> None:
    server.stop()
    server.start()


def send(number: int) -> Callable[[EngineProcess], None]:
    return lambda server: os.kill(server.pid or 0, number)


FAULTS = {
    "killed": Fault(kill, restart),
    "black hole": Fault(send(signal.SIGSTOP), send(signal.SIGCONT)),
    "read only": Fault(admin("REPLICAOF", "127.0.0.1", "1"), admin("REPLICAOF", "NO", "ONE")),
    "no replicas": Fault(
        admin("CONFIG", "SET", "min-replicas-to-write", "1"), admin("CONFIG", "SET", "min-replicas-to-write", "0")
    ),
}


@dataclass
class Service:
    """Payments, and how often its handler ran."""

    runs: list[tuple[str, int]]

    def payments(self) -> Participant:
        payments = Participant("payments")

        @payments.on(Placed)
        async def charge(placed: Placed, ctx: Context) -> Shipped:
            self.runs.append((ctx.saga_id, ctx.attempt))
            return Shipped()

        return payments


def said(caplog: pytest.LogCaptureFixture, who: str, what: str) -> int:
    return sum(message.startswith(f"{who} {what}") for message in caplog.messages)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
async def test_a_server_that_cannot_serve(
    server_process: Callable[..., EngineProcess], namespace: str, caplog: pytest.LogCaptureFixture, fault: Fault
) -> None:
    """Worker and tracker wait, each says so once, and afterwards the next saga completes at once."""
    server, service = server_process(), Service([])
    topology = topology_of(namespace, 4)
    async with Broker.open(server.url, topology.keys) as broker:
        stage = Stage(topology, broker)
        async with stage.playing(service.payments()) as choreo:
            await choreo.start(Placed(), saga_id="before")
            await choreo.wait("before", timeout=LONG)
            fault.begin(server)
            await until(lambda: said(caplog, "payments", "has to wait"), "the worker to notice")
            fault.end(server)
            await choreo.start(Placed(), saga_id="after")
            view = await choreo.wait("after", timeout=LONG)
            await until(lambda: said(caplog, "payments", "goes on"), "the worker to say so")
    assert (view.status, view.retries) == ("completed", 0)
    assert service.runs == [("before", 1), ("after", 1)]
    assert said(caplog, "payments", "has to wait") <= 2
    assert said(caplog, "payments", "goes on") == 1
    assert len([record for record in caplog.records if record.name == "choreo.runtime"]) < 15


async def test_a_server_that_is_not_there_yet(
    server_process: Callable[..., EngineProcess], namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker and a tracker that start before their server wait for it."""
    server, service = server_process(), Service([])
    url, topology = server.url, topology_of(namespace)
    server.stop()
    async with Broker.open(url, topology.keys) as broker, anyio.create_task_group() as tasks:
        stage = Stage(topology, broker)
        tasks.start_soon(stage.worker(service.payments()).run)
        tasks.start_soon(Tracker(topology, broker).run)
        await until(lambda: said(caplog, "payments", "has to wait"), "the worker to notice")
        await until(lambda: said(caplog, "tracker", "has to wait"), "the tracker to notice")
        server.start()
        async with stage.playing() as choreo:
            await choreo.start(Placed(), saga_id="s1")
            assert (await choreo.wait("s1", timeout=LONG)).status == "completed"
        tasks.cancel_scope.cancel()


async def test_one_that_is_stopped_while_it_waits(
    server_process: Callable[..., EngineProcess], namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that has never reached its server, and one that has lost it, end when they are told to."""
    server, service = server_process(), Service([])
    url, topology = server.url, topology_of(namespace)
    async with Broker.open(url, topology.keys) as broker:
        stage = Stage(topology, broker)
        services = [stage.worker(service.payments()), Tracker(topology, broker)]
        late = [stage.worker(service.payments()), Tracker(topology, broker)]
        with anyio.fail_after(LONG):
            async with anyio.create_task_group() as tasks:
                for each in services:
                    await tasks.start(each.run)
                server.stop()
                for each in late:
                    tasks.start_soon(each.run)
                await until(lambda: said(caplog, "tracker", "has to wait") == 2, "all of them to notice")
                for each in [*services, *late]:
                    each.stop()
