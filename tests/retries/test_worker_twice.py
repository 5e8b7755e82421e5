"""A producer sends an event twice, and workers have both in hand at once: the books balance in the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import anyio
import pytest
from retry_kit import NOW, Paid, Placed, Refunded, Stage, until
from retry_seat import Seat

from choreo import Abort, Choreography, Context, Participant
from choreo.broker.answers import Answer, Verdict
from choreo.broker.gate import Begin, Decision, Gate, Identity

pytestmark = pytest.mark.anyio

#: Seconds after which what was left pending comes again.
LEASE = 0.5


@dataclass
class Till:
    """A payments service. Each run of its step comes to what is planned for it: to have its effect, or to abort."""

    plan: str
    """A letter for each run: ``e`` has its effect, ``a`` aborts, in capitals when it is let go on."""
    runs: int = 0
    taken: set[str] = field(default_factory=set)
    given_back: set[str] = field(default_factory=set)
    go_on: anyio.Event = field(default_factory=anyio.Event)

    def participant(self, *, quick: bool = False) -> Participant:
        """``quick``: the step never waits for anything, and so is run together with others."""
        payments = Participant("payments")

        async def run_at_once(order: Placed, ctx: Context) -> Paid:
            self._decide(self._next(), ctx.key)
            return Paid(order.amount)

        async def run(order: Placed, ctx: Context) -> Paid:
            if ctx.saga_id != "probe":
                await self._run(ctx.key)
            return Paid(order.amount)

        handler = run_at_once if quick else run
        handler.__name__ = "charge"
        charge = payments.on(Placed)(handler)

        @charge.undo
        async def refund(order: Placed, paid: Paid | None, ctx: Context) -> Refunded:
            self.given_back.add(str(ctx.undoes))
            return Refunded(order.amount)

        return payments

    def _next(self) -> str:
        self.runs += 1
        return self.plan[self.runs - 1]

    async def _run(self, key: str) -> None:
        planned = self._next()
        if planned.isupper():
            await self.go_on.wait()
        self._decide(planned, key)

    def _decide(self, planned: str, key: str) -> None:
        if planned in "aA":
            raise Abort("no money")
        self.taken.add(key)


async def publish(stage: Stage, saga_id: str, copies: int = 1) -> None:
    """XADD a Placed, as any program may."""
    key, time = stage.topology.keys.stream(0, "orders"), str(NOW)
    for _ in range(copies):
        fields = ("id", f"e-{saga_id}", "type", "Placed", "subject", saga_id, "time", time, "data", "{}")
        await stage.call("XADD", key, "*", *fields)


async def unwound(stage: Stage) -> None:
    """Wait until nothing is in anybody's hands, and have the saga unwound if it runs still."""
    await until(stage.is_settled, "nothing to be in anybody's hands")
    if not await stage.has_ended("s1"):
        await Choreography(stage.topology, stage.broker).compensate("s1")
    await until(lambda: stage.has_ended("s1"), "s1 to end")
    await until(stage.is_settled, "nothing to be in anybody's hands")


@pytest.mark.parametrize("plan", ["Ea", "Ae", "eA", "aE"])
@pytest.mark.parametrize("workers", [1, 2])
async def test_one_aborts_and_the_other_takes_effect(real_stage: Stage, workers: int, plan: str) -> None:
    """Whichever is first, and however long it takes: what was taken is given back when the saga unwinds."""
    stage, till = real_stage, Till(plan)
    # With two workers that handle one event at a time, each gets one of the two.
    concurrency = 256 if workers == 1 else 1
    services = [
        stage.worker(till.participant(), lease=LEASE, concurrency=concurrency) for _ in range(workers)
    ]
    await stage.broker.groups.ensure(Seat(stage, services[0].identity).streams, "payments")
    await publish(stage, "s1", copies=2)
    async with stage.running(*services):
        await publish(stage, "probe")
        await until(lambda: stage.has_paid("probe"), "the event behind the two to be handled")
        till.go_on.set()
        await unwound(stage)
    assert till.taken <= till.given_back


@pytest.mark.parametrize("plan", ["ea", "ae"])
async def test_of_two_that_came_together_one_is_run(real_stage: Stage, plan: str) -> None:
    """Both come in one read, and their handler does not wait: the other comes again, when all is decided."""
    stage, till = real_stage, Till(plan)
    worker = stage.worker(till.participant(quick=True), lease=LEASE)
    await publish(stage, "s1", copies=2)
    async with stage.running(worker):
        await until(lambda: till.runs, "one of them to be handled")
        await unwound(stage)
    assert till.runs == 1
    assert till.taken <= till.given_back


class NotedGate(Gate):
    """A gate that notes what it answers to steps that want to begin: deliveries and verdict."""

    answered: list[tuple[int, str]]

    async def decide(
        self, identity: Identity, now: int, batches: Sequence[tuple[int, Sequence[Decision]]]
    ) -> list[list[Answer] | Exception]:
        answers = await super().decide(identity, now, batches)
        for (_, decisions), batch in zip(batches, answers, strict=True):
            pairs = [] if isinstance(batch, Exception) else zip(decisions, batch, strict=True)
            self.answered += [
                (each.head.deliveries, answer.verdict) for each, answer in pairs if each.kind == "begin"
            ]
        return answers


async def test_the_only_worker_takes_up_what_it_left(real_stage: Stage) -> None:
    """Whoever had begun is gone, and its entry as well. The other delivery is in the hands of a worker that let go
    of it: when its lease has run out the same worker handles it.
    """
    stage, till = real_stage, Till("e")
    seat = await Seat.at(stage, "dead")
    await publish(stage, "s1")
    first = await seat.take()
    assert await seat.verdict(Begin(seat.head(first), undoable=True)) is Verdict.RUN
    await stage.call("XACK", first.stream, "payments", first.entry)
    await publish(stage, "s1")
    stage.broker.gate = gate = NotedGate(stage.broker.connection, stage.topology.keys)
    gate.answered = []
    async with stage.running(stage.worker(till.participant(), lease=LEASE)):
        await until(lambda: stage.has_paid("s1"), "the event to be handled")
        await until(stage.is_settled, "nothing to be in anybody's hands")
    assert gate.answered == [(1, "busy"), (2, "run")]
    assert till.runs == 1
