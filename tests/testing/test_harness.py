"""The harness: the real runtime, gate and tracker beside a test, under a clock of their own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from bank import Bank, Debited, Refused, Returned, TransferDone, TransferRequested

from choreo import Context, Event, Participant, Retry
from choreo.errors import ChoreoError, ConfigurationError, SagaConflict, SagaNotFound, UnroutableEvent
from choreo.model.saga import State
from choreo.testing import Ends, Harness

pytestmark = pytest.mark.anyio


# -- a saga from end to end --------------------------------------------------------------------------


async def test_a_saga_completes() -> None:
    """`settle` runs until nothing moves; the handle then shows how the saga stands."""
    bank = Bank()
    async with bank.harness() as town:
        transfer = await town.start(TransferRequested())
        await town.settle()
        assert transfer.status is State.COMPLETED
        assert transfer.status == "completed"
        assert transfer.events == ["TransferRequested", "Debited", "Credited", "TransferDone"]
        assert transfer.dead_letters == []
        assert transfer.trace.events[0].type == "TransferRequested"
        transfer.assert_status("completed")
        transfer.assert_events(TransferRequested, Debited, "Credited", TransferDone)
        transfer.assert_emitted(TransferDone, Debited)
        transfer.assert_not_emitted(Returned)
        transfer.assert_undone()
        transfer.assert_no_dead_letters()
    assert bank.cents == {"ann": 900, "bob": 100}


async def test_a_saga_unwinds() -> None:
    """A step that aborts unwinds what was done before it; undos show in the order in which they ran."""
    bank = Bank()
    async with bank.harness() as town:
        transfer = await town.start(TransferRequested(target="nobody"))
        await town.settle()
        transfer.assert_status("compensated")
        transfer.assert_undone("debits/debit")
        transfer.assert_emitted(Returned)
        assert "no account nobody" in transfer.view.reason
    assert bank.cents == {"ann": 1000, "bob": 0}


async def test_nothing_happens_before_the_test_waits() -> None:
    """Between two waits of a test the world stands still."""
    bank = Bank()
    async with bank.harness() as town:
        transfer = await town.start(TransferRequested())
        await anyio.lowlevel.checkpoint()
        assert not bank.calls
        with pytest.raises(SagaNotFound):
            assert transfer.status
        assert "nothing has happened" in transfer.tree
        await town.settle()
        assert bank.calls["debit"] == 1


async def test_many_sagas_side_by_side() -> None:
    """Sagas without an id get one, in order; each has a handle of its own."""
    bank = Bank()
    async with bank.harness() as town:
        transfers = [await town.start(TransferRequested(cents=number)) for number in range(1, 21)]
        await town.settle()
        assert [each.id for each in transfers] == [f"saga-{number}" for number in range(1, 21)]
        assert {each.status for each in town.sagas} == {State.COMPLETED}
    assert bank.cents["bob"] == sum(range(1, 21))


async def test_the_same_id_twice_is_one_saga() -> None:
    """Starting is idempotent, as outside of tests; another event under the same id is refused."""
    async with Bank().harness() as town:
        await town.start(TransferRequested(), saga_id="t1")
        await town.start(TransferRequested(), saga_id="t1")
        with pytest.raises(SagaConflict):
            await town.start(TransferRequested(cents=5), saga_id="t1")
        await town.settle()
        assert len(town.saga("t1").events) == 4


async def test_a_foreign_event() -> None:
    """Any program may publish an event of a saga; `emit` is that program."""
    bank = Bank()
    async with bank.harness() as town:
        await town.emit(Debited("ann", "bob", 70), "t1")
        await town.settle()
        assert bank.cents["bob"] == 70
        assert town.saga("t1").events == ["Debited", "Credited", "TransferDone"]
        with pytest.raises(UnroutableEvent):

            class Unknown(Event):
                pass

            await town.emit(Unknown(), "t1")


async def test_an_operator_unwinds() -> None:
    """`compensate` is the operator's order."""
    gate = Participant("gate")

    @gate.on(TransferRequested)
    def wait(event: TransferRequested) -> Debited | None:
        return None

    @wait.undo
    def stop_waiting(event: TransferRequested, debited: Debited | None) -> None:
        return

    async with Harness(participants=[gate]) as town:
        transfer = await town.start(TransferRequested())
        await town.settle()
        transfer.assert_status("running")
        await town.compensate(transfer, note="not wanted")
        await town.settle()
        transfer.assert_status("compensated")
        transfer.assert_undone("gate/wait")
        assert "not wanted (test)" in transfer.view.reason


