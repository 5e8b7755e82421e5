"""What was delivered again, for whatever reason, runs once per attempt."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeAlias

import anyio
import pytest
from retry_kit import NEVER, NOW, HandClock, Paid, Placed, Shipped, Stage, quick, until

from choreo import Choreography, Context, Participant

pytestmark = pytest.mark.anyio

Again: TypeAlias = Callable[[Stage, str], Awaitable[None]]
#: The amount of an order that is handled at once, whatever happens to others.
PROBE = 0


async def recreate(stage: Stage, stream: str) -> None:
    """Delete the consumer group of a stream: workers make it anew, and everything is delivered again."""
    await stage.call("XGROUP", "DESTROY", stream, "payments")


async def rewind(stage: Stage, stream: str) -> None:
    """Set the consumer group of a stream back to its beginning."""
    await stage.call("XGROUP", "SETID", stream, "payments", "0")


@pytest.fixture(params=[recreate, rewind])
def again(request: pytest.FixtureRequest) -> Again:
    """Has everything in a stream delivered again."""
    return request.param


@dataclass
class Line:
    """A payments service that fails until it is mended."""

    runs: list[int] = field(default_factory=list)
    undos: list[int] = field(default_factory=list)
    fails_until: int = 99
    """The attempt that succeeds."""
    hold: dict[int, anyio.Event] = field(default_factory=dict)
    """Attempts that wait for an event."""
    clock: HandClock = field(default_factory=HandClock)

    def participant(self) -> Participant:
        payments = Participant("payments")

        @payments.on(Placed, retry=NEVER)
        async def charge(placed: Placed, ctx: Context) -> Shipped:
            if placed.amount != PROBE:
                await self._try(self.runs, ctx.attempt)
            return Shipped()

        @charge.undo(retry=NEVER)
        async def refund(placed: Placed, ctx: Context) -> None:
            await self._try(self.undos, ctx.attempt)

        return payments

    async def _try(self, runs: list[int], attempt: int) -> None:
        runs.append(attempt)
        if attempt in self.hold:
            await self.hold[attempt].wait()
        if attempt < self.fails_until:
            raise OSError("no line")


async def probe(stage: Stage, choreo: Choreography, name: str = "probe") -> None:
    """Have an order handled that came after everything else: then all that is to be delivered was."""
    await choreo.start(Placed(PROBE), saga_id=name)
    await until(lambda: stage.has_ended(name), f"{name} to end")
    await until(stage.is_settled, "nothing to be in anybody's hands")


async def test_an_event_is_not_run_again_while_its_retry_is_parked(stage: Stage, again: Again) -> None:
    """The event comes a second time: its first attempt has failed already, and the next one is not due."""
    line = Line()
    async with stage.playing(line.participant(), clock=line.clock) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        await until(stage.due, "the retry to be parked")
        await again(stage, stage.topology.keys.stream(0, "orders"))
        await probe(stage, choreo)
        assert line.runs == [1]
        assert await stage.due() == [NOW + 3_600_000]


async def test_an_attempt_is_not_run_again_while_the_next_one_is_parked(stage: Stage, again: Again) -> None:
    """The inbox delivers the second attempt again when the third is parked."""
    line = Line()
    async with stage.playing(line.participant(), clock=line.clock) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        await until(stage.due, "the second attempt to be parked")
        line.clock.advance(3600)
        await until(lambda: _is_due(stage, NOW + 7_200_000), "the third attempt to be parked")
        await again(stage, stage.topology.keys.inbox(0, "payments"))
        await probe(stage, choreo)
        assert line.runs == [1, 2]
        assert await stage.due() == [NOW + 7_200_000]


async def _is_due(stage: Stage, at: int) -> bool:
    return await stage.due() == [at]


async def test_an_event_is_not_run_beside_its_own_retry(stage: Stage, again: Again) -> None:
    """The event comes a second time while its second attempt runs."""
    line = Line(fails_until=2, hold={2: anyio.Event()})
    async with stage.playing(line.participant(), clock=line.clock) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        await until(stage.due, "the second attempt to be parked")
        line.clock.advance(3600)
        await until(lambda: line.runs == [1, 2], "the second attempt to begin")
        await again(stage, stage.topology.keys.stream(0, "orders"))
        await choreo.start(Placed(PROBE), saga_id="probe")
        await until(lambda: stage.has_ended("probe"), "the probe to end")
        line.hold[2].set()
        await until(lambda: stage.has_ended("s1"), "s1 to end")
        await until(stage.is_settled, "nothing to be in anybody's hands")
        assert line.runs == [1, 2]
        assert len([each for each in await stage.emitted("Shipped") if each["subject"] == "s1"]) == 1


async def test_an_undo_is_not_run_again_while_its_retry_is_parked(stage: Stage, again: Again) -> None:
    """The request to undo comes a second time: its first attempt has failed, the next one is not due."""
    line = Line()
    async with stage.playing(line.participant(), clock=line.clock) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        await until(stage.due, "the retry to be parked")
        await choreo.compensate("s1")
        await until(lambda: line.undos == [1], "the undo to be tried")
        await until(stage.due, "its retry to be parked")
        await again(stage, stage.topology.keys.inbox(0, "payments"))
        await probe(stage, choreo)
        assert line.undos == [1]


async def test_nor_when_the_saga_has_completed_meanwhile(stage: Stage, again: Again) -> None:
    """Completion clears away what a saga needs no more; how far its attempts are is still needed."""
    line = Line(fails_until=2)
    shipping = Participant("shipping")

    @shipping.on(Placed)
    async def send(placed: Placed) -> Shipped:
        await until(stage.due, "the retry to be parked")
        return Shipped()

    async with stage.playing(line.participant(), shipping, clock=line.clock) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        assert (await choreo.wait("s1", timeout=10)).status == "completed"
        await again(stage, stage.topology.keys.stream(0, "orders"))
        await probe(stage, choreo)
        assert line.runs == [1]
        line.clock.advance(3600)
        await until(lambda: line.runs == [1, 2], "the second attempt")


async def test_groups_that_were_deleted_cost_no_attempt(stage: Stage) -> None:
    """The groups vanish each time a retry is parked: every attempt still runs once, in order."""
    line = Line(fails_until=4)
    keys = stage.topology.keys
    async with stage.playing(line.participant(), clock=line.clock) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        for attempt in (1, 2, 3):
            await until(lambda number=attempt: len(line.runs) == number, f"attempt {attempt}")  # type: ignore[misc]
            await until(stage.due, f"what follows attempt {attempt} to be parked")
            await recreate(stage, keys.inbox(0, "payments"))
            await recreate(stage, keys.stream(0, "orders"))
            await probe(stage, choreo, f"probe-{attempt}")
            line.clock.advance(3600)
        view = await choreo.wait("s1", timeout=10)
    assert line.runs == [1, 2, 3, 4]
    assert view.status == "completed"
    assert view.retries == 3


async def test_a_producer_that_sends_twice_costs_no_attempt(stage: Stage) -> None:
    """The same event is published five times while its step fails: its attempts run one after the other."""
    runs: list[int] = []
    payments = Participant("payments")

    @payments.on(Placed, retry=quick(3))
    async def charge(placed: Placed, ctx: Context) -> Paid:
        runs.append(ctx.attempt)
        if ctx.attempt < 3:
            raise OSError("no line")
        return Paid()

    fields = ("id", "e1", "type", "Placed", "subject", "s1", "data", "{}")
    stream = stage.topology.keys.stream(0, "orders")

    async def settled() -> bool:
        return await stage.is_settled() and len(await stage.emitted("Paid")) == 1 and not await stage.due()

    async with stage.playing(payments):
        for _ in range(5):
            await stage.call("XADD", stream, "*", *fields)
        await until(settled, "the step to be done")
    # Copies that are in hand at the same moment may each run the first attempt; never a later one.
    assert runs[-2:] == [2, 3]
    assert runs.count(2) == runs.count(3) == 1
