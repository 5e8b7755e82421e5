"""Group commit: decisions that come while a batch is under way make up the next one."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Coroutine, Sequence
from itertools import islice
from typing import Any, TypeAlias

import anyio

from choreo.broker.answers import Answer, Verdict
from choreo.broker.clock import Clock
from choreo.broker.gate import Decision, Gate, Identity
from choreo.broker.patience import Outage, Patience, pause_after
from choreo.errors import BrokerError, BrokerUnavailable, Unsendable
from choreo.runtime.begun import Begun
from choreo.wire.limits import MAX_BATCH, MAX_BATCH_BYTES

logger = logging.getLogger("choreo.runtime")


_REFUSED = Answer(Verdict.BLOCKED, (b"",))


class Asking(ABC):
    """Whoever waits for the gate's answers to decisions, all of one partition and one direction."""

    __slots__ = ("decisions", "gone", "tries")
    decisions: Sequence[Decision]
    """At most ``limits.MAX_BATCH``; they travel in one call."""
    gone: bool
    """Whether nobody waits any more: the deliveries were given up, and must not be committed."""
    tries: int
    """How often the server has refused the decisions, or their partition's batch."""

    @abstractmethod
    def settle(self, answers: Sequence[Answer]) -> None:
        """Take the answers, in the order of the decisions. Of several, those that are ``BLOCKED`` were not
        decided, and must be asked for again one by one."""

    @abstractmethod
    def fail(self, error: Exception) -> None:
        """There are no answers, and nothing was written."""


#: Those that go together, by partition; and what the gate says to each batch.
_Batches: TypeAlias = dict[int, list[Asking]]
_Results: TypeAlias = list[list[Answer] | Exception]


def _take_batch(queue: deque[Asking]) -> list[Asking]:
    """What goes into one call: it bounds for how long the server is busy, and what it has to buffer."""
    if len(queue) == 1:
        return [queue.popleft()]
    batch: list[Asking] = []
    places, room = MAX_BATCH, MAX_BATCH_BYTES
    while queue:
        places -= len(queue[0].decisions)
        room -= sum([each.weight for each in queue[0].decisions])
        if batch and (places < 0 or room < 0):
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
        self._queues: dict[int, deque[Asking]] = {}
        self._aside: list[tuple[float, Asking]] = []
        self._arrived = asyncio.Event()
        #: Batches that were sent already, and what will come of them.
        self._begun: tuple[_Batches, Begun[_Results]] | None = None
        self._busy = False
        self._patience = Patience(logger, "committing", outage)
        self._obstacles = Patience(logger, f"{identity.participant}: committing")

    @property
    def hindered(self) -> bool:
        """Whether the server could not take, or has refused, what was sent last."""
        return bool(self._aside) or self._patience.failing

    def line_up(self, asking: Asking) -> None:
        """Have decisions sent with the next batch of their partition.

        Who asks waits for as long as the server cannot serve, and is told :class:`Unsendable` if they hold
        something that cannot be sent.
        """
        asking.tries = 0
        self._queue(asking)

    def hurry(self) -> None:
        """Send what has lined up, unless a batch is under way or there is something to wait for. Without load
        that is sooner than the committer's own task could wake."""
        idle = not (self._busy or self._begun or self._aside)
        if idle and self._queues and self._gate.connection.at_hand:
            batches = self._take()
            self._begun = batches, Begun(self._decide(batches))

    async def run(self) -> None:
        """Send batches until cancelled; a batch that is under way then is still finished."""
        try:
            while True:
                if self._aside:
                    due = min(due for due, _ in self._aside)
                    with anyio.move_on_after(max(0.0, due - anyio.current_time())):
                        await self._arrived.wait()
                    self._take_up()
                else:
                    await self._arrived.wait()
                self._arrived.clear()
                await self._send()
        finally:
            if self._begun:
                await self._send()

    async def _send(self) -> None:
        batches, begun = self._begun or (self._take(), None)
        self._begun, self._busy = None, True
        with anyio.CancelScope(shield=True):
            await self._flush(batches, begun)
        self._busy = False
        if self._queues:
            self._arrived.set()

    def _queue(self, asking: Asking, *, first: bool = False) -> None:
        """Line up decisions, unless their deliveries were given up meanwhile. Should those have been
        committed before, the redelivery will learn so from the done mark."""
        if asking.gone:
            return
        head = asking.decisions[0].head
        queue = self._queues.get(head.partition)
        if queue is None:
            queue = self._queues[head.partition] = deque()
        # The way back comes first: whoever waits for it waits with money or goods in the air.
        if first or head.back:
            queue.appendleft(asking)
        else:
            queue.append(asking)
        if not self._arrived.is_set():
            self._arrived.set()

    def _take_up(self) -> None:
        """Line up again what was set aside and is due."""
        if self._aside:
            now = anyio.current_time()
            due_now = [asking for due, asking in self._aside if due <= now]
            self._aside = [(due, asking) for due, asking in self._aside if due > now]
            for asking in due_now:
                self._queue(asking)

    def _take(self) -> _Batches:
        batches = {}
        for partition, queue in list(self._queues.items()):
            batches[partition] = _take_batch(queue)
            if not queue:
                del self._queues[partition]
        return batches

    def _decide(self, batches: _Batches) -> Coroutine[Any, Any, _Results]:
        return self._gate.decide(
            self._identity,
            self._clock(),
            [
                (partition, [decision for asking in batch for decision in asking.decisions])
                for partition, batch in batches.items()
            ],
        )

    async def _flush(self, batches: _Batches, begun: Begun[_Results] | None = None) -> None:
        if not batches:
            return
        try:
            results = await (begun or self._decide(batches))
        except Unsendable as error:
            await self._single_out(batches, error)
        except BrokerError as error:
            for batch in batches.values():
                for asking in reversed(batch):
                    self._queue(asking, first=True)
            if not isinstance(error, BrokerUnavailable):
                logger.error("%s: %s", self._identity.participant, error)
            await self._patience.pause(error)
        else:
            for batch, result in zip(batches.values(), results, strict=True):
                self._hand_out(batch, result)
            if not self._aside:
                self._patience.succeeded()
                self._obstacles.succeeded()

    async def _single_out(self, batches: _Batches, error: Unsendable) -> None:
        """Something cannot be sent. That is its own fault: the others of its batch go on."""
        every = [(partition, asking) for partition, batch in batches.items() for asking in batch]
        if len(every) > 1:
            for partition, asking in every:
                await self._flush({partition: [asking]})
        else:
            every[0][1].fail(error)

    def _hand_out(self, batch: list[Asking], result: list[Answer] | Exception) -> None:
        """Give everyone an answer; set aside what the server has refused."""
        if isinstance(result, Exception):
            for asking in batch:
                if len(asking.decisions) > 1 and not isinstance(result, BrokerUnavailable):
                    # One of them may be what the server refuses: each shall try, and fail, for itself.
                    asking.settle([_REFUSED] * len(asking.decisions))
                else:
                    self._set_aside(asking, result)
            return
        answers = iter(result)
        for asking in batch:
            mine = list(islice(answers, len(asking.decisions)))
            if len(mine) == 1 and mine[0].verdict is Verdict.BLOCKED:
                key = mine[0].rest[0].decode()
                self._set_aside(asking, f"{key} has the wrong type, or is full; delete or rename it")
            else:
                asking.settle(mine)

    def _set_aside(self, asking: Asking, why: BaseException | str) -> None:
        (self._patience if isinstance(why, BrokerUnavailable) else self._obstacles).failed(why)
        self._aside.append((anyio.current_time() + pause_after(asking.tries), asking))
        asking.tries += 1
