"""Watching deadlines: a saga that has not got so far in time is made to unwind.

Which deadline of a saga is due next follows from its facts, and is kept with its view. What has passed is
fired by one script, which looks once more whether the saga still runs, and whether what is awaited lies
unread in the streams. So it does not matter how many trackers there are, or when they die.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from functools import partial

from choreo.broker.broker import Broker
from choreo.broker.clock import Clock
from choreo.broker.expiry import Fate, Overdue
from choreo.broker.patience import Patience
from choreo.broker.projections import Batch
from choreo.model.event import SagaTimedOut
from choreo.tracker.projection import Pending, Projector
from choreo.wire.envelope import derive_id, encode_data
from choreo.wire.topology import Topology

logger = logging.getLogger("choreo.tracker")

#: Sagas that one script lets time out at most: events wait no longer than that takes.
_AT_ONCE = 50
#: Milliseconds until the next look at sagas that are due and could not time out: because the tracker has
#: something to read first, and because a key is in the way.
_AGAIN, _AGAIN_IF_BLOCKED = 100, 1000


class Watch:
    """Knows when to look for deadlines that have passed, and lets them pass."""

    def __init__(self, topology: Topology, broker: Broker, clock: Clock) -> None:
        self._topology = topology
        self._broker = broker
        self._clock = clock
        #: Partition -> when to look (ms since the epoch); at once where nothing is known.
        self._next: defaultdict[int, int | None] = defaultdict(int)
        #: Partition -> how many sagas that are due, but could not time out, are passed over.
        self._passed: defaultdict[int, int] = defaultdict(int)
        self._patience = Patience(logger, "tracker: deadlines")

    def learn(self, batch: Batch) -> None:
        """Take notice of deadlines that were written just now."""
        due = min((update.due for update in batch.updates if update.due is not None), default=None)
        known = self._next[batch.partition]
        if due is not None and (known is None or due < known):
            self._next[batch.partition] = due

    def forget(self, partition: int) -> None:
        """Somebody else may have written: look at the next opportunity."""
        self._next.pop(partition, None)
        self._passed.pop(partition, None)

    def pause(self, partition: int) -> float:
        """Seconds until a deadline of this partition may pass."""
        due = self._next[partition]
        return float("inf") if due is None else max(0.0, (due - self._clock()) / 1000)

    async def expire(self, projector: Projector, version: int) -> int | None:
        """Let the first of the deadlines that have passed pass. Returns how many sagas timed out.

        ``version`` is that of the projections that ``projector`` knows. ``None`` if they have changed
        since: somebody else is at work.

        Raises:
            BrokerUnavailable: if it is not known what happened. Trying it again is safe.
            BrokerRefused: if a key of the tracker's has the wrong type.
        """
        partition, now = projector.partition, self._clock()
        due = self._next[partition]
        if due is None or due > now:
            return 0
        passed = self._passed[partition]
        saga_ids, following = await self._broker.expiry.look(partition, now, passed, _AT_ONCE)
        fates: list[Fate] = []
        if saga_ids:
            load = partial(self._broker.projections.load, partition)
            pending = await projector.pending(saga_ids, load)
            overdue = [self._overdue(saga_id, each) for saga_id, each in pending.items()]
            verdicts = await self._broker.expiry.expire(partition, version, now, overdue)
            if verdicts is None:
                return None
            fates = [verdict.fate for verdict in verdicts]
            self._report([verdict.obstacle for verdict in verdicts if verdict.fate is Fate.BLOCKED])
        self._plan(partition, now, following, fates)
        fired = fates.count(Fate.FIRED)
        if fired:
            logger.info("partition %d: %d sagas timed out", partition, fired)
        return fired

    def _plan(self, partition: int, now: int, following: int | None, fates: list[Fate]) -> None:
        """When to look next, and what to pass over then."""
        staying = sum(fate.stays for fate in fates)
        if len(fates) == _AT_ONCE:
            self._passed[partition] += staying
            self._next[partition] = now
            return
        if staying or self._passed[partition]:
            again = now + (_AGAIN_IF_BLOCKED if Fate.BLOCKED in fates else _AGAIN)
            following = again if following is None else min(following, again)
        self._passed[partition] = 0
        self._next[partition] = following

    def _report(self, obstacles: list[str]) -> None:
        if obstacles:
            what = "it has the wrong type, or nothing can be added to it any more; delete or rename it"
            self._patience.failed(f"{obstacles[0]} is in the way: {what}")
        else:
            self._patience.succeeded()

    def _overdue(self, saga_id: str, pending: Pending) -> Overdue:
        saga_type, due = pending.saga_type, pending.due
        if due is None:
            return Overdue(saga_id, saga_type, None, pending.fresh, (), "", b"")
        timed_out = SagaTimedOut(saga_type=saga_type, deadline=due.name, due=due.at)
        return Overdue(
            saga_id, saga_type, due.at, pending.fresh,
            [(self._topology.stream_of(event_type), event_type) for event_type in due.awaited],
            derive_id("deadline", saga_id, due.name, str(due.at)), encode_data(timed_out),
        )  # fmt: skip
