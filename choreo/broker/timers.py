"""Timers: what is parked until it is due."""

from __future__ import annotations

from dataclasses import dataclass

from choreo.broker.connection import Argument, Connection
from choreo.wire.keys import Keys
from choreo.wire.limits import MAX_DUE


@dataclass(frozen=True, slots=True)
class Timers:
    """The timers of one namespace."""

    connection: Connection
    keys: Keys

    async def move_due(self, now: int) -> tuple[int, int | None]:
        """Move what is due by ``now`` (ms) to the inboxes, each timer once, whoever else does the same.

        Returns how many were moved, and when the next one is due (ms; ``None`` if nothing is parked).
        A partition that the server refuses is passed over; the next call tries again.
        """
        keys = self.keys
        calls = [
            ([keys.timers(partition), keys.parked(partition)], self._arguments(partition, now))
            for partition in range(keys.partitions)
        ]
        moved, following = 0, []
        for answer in await self.connection.run_many("due", calls):
            if not isinstance(answer, Exception):
                moved += answer[0]
                if answer[1]:
                    following.append(int(float(answer[1])))
        return moved, min(following, default=None)

    def _arguments(self, partition: int, now: int) -> list[Argument]:
        return [now, self.keys.inbox_prefix(partition), MAX_DUE]
