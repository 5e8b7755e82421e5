"""Which sagas lost an entry that somebody deleted before it was handled."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from choreo.broker.broker import Broker
from choreo.broker.clock import Clock
from choreo.broker.retention import Lost
from choreo.model.facts import Fact, decode_fact
from choreo.model.saga import State
from choreo.tracker.projection import Projector
from choreo.wire.facts import time_of
from choreo.wire.topology import Topology

logger = logging.getLogger("choreo.tracker")

#: How much later than its entries a saga may seem to begin, because clocks differ (ms).
_CLOCKS_DIFFER = 86_400_000


@dataclass(slots=True)
class Damage:
    """Finds the sagas of lost entries, and has each told what it lost.

    Only the tracker can know: what the entry said is gone, but if it was projected before it was deleted,
    a fact names it. A letter whose saga cannot be found stays as it is.
    """

    topology: Topology
    broker: Broker
    clock: Clock
    _seen: dict[int, str] = field(default_factory=dict)
    """Partition -> the last dead letter that was looked at."""

    async def visit(self, projector: Projector) -> bool:
        """Look at a page of dead letters of one partition. Returns whether there may be more at once."""
        partition = projector.partition
        page = await self.broker.retention.lost(partition, self._seen.get(partition, "-"))
        for lost in page.letters:
            found = await self._find(projector, lost)
            if found is None:
                logger.error("entry %s of %s is lost; its saga is not known", lost.entry, lost.stream)
                continue
            saga_id, fact = found
            what = f"{fact.type} ({lost.entry} of {lost.stream})"
            note = f"{what} was deleted before {lost.participant} handled it"
            if await self.broker.retention.tell_lost(partition, saga_id, self.clock(), lost, fact, note):
                logger.error("saga %r is damaged: %s", saga_id, note)
        self._seen[partition] = page.last
        return page.full

    async def _find(self, projector: Projector, lost: Lost) -> tuple[str, Fact] | None:
        """The saga of an entry, and the fact that it told."""
        place = projector.topics.get(lost.stream)
        if place is None:
            return None
        found = projector.find(place.topic, lost.entry)
        return found or await self._search(projector, place.topic, lost.entry)

    async def _search(self, projector: Projector, topic: str, entry: str) -> tuple[str, Fact] | None:
        """Look through the sagas that began last before the entry; those that have not ended first."""
        until = time_of(entry) + _CLOCKS_DIFFER
        types = [*self.topology.sagas, ""]
        for state in (State.RUNNING, State.COMPENSATING, State.FAILED, State.COMPLETED):
            listings = [(saga_type, state) for saga_type in types]
            for page in await self.broker.retention.newest(projector.partition, listings, until):
                timelines = await self.broker.projections.load(projector.partition, page)
                for saga_id, timeline in zip(page, timelines, strict=True):
                    for fact in map(decode_fact, timeline):
                        if fact.entry == entry and self.topology.routes.get(fact.type) == topic:
                            return saga_id, fact
        return None
