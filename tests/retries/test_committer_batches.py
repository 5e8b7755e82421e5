"""How decisions are grouped into requests."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import anyio
import pytest
from retry_kit import NOW, HandClock, Stage

from choreo.broker.answers import Answer, Verdict
from choreo.broker.gate import Decision, Done, Gate, Head, Identity
from choreo.broker.patience import Outage
from choreo.runtime.committer import Committer
from choreo.runtime.lives import Lives, ask
from choreo.wire.limits import MAX_BATCH, MAX_BATCH_BYTES, MAX_DATA_BYTES

pytestmark = pytest.mark.anyio


class WeighedGate(Gate):
    """A gate that notes what comes in one request."""

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage.broker.connection, stage.topology.keys)
        self.requests: list[list[Decision]] = []

    async def decide(
        self, identity: Identity, now: int, batches: Sequence[tuple[int, Sequence[Decision]]]
    ) -> list[list[Answer] | Exception]:
        self.requests += [list(batch) for _, batch in batches]
        return await super().decide(identity, now, batches)


def done(number: int, size: int, *, back: bool = False) -> Done:
    """A decision about a delivery that nobody holds; the gate answers that it is stale."""
    head = Head(
        partition=0, stream="{t:0}:stream:orders", entry=f"{number + 1}-0", deliveries=1, saga_id=f"s{number}",
        saga_type="order", step="charge", event="e1", type="Placed", token=f"t{number}", back=back, began=NOW,
    )  # fmt: skip
    return Done(head, keep=True, input=b"", result=b"x" * size)


async def decide_all(stage: Stage, decisions: Sequence[Decision]) -> list[list[Decision]]:
    """Have all of them decided at the same moment. Returns the requests."""
    gate = WeighedGate(stage)
    identity = Identity("payments", "one")
    await stage.broker.groups.ensure(["{t:0}:stream:orders"], "payments")
    committer = Committer(gate, identity, HandClock(), Outage(logging.getLogger("choreo.test"), "payments"))
    verdicts: list[Verdict] = []
    decided = anyio.Event()

    async def decide(decision: Decision) -> None:
        verdicts.append((await ask(decision)).verdict)
        if len(verdicts) == len(decisions):
            decided.set()

    async with anyio.create_task_group() as tasks:
        lives = Lives(tasks, committer)
        for decision in decisions:
            lives.start(decide(decision))
        tasks.start_soon(lives.run)
        await anyio.wait_all_tasks_blocked()
        tasks.start_soon(committer.run)
        await decided.wait()
        tasks.cancel_scope.cancel()
    assert verdicts == [Verdict.STALE] * len(decisions)
    return gate.requests


async def test_small_ones_go_together(fake_stage: Stage) -> None:
    """As many as the server may be busy with at once."""
    requests = await decide_all(fake_stage, [done(number, 10) for number in range(MAX_BATCH + 50)])
    assert [len(request) for request in requests] == [MAX_BATCH, 50]


async def test_large_ones_do_not(fake_stage: Stage) -> None:
    """A request has a megabyte, or one decision."""
    requests = await decide_all(fake_stage, [done(number, MAX_DATA_BYTES) for number in range(20)])
    assert all(sum(each.weight for each in request) <= MAX_BATCH_BYTES for request in requests)
    assert {len(request) for request in requests} >= {3}
    alone = await decide_all(fake_stage, [done(number, 2 * MAX_BATCH_BYTES) for number in range(2)])
    assert [len(request) for request in alone] == [1, 1]


async def test_the_way_back_goes_first(fake_stage: Stage) -> None:
    """What unwinds a saga is not behind what was decided before."""
    decisions = [done(number, 10, back=number == MAX_BATCH + 20) for number in range(MAX_BATCH + 50)]
    requests = await decide_all(fake_stage, decisions)
    assert requests[0][0].head.back
