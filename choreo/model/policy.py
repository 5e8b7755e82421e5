"""Policies: how often and how long a handler may try."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, get_args

from choreo.errors import Abort, ContractError, EventError

#: Never worth a retry: the handler's own mistakes, which the next attempt would make again.
_HOPELESS = (Abort, ContractError, EventError)
#: What becomes of a saga of which a step has failed for good: it unwinds, or waits for an operator.
OnFailure = Literal["abort", "park"]
#: Seconds in a year: no pause is longer.
LONGEST = 366 * 86_400


def _are_errors(value: object) -> bool:
    return isinstance(value, tuple) and all(
        isinstance(each, type) and issubclass(each, Exception) for each in value
    )


def seconds_of(duration: float | timedelta) -> float:
    """A duration in seconds, given as such or as a ``timedelta``."""
    return duration.total_seconds() if isinstance(duration, timedelta) else float(duration)


@dataclass(frozen=True, slots=True)
class Retry:
    """How failed attempts are repeated: exponential backoff with jitter. Durations are seconds.

    Attempt ``n + 1`` follows attempt ``n`` after ``first * factor ** (n - 1)``, at most ``limit``, of
    which jitter takes off up to the share ``jitter``.

    Raises:
        ContractError: naming everything that is wrong, if the values make no sense.
    """

    attempts: int = 5
    """How often the handler runs at most, the first time included. 1: no retry."""
    first: float | timedelta = 0.2
    factor: float = 2.0
    limit: float | timedelta = 30.0
    jitter: float = 0.5
    on: tuple[type[Exception], ...] = (Exception,)
    """Errors that are worth a retry; any other is final at once."""

    def __post_init__(self) -> None:
        first, limit = seconds_of(self.first), seconds_of(self.limit)
        wrong = []
        # Written so that NaN, which compares as false, is refused.
        if type(self.attempts) is not int or self.attempts < 1:
            wrong.append(f"attempts is {self.attempts!r}; a whole number, at least 1")
        if not 0 <= first <= LONGEST:
            wrong.append(f"first is {self.first}; not negative, at most a year")
        if not 1 <= self.factor < math.inf:
            wrong.append(f"factor is {self.factor}; at least 1")
        if not first <= limit <= LONGEST:
            wrong.append(f"limit is {self.limit}; at least first, {self.first}, and at most a year")
        if not 0 <= self.jitter <= 1:
            wrong.append(f"jitter is {self.jitter}; between 0 and 1")
        if not _are_errors(self.on):
            wrong.append(f"on is {self.on!r}; a tuple of exception classes")
        if wrong:
            raise ContractError(f"Retry: {'; '.join(wrong)}")

    def again(self, attempt: int, error: Exception) -> bool:
        """Whether attempt number ``attempt``, which failed with ``error``, is to be followed by another."""
        if attempt >= self.attempts or isinstance(error, _HOPELESS):
            return False
        return isinstance(error, self.on)

    def delay(self, attempt: int, chance: float) -> float:
        """Seconds from the end of attempt ``attempt`` to the next; ``chance`` in [0, 1) is the jitter's."""
        first, limit = seconds_of(self.first), seconds_of(self.limit)
        try:
            grown = first * float(self.factor) ** (attempt - 1)
        except OverflowError:  # long after it has reached any limit
            grown = limit if first else 0.0
        return min(grown, limit) * (1 - self.jitter * chance)


@dataclass(frozen=True, slots=True)
class Policy:
    """What holds for one handler; ``None`` where the choreography's default holds."""

    retry: Retry | None = None
    timeout: float | None = None
    """Seconds that one attempt may take."""
    on_failure: OnFailure | None = None
    """What happens when a step has failed for good. Undos have no choice: their saga becomes failed."""

    def over(self, default: Policy) -> Policy:
        """This policy; what it leaves open is as in ``default``."""
        return Policy(
            self.retry if self.retry is not None else default.retry,
            self.timeout if self.timeout is not None else default.timeout,
            self.on_failure if self.on_failure is not None else default.on_failure,
        )


def make_policy(
    where: str, retry: Retry | None, timeout: float | timedelta | None, on_failure: OnFailure | None = None
) -> Policy:
    """A policy from what a decorator was given; ``where`` is the place of the decorator.

    Raises:
        ContractError: if the timeout is not positive, or ``on_failure`` is none of :data:`OnFailure`.
    """
    if on_failure not in (None, *get_args(OnFailure)):
        choices = " or ".join(map(repr, get_args(OnFailure)))
        raise ContractError(f"{where}: on_failure is {on_failure!r}; it must be {choices}")
    seconds = None if timeout is None else seconds_of(timeout)
    if seconds is not None and not 0 < seconds <= LONGEST:
        raise ContractError(f"{where}: timeout is {timeout}; it must be positive, and at most a year")
    return Policy(retry, seconds, on_failure)
