"""Group commit: decisions that come while a batch is under way make up the next one."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import anyio

from choreo.broker.clock import Clock
from choreo.broker.gate import Answer, Decision, Gate, Identity, Verdict
from choreo.broker.patience import Outage, Patience, pause_after
from choreo.errors import BrokerError, BrokerUnavailable, Unsendable
from choreo.runtime.lives import Pending, driven
from choreo.wire.limits import MAX_BATCH, MAX_BATCH_BYTES

logger = logging.getLogger("choreo.runtime")


@dataclass(slots=True)
class _Waiting:
    """A decision, and whoever waits for its answer."""

    decision: Decision
    answer: Pending[Answer]
    tries: int = 0
    """How often the server has refused it alone, or its partition's batch."""


def _take_batch(queue: deque[_Waiting]) -> list[_Waiting]:
    """What goes into one call: it bounds for how long the server is busy, and what it has to buffer."""
    batch: list[_Waiting] = []
    room = MAX_BATCH_BYTES
    while queue and len(batch) < MAX_BATCH:
        room -= queue[0].decision.weight
        if batch and room < 0:
            break
        batch.append(queue.popleft())
    return batch


class Committer:
    """Takes decisions from many deliveries to the gate, a batch per partition and round trip.

    Without load a decision leaves at once; under load batches form by themselves. A batch whose
    outcome is not known is sent again, with the same tokens, until the answer is definite. What the
    server refuses (a key is in the way, a partition cannot be written) is set aside and tried again
    later, while everything else goes on.
    """

    def __init__(self, gate: Gate, identity: Identity, clock: Clock, outage: Outage) -> None:
        self._gate = gate
        self._identity = identity
        self._clock = clock
        self._queues: dict[int, deque[_Waiting]] = {}
        self._aside: list[tuple[float, _Waiting]] = []
        self._arrived = asyncio.Event()
        self._patience = Patience(logger, "committing", outage)
        self._obstacles = Patience(logger, f"{identity.participant}: committing")

    async def decide(self, decision: Decision) -> Answer:
        """The gate's answer to a decision. Waits for as long as the server cannot serve.

        Raises:
            Unsendable: if the decision holds something that cannot be sent.
        """
        waiting = _Waiting(decision, Pending())
        self._queue([waiting])
        if driven():
            return await waiting.answer
        while True:
            try:
                return await asyncio.shield(waiting.answer)
            except asyncio.CancelledError:
                if anyio.current_effective_deadline() == -math.inf or waiting.answer.cancelled():
                    waiting.answer.cancel()
                    raise
                # A handler has cancelled its own task, and only now it comes: that is not for us.
                task = asyncio.current_task()
                if task is not None:
                    task.uncancel()

    async def run(self) -> None:
        """Send batches until cancelled; a batch that is under way then is still finished."""
        while True:
            due = min((due for due, _ in self._aside), default=None)
            with anyio.move_on_after(None if due is None else max(0.0, due - anyio.current_time())):
                await self._arrived.wait()
            self._arrived.clear()
            self._take_up()
            with anyio.CancelScope(shield=True):
                await self._flush(self._take())

    def _queue(self, waitings: Sequence[_Waiting], *, first: bool = False) -> None:
        """Line up decisions. One whose delivery was given up meanwhile must not be committed any more;
        should it have been, the redelivery will learn so from the done mark."""
        for waiting in reversed(waitings) if first else waitings:
            if not waiting.answer.done():
                head = waiting.decision.head
                queue = self._queues.setdefault(head.partition, deque())
                # The way back comes first: whoever waits for it waits with money or goods in the air.
                (queue.appendleft if first or head.back else queue.append)(waiting)
                if not self._arrived.is_set():
                    self._arrived.set()

    def _take_up(self) -> None:
        """Line up again what was set aside and is due."""
        if self._aside:
            now = anyio.current_time()
            self._queue([waiting for due, waiting in self._aside if due <= now])
            self._aside = [(due, waiting) for due, waiting in self._aside if due > now]

    def _take(self) -> dict[int, list[_Waiting]]:
        batches = {}
        for partition, queue in list(self._queues.items()):
            batches[partition] = _take_batch(queue)
            if queue:
                self._arrived.set()
            else:
                del self._queues[partition]
        return batches

    async def _flush(self, batches: dict[int, list[_Waiting]]) -> None:
        if not batches:
            return
        try:
            results = await self._gate.decide(
                self._identity,
                self._clock(),
                [(partition, [each.decision for each in batch]) for partition, batch in batches.items()],
            )
        except Unsendable as error:
            await self._single_out(batches, error)
        except BrokerError as error:
            for batch in batches.values():
                self._queue(batch, first=True)
            if not isinstance(error, BrokerUnavailable):
                logger.error("%s: %s", self._identity.participant, error)
            await self._patience.pause(error)
        else:
            for batch, result in zip(batches.values(), results, strict=True):
                self._hand_out(batch, result)
            if not self._aside:
                self._patience.succeeded()
                self._obstacles.succeeded()

    async def _single_out(self, batches: dict[int, list[_Waiting]], error: Unsendable) -> None:
        """One decision cannot be sent. That is its own fault: the others of its batch go on."""
        every = [(partition, waiting) for partition, batch in batches.items() for waiting in batch]
        if len(every) > 1:
            for partition, waiting in every:
                await self._flush({partition: [waiting]})
        else:
            every[0][1].answer.fail(error)

    def _hand_out(self, batch: list[_Waiting], result: list[Answer] | Exception) -> None:
        """Give everyone an answer; set aside what the server has refused."""
        if isinstance(result, Exception):
            for waiting in batch:
                self._set_aside(waiting, result)
            return
        for waiting, answer in zip(batch, result, strict=True):
            if answer.verdict is Verdict.BLOCKED:
                key = answer.rest[0].decode()
                self._set_aside(waiting, f"{key} has the wrong type, or is full; delete or rename it")
            else:
                waiting.answer.settle(answer)

    def _set_aside(self, waiting: _Waiting, why: BaseException | str) -> None:
        (self._patience if isinstance(why, BrokerUnavailable) else self._obstacles).failed(why)
        self._aside.append((anyio.current_time() + pause_after(waiting.tries), waiting))
        waiting.tries += 1
