"""Waiting for a server that cannot serve now: capped backoff, and one log line per change of state."""

from __future__ import annotations

import logging
import random

import anyio

#: Seconds: the first pause, and the longest.
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 5.0


def pause_after(failures: int) -> float:
    """Seconds to wait after so many failures in a row and one more."""
    longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(failures, 16))
    # Jitter: workers that lost the server together must not come back together.
    return random.uniform(longest / 2, longest)


class Patience:
    """Counts failures in a row for one kind of work, and pauses a little longer after each."""

    def __init__(self, logger: logging.Logger, what: str) -> None:
        self._logger = logger
        self._what = what
        self._failures = 0

    async def pause(self, error: BaseException | str, until: anyio.Event | None = None) -> None:
        """Note a failure, log it if it is the first in a row, and wait; no longer than ``until`` is set."""
        seconds = pause_after(self._failures)
        self.failed(error)
        with anyio.move_on_after(seconds):
            await (until or anyio.Event()).wait()

    def failed(self, error: BaseException | str) -> None:
        """Note a failure, and log it if it is the first in a row."""
        if not self._failures:
            self._logger.warning("%s has to wait: %s", self._what, error)
        self._failures = min(self._failures + 1, 16)

    def succeeded(self) -> None:
        """Note a success; log it if it ends a row of failures."""
        if self._failures:
            self._logger.warning("%s goes on", self._what)
            self._failures = 0