async def test_failing_assertions_show_the_trace() -> None:
    """Whoever reads the failure sees what happened without running it again."""
    async with Bank().harness() as town:
        transfer = await town.start(TransferRequested(cents=5000))
        await town.settle()
        checks: list[Any] = [
            lambda: transfer.assert_status("completed"),
            lambda: transfer.assert_events(TransferRequested),
            lambda: transfer.assert_emitted(TransferDone),
            lambda: transfer.assert_not_emitted(Refused),
            lambda: transfer.assert_undone("debits/debit"),
        ]
        for check in checks:
            with pytest.raises(AssertionError, match="debits/debit") as caught:
                check()
            assert "● Refused  the saga is compensated" in str(caught.value)


async def test_dead_letters() -> None:
    """A step that fails for good shows in the saga's dead letters, with its error."""
    failing = Participant("failing")

    @failing.on(TransferRequested, retry=Retry(attempts=1))
    def charge(event: TransferRequested) -> TransferDone:
        raise ValueError("boom")

    async with Harness(participants=[failing], ends=Ends(completes_with=TransferDone)) as town:
        transfer = await town.start(TransferRequested())
        await town.settle()
        (letter,) = transfer.dead_letters
        assert (letter.reason, letter.handler, letter.type) == ("step-failed", "failing/charge", "TransferRequested")
        assert "boom" in letter.error
        with pytest.raises(AssertionError, match="boom"):
            transfer.assert_no_dead_letters()


# -- time --------------------------------------------------------------------------------------------


def ticking(delays: list[float], seen: list[tuple[float, int]]) -> Participant:
    """A participant that fails, and notes when it ran: seconds since it first did, and the attempt."""
    participant = Participant("ticking")
    now: list[Any] = []

    @participant.on(TransferRequested, retry=Retry(attempts=4, first=60, factor=2, limit=1000, jitter=0))
    async def tick(event: TransferRequested, ctx: Context) -> TransferDone:
        moment = asyncio.get_running_loop().time()
        now.append(moment)
        seen.append((round(moment - now[0], 3), ctx.attempt))
        if ctx.attempt <= len(delays):
            raise RuntimeError("not yet")
        return TransferDone()

    return participant


async def test_what_is_due_later_waits_for_advance() -> None:
    """Time stands still: a retry happens when the test lets its time come, at its time, and in order."""
    seen: list[tuple[float, int]] = []
    async with Harness(participants=[ticking([1, 2, 3], seen)], ends=Ends(completes_with=TransferDone)) as town:
        transfer = await town.start(TransferRequested())
        began = town.now
        await town.settle()
        assert seen == [(0, 1)]
        await town.advance(59.9)
        assert seen == [(0, 1)]
        await town.advance(seconds=0.1)
        assert seen == [(0, 1), (60, 2)]
        await town.advance(timedelta(minutes=4))
        assert seen == [(0, 1), (60, 2), (180, 3)]
        assert town.now == began + 300_000
        transfer.assert_status("running")
        await town.advance(minutes=5)
        assert seen == [(0, 1), (60, 2), (180, 3), (420, 4)]
        transfer.assert_status("completed")
        assert transfer.view.retries == 3


async def test_finish_lets_time_pass_until_nothing_is_due() -> None:
    """However long it takes: but no longer than needed, and no real time."""
    seen: list[tuple[float, int]] = []
    async with Harness(participants=[ticking([1, 2, 3], seen)], ends=Ends(completes_with=TransferDone)) as town:
        transfer = await town.start(TransferRequested())
        began = town.now
        await town.finish(within=100)
        transfer.assert_status("running")
        await town.finish()
        transfer.assert_status("completed")
        assert town.now - began == 420_000


async def test_a_handler_that_sleeps_needs_no_real_time() -> None:
    """A handler's own waiting is of this world's time; `settle` lets it finish."""
    sleepy = Participant("sleepy")

    @sleepy.on(TransferRequested)
    async def doze(event: TransferRequested) -> TransferDone:
        await asyncio.sleep(1800)
        return TransferDone()

    before = time.monotonic()
    async with Harness(participants=[sleepy], ends=Ends(completes_with=TransferDone)) as town:
        transfer = await town.start(TransferRequested())
        began = town.now
        await town.settle()
        transfer.assert_status("completed")
        assert 1_800_000 <= town.now - began < 1_801_000
    assert time.monotonic() - before < 900


