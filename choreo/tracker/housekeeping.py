"""What the tracker puts away between its reads: entries, ended sagas and letters that are over."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import anyio

from choreo.broker.broker import Broker
from choreo.broker.clock import Clock
from choreo.broker.projections import Progress
from choreo.broker.retention import Keeping, Trimmed, Walk
from choreo.errors import BrokerRefused
from choreo.tracker.damage import Damage
from choreo.tracker.projection import Projector
from choreo.tracker.retention import Forgetting
from choreo.wire.topology import Topology

logger = logging.getLogger("choreo.tracker")

#: Seconds in which every partition is visited once, if there are not too many of them.
_ROUND = 2.0
#: Seconds between two visits at least.
_SHORTEST_PAUSE = 0.02
#: Seconds of visits in one turn, after which the tracker reads on.
_TURN = 0.05
#: Seconds after which it is asked again which participants there are.
_CENSUS = 60.0


class Housekeeping:
    """Visits one partition after the other, a bounded piece of work each time.

    Whatever it does is safe to be done twice, and to be interrupted anywhere: the next visit finds what
    is left to do.
    """

    def __init__(self, topology: Topology, broker: Broker, clock: Clock) -> None:
        self._topology = topology
        self._broker = broker
        self._clock = clock
        self._forgetting = Forgetting(topology, broker)
        self._damage = Damage(topology, broker, clock)
        self._pause = max(_SHORTEST_PAUSE, _ROUND / topology.partitions)
        self._next = 0
        self._walks: dict[int, Walk] = {}
        self._refused: set[int] = set()
        self._due: float | None = None
        self._participants: Sequence[str] = ()
        self._asked = -_CENSUS

    async def tend(self, projectors: Sequence[Projector], progress: Mapping[int, Progress]) -> bool:
        """Visit partitions whose turn it is; only such where this tracker is at work.

        Returns whether there is more to do at once.
        """
        began = anyio.current_time()
        if self._due is None:  # who has just come reads first
            self._due = began + self._pause
        more = False
        while anyio.current_time() >= self._due and anyio.current_time() - began < _TURN:
            projector = projectors[self._next % len(projectors)]
            known = progress.get(projector.partition)
            unfinished = known is not None and await self._try(projector, known)
            more = more or unfinished
            self._due = max(self._due + self._pause, anyio.current_time() - _ROUND)
            if unfinished:
                self._due = anyio.current_time()
            self._next += 1
        return more

    async def _try(self, projector: Projector, progress: Progress) -> bool:
        try:
            more = await self.visit(projector, progress)
        except BrokerRefused as error:
            if projector.partition not in self._refused:
                logger.error("partition %d cannot be tidied up: %s", projector.partition, error)
            self._refused.add(projector.partition)
            return False
        self._refused.discard(projector.partition)
        return more

    async def visit(self, projector: Projector, progress: Progress) -> bool:
        """Put away what is over in one partition. Returns whether there is more to do at once."""
        trimmed = await self.trim(projector)
        await self._bury(projector.partition, trimmed.horizon)
        damaged = await self._damage.visit(projector)
        more = await self._forgetting.visit(projector, progress, self._clock(), trimmed.horizon)
        return more or damaged or trimmed.more

    async def _bury(self, partition: int, horizon: tuple[int, int]) -> None:
        """Delete a page of letters that were settled long ago, and that no entry can bring back."""
        before = min(self._clock() - _ms(self._topology.keep), horizon[0])
        walk = self._walks.get(partition, Walk())
        self._walks[partition] = await self._broker.retention.bury(partition, before, walk)

    async def trim(self, projector: Projector) -> Trimmed:
        """Trim the streams of one partition once."""
        now, topology = self._clock(), self._topology
        partition = projector.partition
        streams = [Keeping(projector.journal, now - _ms(topology.keep), True)]
        for stream, place in projector.topics.items():
            streams.append(Keeping(stream, now - _ms(topology.keep_of_stream(place.topic)), True))
        for participant in await self._find_participants():
            inbox = topology.keys.inbox(partition, participant)
            streams.append(Keeping(inbox, now - _ms(topology.keep_of_inboxes), False))
        return await self._broker.retention.trim(partition, streams)

    async def _find_participants(self) -> Sequence[str]:
        """Everybody who ever took part here, declared or not: they have inboxes."""
        if anyio.current_time() >= self._asked + _CENSUS:
            known = await self._broker.meta.contracts()
            self._participants = sorted({*known, *self._topology.participants})
            self._asked = anyio.current_time()
        return self._participants


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
