"""Deliveries that kill their workers: when they have begun so often they become dead letters, and others go on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import anyio
import pytest
from retry_kit import (
    DEADLY,
    NEVER,
    SLOW,
    HandClock,
    Paid,
    Placed,
    Reserved,
    Shipped,
    Stage,
    quick,
    until,
)

from choreo import Choreography, Context, Participant
from choreo.broker.clock import Clock, wall_clock
from choreo.tracker.follower import Tracker
from choreo.wire.limits import MAX_DELIVERIES

pytestmark = pytest.mark.anyio

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


async def deliver(stage: Stage, key: str, times: int) -> None:
    """Have the first entry of a stream delivered so often to workers of `payments` that died before they began."""
    await stage.broker.groups.ensure([key], "payments")
    await stage.call("XREADGROUP", "GROUP", "payments", "dead", "COUNT", 1, "STREAMS", key, ">")
    ((entry, *_),) = await stage.call("XPENDING", key, "payments", "-", "+", 10)
    for _ in range(times - 1):
        await stage.call("XCLAIM", key, "payments", "dead", 0, entry)
    await age(stage, key)


async def age(stage: Stage, key: str) -> None:
    """Make what is pending as old as what a worker left behind that has been dead for long."""
    for entry, *_ in await stage.call("XPENDING", key, "payments", "-", "+", 10):
        await stage.call("XCLAIM", key, "payments", "dead", 0, entry, "IDLE", 1_000_000_000, "JUSTID")


async def kill_workers(
    stage: Stage, victim: Participant, runs: list[str], key: str, times: int, clock: Clock = wall_clock
) -> None:
    """Have so many workers die in a handler that never ends, and leaves a line in ``runs`` when it begins."""
    for _ in range(times):
        known = len(runs)
        async with stage.running(stage.worker(victim, clock)):
            await until(lambda known=known: len(runs) > known, "the handler to begin")
        await age(stage, key)


def shop(runs: list[str], *, deadly: str = "", deaths: int = MAX_DELIVERIES) -> Participant:
    """Payments, of which one handler ends no run before the last deaths."""
    payments = Participant("payments")

    async def run(name: str, line: str) -> None:
        runs.append(line)
        if name == deadly and runs.count(line) <= deaths:
            await anyio.sleep_forever()

    @payments.on(Placed)
    async def charge(placed: Placed, ctx: Context) -> Paid:
        await run("charge", f"charge {ctx.saga_id}")
        return Paid()

    @charge.undo
    async def refund(placed: Placed, paid: Paid | None, ctx: Context) -> None:
        await run("refund", f"refund {ctx.saga_id} {paid}")

    return payments


async def test_once_too_often(stage: Stage) -> None:
    """It is not run any more: a dead letter, and its saga unwinds, the step itself included."""
    runs: list[str] = []
    payments = shop(runs, deadly="charge")
    choreo = Choreography(stage.topology, stage.broker)
    await choreo.start(Placed(), saga_id="s1")
    await kill_workers(stage, payments, runs, stage.topology.keys.stream(0, "orders"), MAX_DELIVERIES)
    async with stage.playing(payments) as choreo:
        view = await choreo.wait("s1", timeout=20)
    assert runs == ["charge s1"] * MAX_DELIVERIES + ["refund s1 None"]
    assert (view.status, view.dead_letters, view.undone) == ("compensated", 1, {"payments/charge": 1})
    (letter,) = await stage.letters()
    assert (letter["reason"], letter["subject"], letter["step"]) == ("poison", "s1", "charge")
    assert f"begun {MAX_DELIVERIES} times" in letter["error"]
    assert view.reason == f"payments/charge: {letter['error']}"
    assert await stage.pending() == []


async def test_the_last_run_may_succeed(stage: Stage) -> None:
    """A step may run as often as is allowed, the last time included. Then nothing is left of the count."""
    runs: list[str] = []
    payments = shop(runs, deadly="charge", deaths=MAX_DELIVERIES - 1)
    choreo = Choreography(stage.topology, stage.broker)
    await choreo.start(Placed(), saga_id="s1")
    await kill_workers(stage, payments, runs, stage.topology.keys.stream(0, "orders"), MAX_DELIVERIES - 1)
    async with stage.playing(payments):
        await until(lambda: _published(stage, "Paid"), "the event")
    assert runs == ["charge s1"] * MAX_DELIVERIES
    assert await stage.letters() == []
    work = await stage.call("HKEYS", stage.topology.keys.work(0, "s1"))
    assert [field for field in work if field.startswith(b"b:")] == []


async def _published(stage: Stage, event_type: str) -> bool:
    return bool(await stage.emitted(event_type))


async def test_deliveries_that_did_not_begin(stage: Stage) -> None:
    """An event that workers only lost to each other, step or undo, is innocent however often it was delivered."""
    runs: list[str] = []
    choreo = Choreography(stage.topology, stage.broker)
    await choreo.start(Placed(), saga_id="s1")
    await deliver(stage, stage.topology.keys.stream(0, "orders"), 4 * MAX_DELIVERIES)
    async with stage.playing(shop(runs)):
        await until(lambda: _published(stage, "Paid"), "the event")
    await choreo.compensate("s1")
    await deliver(stage, stage.topology.keys.inbox(0, "payments"), 4 * MAX_DELIVERIES)
    async with stage.playing(shop(runs)) as choreo:
        view = await choreo.wait("s1", timeout=20)
    assert runs == ["charge s1", f"refund s1 {Paid()}"]
    assert (view.status, view.dead_letters) == ("compensated", 0)


async def test_an_undo_that_begins_once_too_often(stage: Stage) -> None:
    """It is stuck, and the saga has failed."""
    runs: list[str] = []
    payments = shop(runs, deadly="refund")
    async with stage.playing(payments) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        await until(lambda: _published(stage, "Paid"), "the event")
    await choreo.compensate("s1")
    await kill_workers(stage, payments, runs, stage.topology.keys.inbox(0, "payments"), MAX_DELIVERIES)
    async with stage.playing(payments) as choreo:
        view = await choreo.wait("s1", timeout=20)
    assert runs == ["charge s1", *[f"refund s1 {Paid()}"] * MAX_DELIVERIES]
    assert (view.status, view.dead_letters) == ("failed", 1)
    assert await stage.reasons() == [("s1", "poison")]


async def test_a_step_and_then_its_undo(fake_stage: Stage) -> None:
    """Each is counted apart, and has a letter of its own, so that the undo can be replayed."""
    stage, payments = fake_stage, Participant("payments")
    runs: list[str] = []

    @payments.on(Placed)
    async def charge(placed: Placed) -> Paid:
        runs.append("charge")
        await anyio.sleep_forever()
        return Paid()

    @charge.undo
    async def refund(placed: Placed) -> None:
        runs.append("refund")
        await anyio.sleep_forever()

    keys = stage.topology.keys
    choreo = Choreography(stage.topology, stage.broker)
    await choreo.start(Placed(), saga_id="s1")
    await kill_workers(stage, payments, runs, keys.stream(0, "orders"), MAX_DELIVERIES)
    await kill_workers(stage, payments, runs, keys.inbox(0, "payments"), MAX_DELIVERIES)
    async with stage.playing(payments) as choreo:
        assert (await choreo.wait("s1", timeout=20)).status == "failed"
    assert runs == ["charge"] * MAX_DELIVERIES + ["refund"] * MAX_DELIVERIES
    letters = [(each["reason"], each["step"], each.get("undo", "")) for each in await stage.letters()]
    assert letters == [("poison", "charge", ""), ("poison", "charge", "refund")]


async def test_attempts_are_no_deliveries(fake_stage: Stage) -> None:
    """A step may have more attempts than an event may have deliveries: each attempt is delivered anew."""
    runs: list[int] = []
    payments = Participant("payments")

    @payments.on(Placed, retry=quick(MAX_DELIVERIES + 1))
    async def charge(placed: Placed, ctx: Context) -> Shipped:
        runs.append(ctx.attempt)
        if ctx.attempt <= MAX_DELIVERIES:
            raise OSError("no line")
        return Shipped()

    async with fake_stage.playing(payments) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        assert (await choreo.wait("s1", timeout=20)).status == "completed"
    assert runs == list(range(1, MAX_DELIVERIES + 2))


async def test_a_retry_that_begins_once_too_often(stage: Stage) -> None:
    """A later attempt that kills its workers is poison as well: of each attempt, the runs are counted anew."""
    runs: list[str] = []
    clock = HandClock()
    payments = Participant("payments")

    @payments.on(Placed, retry=NEVER)
    async def charge(placed: Placed, ctx: Context) -> Paid:
        runs.append(f"attempt {ctx.attempt}")
        if len(runs) == MAX_DELIVERIES:
            raise OSError("no line")
        await anyio.sleep_forever()
        return Paid()

    keys = stage.topology.keys
    choreo = Choreography(stage.topology, stage.broker)
    await choreo.start(Placed(), saga_id="s1")
    await kill_workers(stage, payments, runs, keys.stream(0, "orders"), MAX_DELIVERIES - 1, clock)
    async with stage.playing(payments, clock=clock) as choreo:
        await until(stage.due, "the retry to be parked")
    clock.advance(3600)
    await stage.move_due(clock())
    await kill_workers(stage, payments, runs, keys.inbox(0, "payments"), MAX_DELIVERIES, clock)
    async with stage.playing(payments, clock=clock) as choreo:
        view = await choreo.wait("s1", timeout=20)
    assert runs == ["attempt 1"] * MAX_DELIVERIES + ["attempt 2"] * MAX_DELIVERIES
    assert (view.status, view.retries) == ("compensated", 1)
    assert await stage.reasons() == [("s1", "poison")]


async def test_a_join_that_begins_once_too_often(stage: Stage) -> None:
    """The event that completes it is poison; its undo gets both events."""
    runs: list[str] = []
    undone: list[tuple[int, Reserved]] = []
    orders, shipping = Participant("orders"), Participant("payments")

    @orders.on(Placed)
    async def split(placed: Placed) -> Paid:
        return Paid(42)

    @shipping.on_all(Paid, Reserved)
    async def send(paid: Paid, reserved: Reserved) -> Shipped:
        runs.append("send")
        await anyio.sleep_forever()
        return Shipped()

    @send.undo
    async def recall(paid: Paid, reserved: Reserved) -> None:
        undone.append((paid.amount, reserved))

    async with stage.playing(orders, shipping) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        await until(lambda: stage.journal("waiting"), "the join to wait")
    stock = stage.topology.keys.stream(0, "stock")
    await stage.call("XADD", stock, "*", "id", "r1", "type", "Reserved", "subject", "s1", "data", "{}")
    await kill_workers(stage, shipping, runs, stock, MAX_DELIVERIES)
    async with stage.playing(shipping) as choreo:
        view = await choreo.wait("s1", timeout=20)
    assert view.status == "compensated"
    assert runs == ["send"] * MAX_DELIVERIES
    assert undone == [(42, Reserved())]
    assert await stage.reasons() == [("s1", "poison")]


async def test_innocent_bystanders(stage: Stage) -> None:
    """What was in the hands of the workers that died, and took longer than they lived, is not poison."""
    runs: Counter[str] = Counter()
    deaths: list[anyio.Event] = []
    payments = Participant("payments")

    @payments.on(Placed)
    async def charge(placed: Placed, ctx: Context) -> Shipped:
        runs[ctx.saga_id] += 1
        await anyio.sleep(0.05)
        if placed.amount == DEADLY:
            deaths[-1].set()
            await anyio.sleep_forever()
        await anyio.sleep(0.05)
        return Shipped()

    choreo = Choreography(stage.topology, stage.broker)
    sagas = {"slow1": SLOW, "slow2": SLOW, "bad": DEADLY, "slow3": SLOW, "slow4": SLOW}
    for saga, amount in sagas.items():
        await choreo.start(Placed(amount), saga_id=saga)

    async def all_have_ended() -> bool:
        return all([await stage.has_ended(saga) for saga in sagas])

    async def died_or_done() -> bool:
        return deaths[-1].is_set() or await all_have_ended()

    while not await all_have_ended():
        deaths.append(anyio.Event())
        async with stage.running(stage.worker(payments, lease=0.15)):
            await until(died_or_done, "the worker to die, or the sagas to end")
    assert await stage.reasons() == [("bad", "poison")]
    assert runs["bad"] == MAX_DELIVERIES
    assert len(await stage.emitted("Shipped")) == 4


# -- with processes that die -------------------------------------------------------------------------


class Suicides:
    """Workers in processes of their own, that are started again whenever they have died."""

    def __init__(self, url: str, stage: Stage, folder: Path) -> None:
        self.folder = folder
        (folder / "runs").touch()
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, HERE / "suicidal_worker.py", url, stage.topology.namespace, folder],
                env={**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(HERE)))},
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    @property
    def runs(self) -> Counter[str]:
        """What was run, and how often."""
        return Counter((self.folder / "runs").read_text().splitlines())

    def end(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@pytest.fixture
def hire(real_stage: Stage, server_url: str, tmp_path: Path) -> Iterator[Callable[[], Suicides]]:
    """Starts workers that some orders kill; they are ended after the test."""
    hired: list[Suicides] = []

    def start() -> Suicides:
        hired.append(Suicides(server_url, real_stage, tmp_path))
        return hired[-1]

    yield start
    for each in hired:
        each.end()


async def test_an_event_that_kills_every_worker(real_stage: Stage, hire: Callable[[], Suicides]) -> None:
    """It was run exactly as often as it may be; then it is a dead letter. Other sagas finish meanwhile."""
    choreo = Choreography(real_stage.topology, real_stage.broker)
    await choreo.start(Placed(DEADLY), saga_id="bad")
    good = [f"good{number}" for number in range(5)]
    for saga in good:
        await choreo.start(Placed(), saga_id=saga)
    suicides = hire()
    async with real_stage.running(Tracker(real_stage.topology, real_stage.broker)):
        for saga in good:
            assert (await choreo.wait(saga, timeout=30)).status == "completed"
        assert await real_stage.letters() == []
        view = await choreo.wait("bad", timeout=30)
    assert (view.status, view.dead_letters) == ("compensated", 1)
    assert await real_stage.reasons() == [("bad", "poison")]
    assert suicides.runs["charge bad 1"] == MAX_DELIVERIES
    assert suicides.runs["refund bad None"] == 1
    assert set(suicides.runs) == {"charge bad 1", "refund bad None", *(f"charge {saga} 1" for saga in good)}
