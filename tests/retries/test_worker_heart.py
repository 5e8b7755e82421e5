"""Heartbeats do not depend on the event loop; but a loop that never comes back is given up."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import anyio
import pytest
from retry_kit import PATIENCE, Placed, Shipped, Stage, elsewhere, until

from choreo import Context, Participant
from choreo.broker.broker import Broker
from choreo.broker.gate import Identity
from choreo.broker.groups import Delivery
from choreo.runtime.claims import Claims
from choreo.runtime.slots import Slots
from choreo.runtime.upkeep import Upkeep

pytestmark = pytest.mark.anyio

LEASE = 2.0


async def test_a_handler_that_blocks_the_event_loop(
    real_stage: Stage, server_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """For more than two leases nothing else runs in its process, and another worker looks for what was lost: it
    runs once, as does what waits beside it. The log says once what it was."""
    runs: list[str] = []
    lost: list[str] = []
    sweeps: list[int] = []
    stop = threading.Event()
    blocking = Participant("payments")

    @blocking.on(Placed)
    async def charge(placed: Placed, ctx: Context) -> Shipped:
        runs.append(ctx.saga_id)
        if placed.amount > 1:
            time.sleep(2.5 * LEASE)  # noqa: ASYNC251 - what must not be done
        else:
            await anyio.sleep(LEASE / 10)
        return Shipped()

    async def sweep() -> None:
        """Do nothing but to look for what others have lost."""
        async with Broker.open(server_url, real_stage.topology.keys) as broker:
            identity, slots = Identity("payments", "colleague"), Slots(10)
            streams = {real_stage.topology.keys.stream(0, "orders"): 0}
            claims = Claims(broker.leases, identity, slots, broker.clock)
            upkeep = Upkeep(claims, streams, LEASE, doubt=anyio.Event, paused=bool)
            while not stop.is_set():
                await upkeep.sweep(note)
                sweeps.append(1)
                await anyio.sleep(LEASE / 10)

    async def note(found: Sequence[Delivery]) -> None:
        lost.extend(each.entry for each in found)

    async with real_stage.playing(blocking, lease=LEASE) as choreo:
        with elsewhere(sweep):
            for number in range(3):
                await choreo.start(Placed(), saga_id=f"beside{number}")
            await choreo.start(Placed(2), saga_id="slow")
            await choreo.wait("slow", timeout=PATIENCE)
            for number in range(3):
                await choreo.wait(f"beside{number}", timeout=PATIENCE)
            stop.set()
    assert sorted(runs) == ["beside0", "beside1", "beside2", "slow"]
    assert lost == []
    assert len(sweeps) > 10
    said = [message for message in caplog.messages if "blocked the event loop" in message]
    assert len(said) == 1
    assert f"charge ({__file__}:" in said[0]


async def test_a_loop_that_never_comes_back(real_stage: Stage, server_url: str) -> None:
    """Its worker looks alive, but nothing will ever be done there: another one takes over."""
    runs: list[str] = []
    given_up = threading.Event()
    stuck, heir = Participant("payments"), Participant("payments")

    @stuck.on(Placed)
    async def charge(placed: Placed) -> Shipped:
        runs.append("stuck")
        given_up.wait(PATIENCE)
        return Shipped()

    @heir.on(Placed)
    async def inherit(placed: Placed) -> Shipped:
        runs.append("heir")
        given_up.set()
        return Shipped()

    async def take_over() -> None:
        await until(lambda: runs, "the first worker to be stuck")
        async with Broker.open(server_url, real_stage.topology.keys) as broker:
            await Stage(real_stage.topology, broker).worker(heir, lease=0.3).run()

    async with real_stage.playing(stuck, lease=0.3) as choreo:
        with elsewhere(take_over):
            await choreo.start(Placed(), saga_id="s1")
            view = await choreo.wait("s1", timeout=PATIENCE)
    assert given_up.is_set()
    assert runs == ["stuck", "heir"]
    assert (view.status, view.done) == ("completed", {"payments/inherit": 1})


async def test_no_beat_after_the_goodbye(real_stage: Stage) -> None:
    """What a stopping worker hands over stays handed over: its last heartbeat is over by then."""
    payments = Participant("payments")
    started = anyio.Event()

    @payments.on(Placed)
    async def charge(placed: Placed) -> Shipped:
        started.set()
        await anyio.sleep_forever()
        return Shipped()

    worker = real_stage.worker(payments, lease=0.03, grace=0.1)
    async with real_stage.playing() as choreo, anyio.create_task_group() as tasks:
        await tasks.start(worker.run)
        await choreo.start(Placed(), saga_id="s1")
        await started.wait()
        worker.stop()
    assert not [thread for thread in threading.enumerate() if thread.name == "choreo heartbeats"]
    overdue = await real_stage.broker.leases.overdue(
        worker.identity, {real_stage.topology.keys.stream(0, "orders"): "-"}, 100_000_000, 10
    )
    assert len(overdue) == 1
