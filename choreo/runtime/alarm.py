"""Moving due timers. Every worker does it; a timer moves once, whoever is first."""

from __future__ import annotations

import logging

import anyio

from choreo.broker.clock import Clock
from choreo.broker.patience import Outage, Patience
from choreo.broker.timers import Timers
from choreo.errors import BrokerError

logger = logging.getLogger("choreo.runtime")

#: Seconds between looks when nothing is due earlier: another process may have parked something.
_LOOK = 0.25


class Alarm:
    """Looks for due timers, until cancelled."""

    def __init__(self, timers: Timers, clock: Clock, participant: str, outage: Outage) -> None:
        self._timers = timers
        self._clock = clock
        self._patience = Patience(logger, "moving timers", outage)
        self._obstacles = Patience(logger, f"{participant}: moving timers")

    async def run(self) -> None:
        """Move what is due, and sleep until the next timer may be."""
        while True:
            pause = await self._look()
            await anyio.sleep(pause)

    async def _look(self) -> float:
        """Move what is due. Returns the seconds until the next look."""
        try:
            moved = await self._timers.move_due(self._clock())
        except BrokerError as error:
            self._patience.failed(error)
            return _LOOK
        self._patience.succeeded()
        if moved.obstacles:
            self._obstacles.failed(moved.obstacles[0])
        else:
            self._obstacles.succeeded()
        if moved.following is None:
            return _LOOK
        pause = min(_LOOK, max(0.0, (moved.following - self._clock()) / 1000))
        # Nothing moved although something is due: it is in somebody's way, and will be for a while.
        return pause if pause or moved.count else _LOOK
