"""Moving due timers. Every worker does it; a timer moves once, whoever is first."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import anyio

from choreo.broker.clock import Clock
from choreo.broker.timers import Timers
from choreo.errors import BrokerError

logger = logging.getLogger("choreo.runtime")

#: Seconds between looks when nothing is due earlier: another process may have parked something.
_LOOK = 0.25


@dataclass(frozen=True, slots=True)
class Alarm:
    """Looks for due timers, until cancelled."""

    timers: Timers
    clock: Clock

    async def run(self) -> None:
        """Move what is due, and sleep until the next timer may be."""
        while True:
            pause = _LOOK
            try:
                moved, following = await self.timers.move_due(self.clock())
            except BrokerError as error:
                logger.debug("due timers were not moved: %s", error)
            else:
                if following is not None:
                    # More than one script moves at once may be due; then there is no pause but for others.
                    pause = min(_LOOK, max(0.0, (following - self.clock()) / 1000))
                pause = pause if pause or moved else _LOOK
            await anyio.sleep(pause)
