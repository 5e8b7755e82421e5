"""Whether an operator has paused this worker's participant."""

from __future__ import annotations

import logging

import anyio

from choreo.broker.meta import Meta
from choreo.errors import BrokerError

logger = logging.getLogger("choreo.runtime")

#: Seconds between looks.
_LOOK = 1.0


class PauseWatch:
    """Looks once a second. While the server cannot be asked, what it said last holds."""

    def __init__(self, meta: Meta, participant: str) -> None:
        self._meta = meta
        self._participant = participant
        self.paused = False
        """Whether nothing new is to be taken."""

    async def follow(self) -> None:
        """Keep up, until cancelled."""
        while True:
            await self.look()
            await anyio.sleep(_LOOK)

    async def look(self) -> None:
        """Look once."""
        try:
            pause = (await self._meta.paused()).get(self._participant)
        except BrokerError as error:
            logger.debug("%s: nobody can say whether it is paused: %s", self._participant, error)
            return
        if pause and not self.paused:
            why = f" ({pause.note})" if pause.note else ""
            logger.warning("%s: paused by %s%s; what is in hand is finished",
                           self._participant, pause.who, why)  # fmt: skip
        elif self.paused and not pause:
            logger.warning("%s: resumed", self._participant)
        self.paused = pause is not None
