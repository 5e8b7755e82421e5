"""The reference shop as real processes: nothing is lost or doubled, whoever stops or dies meanwhile."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import anyio
import pytest

from choreo import Choreography
from choreo.errors import SagaClosed
from choreo.model.facts import View
from choreo.wire.streams_yaml import load
from participants import inventory, payments
from tests.conftest import IN_MEMORY, StartServer
from tests.processes.process_kit import ROOT, Commands, commands, until
from tests.shop_load import PARTICIPANTS, order, unbalanced

pytestmark = [pytest.mark.anyio, pytest.mark.processes]

ORDERS = int(os.environ.get("CHOREO_TEST_ORDERS", "2000"))


async def end_states(choreo: Choreography, ids: list[str]) -> dict[str, View]:
    """Wait until every saga has ended; returns their views."""
    views: dict[str, View] = {}
    with anyio.fail_after(300):
        for saga_id in ids:
            views[saga_id] = await choreo.wait(saga_id)
    return views


def check_books(folder: Path, ended: dict[str, View]) -> None:
    """Money and stock are conserved; shipped orders are paid and booked once, others not at all."""
    shipped = [int(each.rpartition("-")[2]) for each, view in ended.items() if view.status == "completed"]
    until(lambda: not unbalanced(folder, shipped), "the books to balance")


async def views_as_stored(choreo: Choreography, ids: list[str]) -> dict[str, bytes | None]:
    return dict(zip(ids, await choreo.broker.projections.views(ids), strict=True))


async def settled_views(choreo: Choreography, ids: list[str]) -> dict[str, bytes | None]:
    """The views as stored, once they have not changed for a while: steps after the end are in as well."""
    stored = await views_as_stored(choreo, ids)
    with anyio.fail_after(60):
        while True:
            await anyio.sleep(1)
            again = await views_as_stored(choreo, ids)
            if again == stored:
                return stored
            stored = again


@pytest.mark.load
async def test_2000_orders_end_and_the_books_balance(server_process: StartServer, tmp_path: Path) -> None:
    """Two workers of each participant and a tracker that is stopped, killed and rebuilt: all orders end
    completed or compensated, money and stock add up, and the views come out the same byte for byte."""
    url, data = server_process().url, tmp_path / "shop"
    environment = {"CHOREO_REDIS_URL": url, "CHOREO_SHOP_DATA": str(data)}
    ids = [f"order-{number}" for number in range(ORDERS)]
    with commands(tmp_path, environment) as run:
        workers = [run.start("run", "participant", name, "--workers", "2") for name in PARTICIPANTS]
        tracker = run.start("run", "tracker")
        for each in workers:
            each.wait_until_it_says("is ready", times=2)
        tracker.wait_until_it_says("is ready")
        async with Choreography.open(ROOT / "streams.yaml", redis=url) as choreo:
            await start_orders(choreo, 0, ORDERS // 3)
            assert tracker.stop() == 0
            await start_orders(choreo, ORDERS // 3, 2 * ORDERS // 3)
            tracker = run.start("run", "tracker")
            tracker.wait_until_it_says("is ready")
            tracker.kill()
            run.start("run", "tracker").wait_until_it_says("is ready")
            await start_orders(choreo, 2 * ORDERS // 3, ORDERS)
            ended = await end_states(choreo, ids)
            statuses = Counter(view.status.value for view in ended.values())
            assert statuses == {"completed": ORDERS - len(range(0, ORDERS, 3)), "compensated": len(range(0, ORDERS, 3))}
            check_books(data, ended)
            before = await settled_views(choreo, ids)
            code, said = run.run("tracker", "rebuild")
            assert code == 0, said
            assert await settled_views(choreo, ids) == before
        for each in workers:
            assert each.stop() == 0, each.said


async def start_orders(choreo: Choreography, first: int, behind: int) -> None:
    limit = anyio.CapacityLimiter(20)

    async def start(number: int) -> None:
        async with limit:
            await choreo.start(order(number), saga_id=f"order-{number}")

    async with anyio.create_task_group() as tasks:
        for number in range(first, behind):
            tasks.start_soon(start, number)


async def test_killed_workers_lose_and_double_nothing(server_process: StartServer, tmp_path: Path) -> None:
    """SIGKILL of every participant's workers, again and again while orders run: the books still balance."""
    url, data = server_process().url, tmp_path / "shop"
    environment = {"CHOREO_REDIS_URL": url, "CHOREO_SHOP_DATA": str(data)}
    ids = [f"order-{number}" for number in range(60)]
    with commands(tmp_path, environment) as run:
        run.start("run", "tracker")
        async with Choreography.open(ROOT / "streams.yaml", redis=url) as choreo:
            await kill_while_they_work(run, choreo, len(ids))
            for name in PARTICIPANTS:
                run.start("run", "participant", name, "--lease", "2s")
            ended = await end_states(choreo, ids)
        assert {view.status.value for view in ended.values()} == {"completed", "compensated"}
        check_books(data, ended)


async def kill_while_they_work(run: Commands, choreo: Choreography, total: int) -> None:
    """Start orders in three portions, and kill a set of workers in the middle of each."""
    for round_ in range(3):
        workers = [run.start("run", "participant", name, "--lease", "2s") for name in PARTICIPANTS]
        for each in workers:
            each.wait_until_it_says("is ready")
        await start_orders(choreo, round_ * total // 3, (round_ + 1) * total // 3)
        for each in workers:
            assert each.running
            each.kill()


async def test_compensate_by_an_operator(server_process: StartServer, tmp_path: Path) -> None:
    """An order that nobody can finish is unwound on an operator's word; a second word is told so."""
    url, data = server_process(IN_MEMORY).url, tmp_path / "shop"
    environment = {"CHOREO_REDIS_URL": url, "CHOREO_SHOP_DATA": str(data)}
    with commands(tmp_path, environment) as run:
        run.start("run", "tracker")
        for name in ("payments", "inventory"):
            run.start("run", "participant", name).wait_until_it_says("is ready")
        async with Choreography.open(load(ROOT / "streams.yaml"), redis=url) as choreo:
            await choreo.start(order(1), saga_id="order-1")
            until(lambda: payments.totals(data).captured and inventory.totals(data).reserved, "the order's effects")
            assert run.run("compensate", "order-1", "--yes", "--note", "customer called")[0] == 0
            view = await choreo.wait("order-1", timeout=30)
            assert view.status == "compensated"
            assert "customer called" in run.run("trace", "order-1")[1]
            with pytest.raises(SagaClosed):
                await choreo.compensate("order-1")
        assert not payments.totals(data).captured
        assert not inventory.totals(data).reserved
