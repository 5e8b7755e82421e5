"""Timers: what is parked until it is due."""

from __future__ import annotations

from dataclasses import dataclass

from choreo.broker.connection import Argument, Connection
from choreo.errors import BrokerUnavailable
from choreo.wire.keys import Keys
from choreo.wire.limits import MAX_DUE


@dataclass(frozen=True, slots=True)
class Moved:
    """What became of the timers that were due."""

    count: int
    following: int | None
    """When the next one is due (ms since the epoch); ``None`` if nothing is parked."""
    obstacles: tuple[str, ...]
    """Keys that are in the way, and errors of partitions that the server refuses."""


@dataclass(frozen=True, slots=True)
class Timers:
    """The timers of one namespace."""

    connection: Connection
    keys: Keys

    async def move_due(self, now: int) -> Moved:
        """Move what is due by ``now`` (ms) to the inboxes, each timer once, whoever else does the same.

        What cannot be moved stays, and is looked at again by the next call.

        Raises:
            BrokerUnavailable: if the server cannot serve any partition now.
        """
        keys = self.keys
        calls = [
            ("due", [keys.timers(partition), keys.parked(partition)], self._arguments(partition, now))
            for partition in range(keys.partitions)
        ]
        count, following, obstacles = 0, [], []
        answers = await self.connection.run_many(calls)
        if all(isinstance(each, BrokerUnavailable) for each in answers):
            raise answers[0]
        for answer in answers:
            if isinstance(answer, Exception):
                obstacles.append(str(answer))
                continue
            moved, first, obstacle = answer
            count += moved
            if first:
                following.append(int(float(first)))
            if obstacle:
                obstacles.append(f"{obstacle.decode()} has the wrong type, or is full; delete or rename it")
        return Moved(count, min(following, default=None), tuple(obstacles))

    def _arguments(self, partition: int, now: int) -> list[Argument]:
        return [now, self.keys.inbox_prefix(partition), MAX_DUE]
