"""The time of day: the server's, so that deadlines do not depend on the clock of one host.

Whatever needs the time is handed a clock, so that tests can have their own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeAlias

import anyio

from choreo.broker.connection import Connection
from choreo.errors import BrokerError, BrokerUnavailable

logger = logging.getLogger("choreo.client")

#: Returns milliseconds since the epoch.
Clock: TypeAlias = Callable[[], int]

#: Seconds for which this host's own pace is trusted before the server is asked again.
_FRESH = 10.0
#: How often the server is asked in a row: the quickest answer is the most exact one.
_SAMPLES = 3
#: How fast the clock runs (to one second of real time) until a server that is behind has caught up.
_SLOW = 0.5


def wall_clock() -> int:
    """This machine's clock, in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class ServerClock:
    """Follows the server's clock. Between two looks at it, this host's monotonic clock counts on.

    It never goes back: if the server's clock was set back, or another server with an earlier time has
    taken over, this one runs slower until the two agree. It shows this machine's time until it has
    seen the server's.
    """

    def __init__(self, connection: Connection, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._connection = connection
        self._monotonic = monotonic
        self._asked: float | None = None
        #: What to add to the monotonic clock, in seconds, to have the server's.
        self._ahead = time.time() - monotonic()
        #: What was shown last (seconds since the epoch), and when by the monotonic clock.
        self._shown, self._shown_at = 0.0, monotonic()

    def __call__(self) -> int:
        """Milliseconds since the epoch."""
        at = self._monotonic()
        now, least = at + self._ahead, self._shown + (at - self._shown_at) * _SLOW
        if now < least:
            now = least
        self._shown, self._shown_at = now, at
        return int(now * 1000)

    @property
    def known(self) -> bool:
        """Whether it shows the server's time, rather than this machine's because it has not seen that yet."""
        return self._asked is not None

    async def follow(self) -> None:
        """Keep up with the server's clock, until cancelled."""
        while True:
            await self.refresh()
            await anyio.sleep(_FRESH)

    async def refresh(self) -> None:
        """Look at the server's clock if the last look was a while ago; if that fails, count on.

        Raises nothing: whoever needs the server will learn that it is away.
        """
        if self._asked is None or self._monotonic() - self._asked >= _FRESH:
            try:
                await self.synchronise()
            except BrokerUnavailable:
                return
            except BrokerError as error:
                self._asked = self._monotonic()
                logger.warning("the server does not tell its time; this host's is used: %s", error)

    async def synchronise(self) -> None:
        """Look at the server's clock.

        Raises:
            BrokerError: if the server does not tell it.
        """
        samples = []
        for _ in range(_SAMPLES):
            sent = self._monotonic()
            seconds, microseconds = await self._connection.call("TIME")
            received = self._monotonic()
            time_there = int(seconds) + int(microseconds) / 1_000_000
            samples.append((received - sent, time_there - (sent + received) / 2))
        if self._asked is None:
            self._shown, self._shown_at = 0.0, self._monotonic()  # what was shown before was only a guess
        self._ahead = min(samples)[1]
        self._asked = self._monotonic()
