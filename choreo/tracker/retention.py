"""Which ended sagas may be forgotten."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from choreo.broker.broker import Broker
from choreo.broker.projections import Progress
from choreo.broker.retention import END, Ended, order_of
from choreo.model.facts import Fact, Kind, decode_fact, decode_view
from choreo.model.saga import FINAL
from choreo.tracker.projection import Projector
from choreo.wire.envelope import refusal_id
from choreo.wire.limits import MAX_FORGOTTEN
from choreo.wire.topology import Topology

_Order = tuple[int, int]
#: What the id of a fact that tells of a planned event begins with; the event's own id follows.
PLANNED = "planned:"

@dataclass(slots=True)
class Forgetting:
    """Finds sagas that ended long enough ago, a page at a time, and has them forgotten.

    A saga goes when it ended longer ago than its type is kept, and when every stream of its partition
    has been trimmed beyond its last entry: as long as an entry can be delivered again, the done marks
    must be there.
    """

    topology: Topology
    broker: Broker
    _skip: dict[tuple[int, str, str], int] = field(default_factory=dict)
    """By partition, type and state: sagas at the head of the listing that could not go."""

    async def visit(self, projector: Projector, progress: Progress, now: int, horizon: _Order) -> bool:
        """Forget a page of sagas of one partition. Returns whether there may be more at once."""
        partition = projector.partition
        types = [*self.topology.sagas, ""]
        listings = [(saga_type, state) for saga_type in types for state in FINAL]
        bounds = [self._ended_before(saga_type, now, horizon) for saga_type, _ in listings]
        skip = [self._skip.get((partition, *listing), 0) for listing in listings]
        pages = await self.broker.retention.listed(partition, listings, bounds, skip)
        more = False
        for listing, until, page in zip(listings, bounds, pages, strict=True):
            if not page:
                self._skip.pop((partition, *listing), None)
                continue
            gone = await self._forget(projector, progress, page, until, horizon)
            if gone is None:
                return False
            at = (partition, *listing)
            full = len(page) == MAX_FORGOTTEN
            self._skip[at] = self._skip.get(at, 0) + len(page) - gone if full else 0
            more = more or (full and gone > 0)
        return more

    def _ended_before(self, saga_type: str, now: int, horizon: _Order) -> int:
        latest = now - round(self.topology.keep_of_saga(saga_type) * 1000)
        return latest if horizon == END else min(latest, horizon[0])

    async def _forget(
        self, projector: Projector, progress: Progress, page: Sequence[str], until: int, horizon: _Order
    ) -> int | None:
        """How many of these sagas went; ``None`` if this tracker does not know how things stand."""
        packed = await self.broker.projections.views(page)
        views = [decode_view(each) for each in packed if each]
        over = [view for view in views if view.completed is not None and view.completed <= until]
        timelines = await self.broker.projections.load(projector.partition, [view.id for view in over])
        ended = []
        for view, timeline in zip(over, timelines, strict=True):
            facts = [decode_fact(each) for each in timeline]
            planned = _planned(facts)
            keep = round(self.topology.keep_of_saga(view.type) * 1000)
            last = max([order_of(fact.entry) for fact in facts] + [(each.due + keep, 0) for each in planned])
            if last < horizon and all(each.due <= until for each in planned):
                lines = [f"{each.handler}:{each.id.removeprefix(PLANNED)}" for each in planned]
                ended.append(Ended(view.id, view.type, view.status, list(_refusals(facts)), lines))
        if not ended:
            return 0
        forgotten = await self.broker.retention.forget(projector.partition, progress.version, ended)
        if forgotten is None:
            return None
        progress.version = forgotten.version
        projector.drop(forgotten.gone)
        return len(forgotten.gone)


def _refusals(facts: Iterable[Fact]) -> Iterable[str]:
    """The ids of the letters of entries that named a saga and were refused; its record has the others."""
    for fact in facts:
        if fact.kind is Kind.REFUSED:
            stream = fact.id.removeprefix("refused:").removesuffix(f":{fact.entry}")
            yield refusal_id(fact.detail, stream, fact.entry)


def _planned(facts: Sequence[Fact]) -> list[Fact]:
    """The events that were planned and have not been published, as far as is known.

    Those of the way forward are void when their saga unwinds; then they are waited for in vain, but no
    longer than until they would have been due.
    """
    published = {fact.id for fact in facts if fact.kind is Kind.EVENT}
    return [
        fact for fact in facts if fact.kind is Kind.PLANNED and fact.id.removeprefix(PLANNED) not in published
    ]
