"""Everything at once: handlers that fail, workers that die, groups that vanish, events that come twice."""

from __future__ import annotations

import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

import anyio
import pytest
from retry_kit import Mover, Paid, Placed, Reserved, Shipped, Stage, quick, until

from choreo import Abort, Choreography, Context, Participant
from choreo.broker.clock import wall_clock
from choreo.errors import SagaClosed, SagaNotFound
from choreo.tracker.follower import Tracker

pytestmark = pytest.mark.anyio

SAGAS = 20
TOPICS = ("orders", "money", "stock")


@dataclass
class World:
    """What the handlers did to the world outside, by idempotency key, and how they fail."""

    chance: random.Random
    effects: dict[str, str] = field(default_factory=dict)
    """Key of a step -> its saga."""
    calm: bool = False
    """When nothing is broken from outside any more."""

    async def do(self, ctx: Context) -> None:
        """Take effect, or fail: before or after it."""
        self._perhaps_fail()
        self.effects[ctx.key] = ctx.saga_id
        await anyio.sleep(self.chance.uniform(0, 0.01))
        self._perhaps_fail()

    async def undo(self, ctx: Context) -> None:
        assert ctx.undoes is not None
        self._perhaps_fail()
        self.effects.pop(ctx.undoes, None)
        await anyio.sleep(self.chance.uniform(0, 0.01))
        self._perhaps_fail()

    def _perhaps_fail(self) -> None:
        if self.chance.random() < 0.2:
            raise OSError("no line")

    def of(self, saga_id: str) -> int:
        """How many effects a saga has."""
        return sum(each == saga_id for each in self.effects.values())


def services(world: World) -> list[Participant]:
    payments, inventory, shipping = Participant("payments"), Participant("inventory"), Participant("shipping")

    @payments.on(Placed, retry=quick(4))
    async def charge(placed: Placed, ctx: Context) -> Paid:
        await world.do(ctx)
        return Paid()

    @charge.undo(retry=quick(30))
    async def refund(placed: Placed, ctx: Context) -> None:
        await world.undo(ctx)

    @inventory.on(Paid, retry=quick(4))
    async def reserve(paid: Paid, ctx: Context) -> Reserved:
        await world.do(ctx)
        return Reserved()

    @reserve.undo(retry=quick(30))
    async def release(paid: Paid, ctx: Context) -> None:
        await world.undo(ctx)

    @shipping.on_all(Paid, Reserved, retry=quick(4))
    async def send(paid: Paid, reserved: Reserved, ctx: Context) -> Shipped:
        if ctx.saga_id.endswith("3"):
            raise Abort("no truck")
        await world.do(ctx)
        return Shipped()

    @send.undo(retry=quick(30))
    async def recall(paid: Paid, reserved: Reserved, ctx: Context) -> None:
        await world.undo(ctx)

    return [payments, inventory, shipping]


async def lives(stage: Stage, participant: Participant, world: World) -> None:
    """Workers of a participant, one after the other: each dies without a word."""
    while True:
        async with anyio.create_task_group() as tasks:
            await tasks.start(stage.worker(participant, lease=0.1, concurrency=20).run)
            while True:
                await anyio.sleep(world.chance.uniform(0.1, 0.4))
                if not world.calm:
                    break
            tasks.cancel_scope.cancel()


async def break_something(stage: Stage, choreo: Choreography, chance: random.Random) -> None:
    """Harm the namespace in one of the ways that must do no harm."""
    keys = stage.topology.keys
    participant = chance.choice(("payments", "inventory", "shipping"))
    topic = keys.stream(0, chance.choice(TOPICS))
    stream = chance.choice((topic, keys.inbox(0, participant)))
    match chance.randrange(5):
        case 0:
            await stage.broker.connection.call_many([("XGROUP", "DESTROY", stream, participant)])
        case 1:
            await stage.broker.connection.call_many([("XGROUP", "SETID", stream, participant, "0")])
        case 2 | 3:
            entries = await stage.call("XRANGE", topic, "-", "+")
            if entries:
                await stage.call("XADD", topic, "*", *chance.choice(entries)[1], "copied", "1")
        case 4:
            with suppress(SagaClosed, SagaNotFound):
                await choreo.compensate(f"s{chance.randrange(SAGAS)}")


async def check(stage: Stage, choreo: Choreography, world: World) -> None:
    """What must be true in the end, whatever happened."""
    for number in range(SAGAS):
        saga = f"s{number}"
        view = await choreo.wait(saga, timeout=10)
        assert view.status == await stage.broker.sagas.state(saga)
        assert view.status in ("completed", "compensated"), (saga, view)
        assert world.of(saga) == (3 if view.status == "completed" else 0), (saga, view)
    for name in TOPICS:
        events = [event for event in await stage.entries(f"stream:{name}") if "copied" not in event]
        assert set(Counter((event["subject"], event["id"]) for event in events).values()) <= {1}
    facts = Counter((fact["subject"], fact["id"]) for fact in await stage.journal())
    assert set(facts.values()) <= {1}
    assert await stage.due() == []


@pytest.mark.parametrize("seed", [1, 2])
async def test_whatever_happens_sagas_end_whole(real_stage: Stage, seed: int) -> None:
    """Each saga has all of its effects or none, every event was published once, and nothing is left over."""
    stage = real_stage
    chance = random.Random(seed)
    world = World(random.Random(seed + 1000))
    choreo = Choreography(stage.topology, stage.broker)

    async def all_ended() -> bool:
        return all([await stage.has_ended(f"s{number}") for number in range(SAGAS)])

    async def nothing_is_left() -> bool:
        return await stage.is_settled() and not await stage.due()

    outsiders = stage.running(Tracker(stage.topology, stage.broker), Mover(stage.broker, wall_clock))
    async with outsiders, anyio.create_task_group() as tasks:
        for participant in services(world):
            tasks.start_soon(lives, stage, participant, world)
        for number in range(SAGAS):
            await choreo.start(Placed(), saga_id=f"s{number}")
            await break_something(stage, choreo, chance)
        for _ in range(30):
            await break_something(stage, choreo, chance)
            await anyio.sleep(0.01)
        world.calm = True
        await until(all_ended, "every saga to end")
        await until(nothing_is_left, "nothing to be left")
        await check(stage, choreo, world)
        tasks.cancel_scope.cancel()
