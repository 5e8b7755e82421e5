"""Decisions that leave with the turn in which they are lined up, before the committer's task has woken."""

from __future__ import annotations

import logging
from collections.abc import Coroutine, Sequence
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from retry_kit import NOW, HandClock, Stage

from choreo.broker.answers import Answer, Verdict
from choreo.broker.gate import Decision, Done, Gate, Head, Identity
from choreo.broker.patience import Outage
from choreo.errors import BrokerUnavailable
from choreo.runtime.begun import Begun
from choreo.runtime.committer import Asking, Committer

pytestmark = pytest.mark.anyio
STREAM = "{t:0}:stream:orders"


class Waiting(Asking):
    """Somebody who waits for the answer to a decision about a delivery that nobody holds: it is stale."""

    def __init__(self, number: int) -> None:
        head = Head(
            partition=0, stream=STREAM, entry=f"{number + 1}-0", deliveries=1, saga_id=f"s{number}",
            saga_type="order", step="charge", event="e1", type="Placed", token=f"t{number}", began=NOW,
        )  # fmt: skip
        self.decisions = [Done(head)]
        self.gone = False
        self.verdicts: list[Verdict] = []
        self.settled = anyio.Event()

    def settle(self, answers: Sequence[Answer]) -> None:
        self.verdicts += [each.verdict for each in answers]
        self.settled.set()

    def fail(self, error: Exception) -> None:
        raise error


class LoggedGate(Gate):
    """A gate that notes how many decisions came in each request; ``lost``: requests that fail at once."""

    requests: list[int]
    lost: int = 0

    async def decide(
        self, identity: Identity, now: int, batches: Sequence[tuple[int, Sequence[Decision]]]
    ) -> list[list[Answer] | Exception]:
        self.requests.append(sum(len(batch) for _, batch in batches))
        if self.lost:
            self.lost -= 1
            raise BrokerUnavailable("lost")
        return await super().decide(identity, now, batches)


async def gate_of(stage: Stage) -> LoggedGate:
    gate = LoggedGate(stage.broker.connection, stage.topology.keys)
    gate.requests = []
    await stage.broker.groups.ensure([STREAM], "payments")
    await stage.broker.connection.call("PING")  # so that there is a connection
    return gate


def committer_of(gate: Gate) -> Committer:
    identity = Identity("payments", "one")
    return Committer(gate, identity, HandClock(), Outage(logging.getLogger("choreo.test"), "payments"))


async def test_what_was_hurried_is_sent_before_any_task_wakes(real_stage: Stage) -> None:
    """It leaves at once; what lines up meanwhile leaves when the answers are there."""
    gate = await gate_of(real_stage)
    committer, waiting = committer_of(gate), [Waiting(number) for number in range(3)]
    committer.line_up(waiting[0])
    committer.line_up(waiting[1])
    committer.hurry()
    assert gate.requests == [2]
    committer.line_up(waiting[2])
    committer.hurry()
    assert gate.requests == [2]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(committer.run)
        for each in waiting:
            await each.settled.wait()
        tasks.cancel_scope.cancel()
    assert gate.requests == [2, 1]
    assert [each.verdicts for each in waiting] == [[Verdict.STALE]] * 3


async def test_what_was_hurried_is_finished_when_the_worker_ends(real_stage: Stage) -> None:
    """Also if the committer's task was cancelled before it could take it up."""
    gate = await gate_of(real_stage)
    committer, waiting = committer_of(gate), Waiting(0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(committer.run)
        await anyio.wait_all_tasks_blocked()
        committer.line_up(waiting)
        committer.hurry()
        assert gate.requests == [1]
        tasks.cancel_scope.cancel()
    assert waiting.verdicts == [Verdict.STALE]


async def test_a_request_that_fails_at_once_is_repeated(real_stage: Stage) -> None:
    """Whoever hurries is not told; the committer pauses, and sends it again."""
    gate = await gate_of(real_stage)
    gate.lost = 1
    committer, waiting = committer_of(gate), Waiting(0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(committer.run)
        await anyio.wait_all_tasks_blocked()
        committer.line_up(waiting)
        committer.hurry()
        await waiting.settled.wait()
        tasks.cancel_scope.cancel()
    assert gate.requests == [1, 1]
    assert waiting.verdicts == [Verdict.STALE]


async def test_nothing_is_hurried_where_something_must_be_waited_for(fake_stage: Stage) -> None:
    """Without a connection at hand it is the committer's task that sends."""
    gate = LoggedGate(fake_stage.broker.connection, fake_stage.topology.keys)
    gate.requests = []
    committer = committer_of(gate)
    committer.line_up(Waiting(0))
    committer.hurry()
    assert gate.requests == []


# -- coroutines that have begun ------------------------------------------------------------------------


async def doubled(number: int, *, waits: bool) -> int:
    if waits:
        await anyio.lowlevel.checkpoint()
    if number < 0:
        raise ValueError(number)
    return 2 * number


@pytest.mark.parametrize("waits", [False, True])
async def test_it_is_awaited_as_if_it_had_not_begun(waits: bool) -> None:
    """What it returns, and what it raises, is for the one that awaits it."""
    good: Coroutine[Any, Any, int] = doubled(4, waits=waits)
    assert await Begun(good) == 8
    bad = Begun(doubled(-1, waits=waits))
    with pytest.raises(ValueError, match="-1"):
        await bad
