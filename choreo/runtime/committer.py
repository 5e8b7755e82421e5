"""Group commit: decisions that come while a batch is under way make up the next one."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass

import anyio

from choreo.broker.clock import Clock
from choreo.broker.gate import Answer, Decision, Gate, Identity, Verdict
from choreo.broker.patience import Patience
from choreo.errors import BrokerError, BrokerUnavailable, Unsendable
from choreo.wire.limits import MAX_BATCH

logger = logging.getLogger("choreo.runtime")


@dataclass(slots=True)
class _Waiting:
    """A decision, and whoever waits for its answer."""

    decision: Decision
    answer: asyncio.Future[Answer]


class Committer:
    """Takes decisions from many deliveries to the gate, a batch per partition and round trip.

    Without load a decision leaves at once; under load batches form by themselves. A batch whose
    outcome is not known is sent again, with the same tokens, until the answer is definite.
    """

    def __init__(self, gate: Gate, identity: Identity, clock: Clock) -> None:
        self._gate = gate
        self._identity = identity
        self._clock = clock
        self._queues: dict[int, deque[_Waiting]] = {}
        self._arrived = asyncio.Event()
        self._patience = Patience(logger, f"{identity.participant}: committing")

    async def decide(self, decision: Decision) -> Answer:
        """The gate's answer to a decision. Waits for as long as the server cannot serve."""
        waiting = _Waiting(decision, asyncio.get_running_loop().create_future())
        self._queues.setdefault(decision.head.partition, deque()).append(waiting)
        self._arrived.set()
        return await waiting.answer

    async def run(self) -> None:
        """Send batches until cancelled; a batch that is under way then is still finished."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            with anyio.CancelScope(shield=True):
                await self._flush(self._take())

    def _take(self) -> dict[int, list[_Waiting]]:
        batches = {}
        for partition, queue in list(self._queues.items()):
            batches[partition] = [queue.popleft() for _ in range(min(len(queue), MAX_BATCH))]
            if queue:
                self._arrived.set()
            else:
                del self._queues[partition]
        return {partition: batch for partition, batch in batches.items() if batch}

    async def _flush(self, batches: dict[int, list[_Waiting]]) -> None:
        if not batches:
            return
        order = list(batches)
        try:
            results = await self._gate.decide(
                self._identity,
                self._clock(),
                [(partition, [each.decision for each in batches[partition]]) for partition in order],
            )
        except Unsendable as error:
            await self._single_out(batches, error)
            return
        except BrokerError as error:
            results = [error] * len(order)
        trouble: BaseException | str | None = None
        for partition, result in zip(order, results, strict=True):
            trouble = self._deliver(partition, batches[partition], result) or trouble
        if trouble is None:
            self._patience.succeeded()
        else:
            if not isinstance(trouble, BrokerUnavailable):
                logger.error("%s: %s", self._identity.participant, trouble)
            await self._patience.pause(trouble)
            self._arrived.set()

    async def _single_out(self, batches: dict[int, list[_Waiting]], error: Unsendable) -> None:
        """One decision cannot be sent. That is its own fault: the others of its batch go on."""
        every = [(partition, waiting) for partition, batch in batches.items() for waiting in batch]
        if len(every) > 1:
            for partition, waiting in every:
                await self._flush({partition: [waiting]})
        elif not every[0][1].answer.done():
            every[0][1].answer.set_exception(error)

    def _deliver(
        self, partition: int, batch: list[_Waiting], result: list[Answer] | Exception
    ) -> BaseException | str | None:
        """Hand out the answers of a batch; put back what is still open. Returns why, if anything is."""
        if isinstance(result, Exception):
            self._put_back(partition, batch)
            return result
        blocked = []
        trouble = None
        for waiting, answer in zip(batch, result, strict=True):
            if answer.verdict is Verdict.BLOCKED:
                blocked.append(waiting)
                trouble = f"{answer.rest[0].decode()} has the wrong type, or is full; delete or rename it"
            elif not waiting.answer.done():
                waiting.answer.set_result(answer)
        self._put_back(partition, blocked)
        return trouble

    def _put_back(self, partition: int, batch: list[_Waiting]) -> None:
        # A delivery whose handling was given up meanwhile must not be committed by a later batch;
        # one that was under way may have been, and its redelivery will learn so from the done mark.
        still_wanted = [each for each in batch if not each.answer.done()]
        if still_wanted:
            self._queues.setdefault(partition, deque()).extendleft(reversed(still_wanted))