async def test_a_timeout_needs_no_real_time() -> None:
    """A step's timeout is of this world's time, too."""
    slow = Participant("slow")

    @slow.on(TransferRequested, timeout=30, retry=Retry(attempts=1))
    async def dawdle(event: TransferRequested) -> TransferDone:
        await anyio.sleep_forever()
        return TransferDone()

    async with Harness(participants=[slow], ends=Ends(completes_with=TransferDone)) as town:
        transfer = await town.start(TransferRequested())
        began = town.now
        await town.settle()
        assert town.now - began == 30_000
        transfer.assert_status("compensated")
        assert "took longer than 30 s" in transfer.view.reason


async def test_what_users_wait_for_happens_at_its_time() -> None:
    """A background task of a lifespan runs at its own times, though time jumps."""
    ticks: list[float] = []

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        async def tick() -> None:
            while True:
                await asyncio.sleep(45)
                ticks.append(asyncio.get_running_loop().time())

        task = asyncio.create_task(tick())
        yield
        task.cancel()

    clock = Participant("clock", lifespan=lifespan)

    @clock.on(TransferRequested)
    async def nothing(event: TransferRequested) -> None:
        return

    async with Harness(participants=[clock]) as town:
        await town.advance(minutes=3)
        assert ticks == [45, 90, 135, 180]


async def test_the_clock_on_the_wall_may_jump() -> None:
    """A jump of the time of day makes timers due, and breaks nothing."""
    seen: list[tuple[float, int]] = []
    async with Harness(participants=[ticking([1], seen)], ends=Ends(completes_with=TransferDone)) as town:
        transfer = await town.start(TransferRequested())
        await town.settle()
        await town.jump_clock(3600)
        await town.advance(seconds=1)
        transfer.assert_status("completed")
        assert [attempt for _, attempt in seen] == [1, 2]


# -- handlers ----------------------------------------------------------------------------------------


async def test_handlers_that_are_no_coroutines() -> None:
    """They run in the test's thread, but as if they had one of their own: no loop runs there."""
    plain = Participant("plain")

    @plain.on(TransferRequested)
    def count(event: TransferRequested) -> TransferDone:
        async def answer() -> int:
            return 42

        assert asyncio.run(answer()) == 42
        return TransferDone()

    async with Harness(participants=[plain], ends=Ends(completes_with=TransferDone)) as town:
        transfer = await town.start(TransferRequested())
        await town.settle()
        transfer.assert_status("completed")


async def test_handlers_may_use_threads() -> None:
    """A handler that waits for a thread holds the clock until the thread is done."""
    threaded = Participant("threaded")

    @threaded.on(TransferRequested, timeout=0.5)
    async def work(event: TransferRequested) -> TransferDone:
        await asyncio.to_thread(time.sleep, 0.05)
        await anyio.to_thread.run_sync(time.sleep, 0.05)
        return TransferDone()

    async with Harness(participants=[threaded], ends=Ends(completes_with=TransferDone)) as town:
        transfer = await town.start(TransferRequested())
        await town.settle()
        transfer.assert_status("completed")


async def test_random_is_the_same_each_time() -> None:
    """`random` in handlers follows the harness's seed, and the test's own is not touched."""
    import random

    drawn: list[float] = []
    dice = Participant("dice")

    @dice.on(TransferRequested)
    def roll(event: TransferRequested) -> None:
        drawn.append(random.random())

    async def rolled(seed: int) -> float:
        async with Harness(participants=[dice], seed=seed) as town:
            await town.start(TransferRequested())
            await town.settle()
        return drawn.pop()

    random.seed(5)
    first = random.random()
    random.seed(5)
    assert await rolled(1) == await rolled(1) != await rolled(2)
    assert random.random() == first


async def test_lifespans_are_opened_and_closed() -> None:
    """What a participant's lifespan yields is there for its handlers, and is closed with the harness."""
    happened: list[str] = []

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[str]:
        happened.append("opened")
        yield "the resource"
        happened.append("closed")

    participant = Participant("p", lifespan=lifespan)

    @participant.on(TransferRequested)
    async def look(event: TransferRequested, ctx: Context) -> None:
        happened.append(ctx.resources)

    async with Harness(participants=[participant]) as town:
        await town.start(TransferRequested())
        await town.settle()
    assert happened == ["opened", "the resource", "closed"]


async def test_a_lifespan_that_fails() -> None:
    """Its error is the test's error, as it is."""

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        raise ValueError("no database")
        yield

    participant = Participant("p", lifespan=lifespan)

    @participant.on(TransferRequested)
    async def look(event: TransferRequested) -> None:
        return

    with pytest.raises(ValueError, match="no database"):
        async with Harness(participants=[participant]):
            pass


