"""Asking the tracker's projections: one view, one timeline, or a list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from choreo.broker.broker import Broker
from choreo.model.facts import Fact, View, add, decode_fact, decode_view, in_order
from choreo.model.saga import State
from choreo.wire.keys import check_saga_id
from choreo.wire.topology import Topology

#: The end of time for a listing (ms): more than any clock shows.
FOREVER = 1 << 52


@dataclass(frozen=True, slots=True)
class Queries:
    """Reads what the tracker has projected so far."""

    topology: Topology
    broker: Broker

    async def view(self, saga_id: str) -> View | None:
        """The view of one saga; ``None`` if the tracker has not seen it (yet)."""
        (packed,) = await self.broker.projections.views([check_saga_id(saga_id)])
        return decode_view(packed) if packed else None

    async def facts(self, saga_id: str) -> list[Fact]:
        """What is known of one saga, in order; empty if the tracker has not seen it (yet)."""
        partition = self.topology.keys.partition(check_saga_id(saga_id))
        (packed,) = await self.broker.projections.load(partition, [saga_id])
        timeline: dict[str, Fact] = {}
        for each in packed:
            add(timeline, decode_fact(each))
        return in_order(timeline)

    async def oldest(self, saga_type: str | None, states: Sequence[State], limit: int) -> list[str]:
        """The ids of the oldest sagas of a type (all, if none is given) that stand so, about ``limit``."""
        types = [*self.topology.sagas, ""] if saga_type is None else [saga_type]
        return await self.broker.projections.oldest(types, states, limit)

    async def several(self, saga_ids: Sequence[str]) -> list[View]:
        """The views of some sagas; those that are gone are left out."""
        packed = await self.broker.projections.views(saga_ids)
        return [decode_view(each) for each in packed if each]

    async def views(
        self, *, saga_type: str | None = None, states: Sequence[State] = (),
        since: int = 0, until: int = FOREVER, limit: int = 50,
    ) -> list[View]:  # fmt: skip
        """The newest sagas of a type and of any of ``states`` (all, if none is given).

        ``since`` and ``until`` bound the start time in milliseconds since the epoch. Uses the index, so
        the cost depends on ``limit`` and not on how many sagas there are.
        """
        types = [*self.topology.sagas, ""] if saga_type is None else [saga_type]
        listed = await self.broker.projections.listed(types, states or list(State), since, until, limit)
        return await self.several([saga_id for _, saga_id in listed])
