"""Waiting for a server that cannot serve now: capped backoff, and one log line per change of state."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from itertools import count
from typing import TypeVar

import anyio

from choreo.errors import BrokerUnavailable

T = TypeVar("T")

#: Seconds: the first pause, and the longest. With a command's timeout it bounds how long after the end of
#: an outage work goes on.
FIRST_PAUSE = 0.05
LONGEST_PAUSE = 2.0
#: Seconds between log lines about one server at least: it may come and go many times a minute.
_QUIET = 10.0


def pause_after(failures: int) -> float:
    """Seconds to wait after so many failures in a row and one more."""
    longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(failures, 16))
    # Jitter: workers that lost the server together must not come back together.
    return random.uniform(longest / 2, longest)


class Outage:
    """What one process says about its server being away: once, however many of its parts notice."""

    def __init__(self, logger: logging.Logger, who: str) -> None:
        self._logger = logger
        self._who = who
        self._waiting: set[str] = set()
        self._told = ""
        self._told_at = float("-inf")

    def began(self, part: str, error: BaseException | str) -> None:
        """A part of this process cannot go on, for this reason."""
        self._waiting.add(part)
        reason = str(error)
        now = anyio.current_time()
        if reason != self._told and now - self._told_at >= _QUIET:
            self._told, self._told_at = reason, now
            self._logger.warning("%s has to wait for the server: %s", self._who, reason)

    def left(self, part: str) -> None:
        """This part waits no longer: it gave up."""
        self._waiting.discard(part)
        if not self._waiting:
            self._told = ""

    def ended(self, part: str) -> None:
        """This part goes on."""
        self._waiting.discard(part)
        if self._told and not self._waiting:
            self._told = ""
            self._logger.warning("%s goes on", self._who)


class Patience:
    """Counts failures in a row for one kind of work, and pauses a little longer after each.

    ``outage``: what is told instead, if several parts of a process notice the same.
    """

    def __init__(self, logger: logging.Logger, what: str, outage: Outage | None = None) -> None:
        self._what = what
        self._outage = outage or Outage(logger, what)
        self._failures = 0

    @property
    def failing(self) -> bool:
        """Whether the last attempt failed."""
        return self._failures > 0

    async def pause(self, error: BaseException | str, until: anyio.Event | None = None) -> None:
        """Note a failure, and wait; no longer than ``until`` is set."""
        seconds = pause_after(self._failures)
        self.failed(error)
        with anyio.move_on_after(seconds):
            await (until or anyio.Event()).wait()

    def failed(self, error: BaseException | str) -> None:
        """Note a failure. It is logged if it is the first in a row, or another one than before."""
        self._failures = min(self._failures + 1, 16)
        self._outage.began(self._what, error)

    def succeeded(self) -> None:
        """Note a success. It is logged if it ends a row of failures."""
        if self._failures:
            self._failures = 0
            self._outage.ended(self._what)


class Persistence:
    """Sends idempotent requests again, for so many ``seconds``, when it is not known what they came to."""

    def __init__(self, logger: logging.Logger, seconds: float = 10.0) -> None:
        self._seconds = seconds
        self._logger = logger
        self._outage = Outage(logger, "a request")
        self._numbers = count()

    async def __call__(self, request: Callable[[], Awaitable[T]]) -> T:
        """What ``request`` returns.

        Raises:
            BrokerUnavailable: if the time since the first failure was not enough.
        """
        part = f"request {next(self._numbers)}"
        patience = Patience(self._logger, part, self._outage)
        give_up: float | None = None
        try:
            while True:
                try:
                    answer = await request()
                except BrokerUnavailable as error:
                    # It may have waited long for its turn before it was sent: that does not count.
                    give_up = give_up or anyio.current_time() + self._seconds
                    if anyio.current_time() > give_up:
                        raise
                    await patience.pause(error)
                else:
                    patience.succeeded()
                    return answer
        finally:
            self._outage.left(part)