async def test_a_handler_cannot_drive_its_own_harness() -> None:
    """Whoever tries is told so, in the trace of the saga."""
    participant = Participant("p")
    towns: list[Harness] = []

    @participant.on(TransferRequested, retry=Retry(attempts=1))
    async def drive(event: TransferRequested) -> None:
        await towns[0].settle()

    async with Harness(participants=[participant]) as town:
        towns.append(town)
        transfer = await town.start(TransferRequested())
        await town.settle()
        assert "a handler cannot drive the harness" in transfer.dead_letters[0].error


# -- casting -----------------------------------------------------------------------------------------


async def test_from_streams_yaml(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """A harness of streams.yaml loads its participants; some may be replaced by others of the same name."""
    from participants.contracts import OrderPlaced, PaymentDeclined

    monkeypatch.setenv("CHOREO_SHOP_DATA", str(tmp_path))
    strict = Participant("payments")

    @strict.on(OrderPlaced)
    async def charge(order: OrderPlaced) -> PaymentDeclined:
        return PaymentDeclined(order.order_id, "not today")

    order = OrderPlaced("o1", "ann", "lamp", 1, 4200, "visa", "DE")
    async with Harness("streams.yaml") as shop:
        saga = await shop.start(order, saga_id="o1")
        await shop.settle()
        saga.assert_status("completed")
    async with Harness("streams.yaml", participants=[strict]) as shop:
        saga = await shop.start(order, saga_id="o2")
        await shop.settle()
        saga.assert_status("compensated")
        assert "not today" in saga.tree or saga.events[-1]


async def test_a_harness_needs_somebody() -> None:
    """Without a file and without participants there is nothing to test."""
    with pytest.raises(ConfigurationError, match=r"streams\.yaml, or participants"):
        Harness()


def test_without_pytest_and_without_anyio() -> None:
    """A harness needs neither; `asyncio.run` is enough."""

    async def main() -> str:
        async with Bank().harness() as town:
            transfer = await town.start(TransferRequested())
            await town.settle()
            return transfer.status

    assert asyncio.run(main()) == "completed"


def test_under_uvloop() -> None:
    """What loop the test runs on does not matter."""
    uvloop = pytest.importorskip("uvloop")

    async def main() -> str:
        async with Bank().harness() as town:
            transfer = await town.start(TransferRequested())
            await town.settle()
            return transfer.status

    assert uvloop.run(main()) == "completed"


async def test_deadlines(tmp_path: Any) -> None:
    """A saga's deadline passes when its time comes, in order with everything else."""
    patient = Participant("patient")

    @patient.on(TransferRequested)
    async def wait(event: TransferRequested) -> Debited | None:
        return None

    @wait.undo
    def stop(event: TransferRequested, debited: Debited | None) -> None:
        return

    (tmp_path / "streams.yaml").write_text(
        "namespace: t\n"
        "streams: {all: {events: [TransferRequested, Debited, TransferDone]}}\n"
        "participants: {}\n"
        "sagas: {t: {starts_with: TransferRequested, completes_with: [TransferDone], deadline: 5m}}\n"
    )
    async with Harness(tmp_path / "streams.yaml", participants=[patient]) as town:
        saga = await town.start(TransferRequested())
        began = town.now
        await town.advance(minutes=4.9)
        saga.assert_status("running")
        await town.finish()
        saga.assert_status("compensated")
        saga.assert_undone("patient/wait")
        assert saga.events == ["TransferRequested", "SagaTimedOut"]
        assert 300_000 <= town.now - began <= 301_000


def test_elsewhere_than_on_asyncio_it_says_so() -> None:
    """A test that anyio's plugin runs on trio is told what to do about it."""
    opening = Bank().harness().__aenter__()
    with pytest.raises(ChoreoError, match="let the fixture `anyio_backend` return \"asyncio\""):
        opening.send(None)


async def test_a_harness_that_is_not_open_says_so() -> None:
    """Whoever forgets `async with` is told about it; other mistakes are what they are on any object."""
    town = Bank().harness()
    for call in (town.settle, town.finish, lambda: town.start(TransferRequested())):
        with pytest.raises(RuntimeError, match="the harness is not open"):
            await call()
    with pytest.raises(AttributeError, match="has no 'setle'"):
        town.setle  # type: ignore[attr-defined]  # noqa: B018
