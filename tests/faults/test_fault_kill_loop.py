"""SIGKILL of workers and trackers, again and again while orders run: nothing is lost, doubled or wrong.

``CHOREO_TEST_KILLS`` says how often (1,000 by default), over all servers together.
"""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
from conftest import shop_stage
from fault_services import Nursery, Service
from fault_stage import PATIENCE, Stage, until

from choreo.wire.limits import MAX_DELIVERIES
from tests.conftest import SERVERS, StartServer
from tests.shop_load import PARTICIPANTS, order_id

KILLS = int(os.environ.get("CHOREO_TEST_KILLS", "1000"))
#: Orders under way at once.
IN_FLIGHT = 40
#: Seconds. With a shorter one, on a busy machine, workers that live but get no processor lose their leases,
#: too; a handler that began in time and was overtaken often enough is set aside as if its workers had died of it.
LEASE = 2.0
#: Seconds between two kills, at most.
PAUSE = 0.12
#: Deliveries of an entry after which its worker is not killed on purpose.
SPARED = MAX_DELIVERIES - 2

pytestmark = [
    pytest.mark.anyio, pytest.mark.processes, pytest.mark.load, pytest.mark.timeout(300 + KILLS),
]  # fmt: skip


@dataclass
class Battle:
    """Services that are killed and replaced all the time, and orders that go through them."""

    stage: Stage
    chance: random.Random
    kills: Counter[str] = field(default_factory=Counter)
    """How many of each kind of service were killed."""
    hits: int = 0
    """How many of them had something in hand."""
    placed: int = 0
    crew: dict[str, Service] = field(default_factory=dict)

    def hire(self, seat: str) -> None:
        """Fill a seat: ``payments/1``."""
        name = seat.partition("/")[0]
        if name == "tracker":
            self.crew[seat] = self.stage.start("track")
        else:
            at_once = self.chance.random() < 0.5
            self.crew[seat] = self.stage.start_shop(name, lease=LEASE, dawdle=0.01, at_once=at_once)

    async def kill(self, count: int) -> None:
        """Kill so many services, wherever they stand, each time replacing it at once."""
        while self.kills.total() < count:
            await anyio.sleep(self.chance.uniform(0, PAUSE))
            # A tracker among eight workers: now and then.
            seat = self.chance.choice(list(self.crew))
            victim = self.crew[seat]
            held = [each for each in await self.stage.pending() if each.is_in_hands_of(victim)]
            # What has died with several workers must not meet its fifth death here: it would be set
            # aside as what kills workers, as it should.
            if any(each.deliveries >= SPARED for each in held):
                continue
            assert victim.ended is None, victim.said
            victim.send(signal.SIGKILL)
            self.kills[seat.partition("/")[0]] += 1
            self.hits += bool(held)
            self.hire(seat)

    async def place_orders(self) -> None:
        """Keep so many orders under way, until cancelled."""
        under_way: set[int] = set()
        while True:
            states = await self.stage.states(map(order_id, under_way))
            under_way = {
                number for number in under_way
                if (state := states[order_id(number)]) is None or not state.ended
            }  # fmt: skip
            while len(under_way) < IN_FLIGHT:
                with anyio.CancelScope(shield=True):  # what is placed is counted
                    await self.stage.place_orders([self.placed])
                    under_way.add(self.placed)
                    self.placed += 1
            await anyio.sleep(0.02)

    @property
    def figures(self) -> dict[str, Any]:
        """What was done, and how much of it hit."""
        return {
            "orders": self.placed, "kills": self.kills.total(), "of": dict(self.kills), "hits": self.hits,
            "handlers broken off": self.stage.diary.broken_off,
            "handlers run again": sum(times - 1 for times in self.stage.diary.runs.values()),
        }  # fmt: skip


@pytest.fixture
async def battle(
    anyio_backend: str, server_process: StartServer, tmp_path: Path, nursery: Nursery
) -> AsyncIterator[Battle]:
    async with shop_stage(server_process().url, "shop", tmp_path / "shop", nursery, partitions=2) as stage:
        battle = Battle(stage, random.Random(KILLS))
        for seat in ("tracker", *(f"{name}/{number}" for name in PARTICIPANTS for number in (1, 2))):
            battle.hire(seat)
        yield battle


async def test_killed_services_lose_and_double_nothing(battle: Battle) -> None:
    """Every order ends as it must, each event was published once, and money and stock add up."""
    stage = battle.stage
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(battle.place_orders)
        await battle.kill(KILLS // len(SERVERS))
        tasks.cancel_scope.cancel()
    numbers = range(battle.placed)
    await stage.until_orders_end(numbers)
    print(battle.figures)
    await stage.check_orders(numbers)
    await views_agree(stage, numbers)
    figures = battle.figures
    assert battle.kills.total() == KILLS // len(SERVERS)
    assert battle.kills["tracker"]
    for what in ("hits", "handlers broken off", "handlers run again"):
        assert figures[what] > battle.kills.total() / 20, figures


async def views_agree(stage: Stage, numbers: range) -> None:
    """Wait until the tracker shows of every order what the server's record says of it."""
    states = await stage.states(map(order_id, numbers))

    async def agree() -> bool:
        views = {each: await stage.choreo.wait(each, timeout=PATIENCE) for each in states}
        return all(view.status == states[each] for each, view in views.items())

    await until(agree, "the views to say what the records say")
