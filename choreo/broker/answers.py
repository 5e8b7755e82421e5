"""What the gate answers to a decision."""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache

import msgspec


class Verdict(StrEnum):
    """What the gate answers to a decision."""

    RUN = "run"
    """Begin: run the handler."""
    ASK = "ask"
    """Look: it takes more than a look. Ask with :class:`Begin`."""
    DOUBT = "doubt"
    """Begin: the saga unwinds; do not run the step, but it may have run before."""
    POISON = "poison"
    """Begin: it has begun as often as it may, and nothing ever came of it. Do not run it."""
    BUSY = "busy"
    """Begin: another delivery of the same event has begun. It is left pending, and comes again later."""
    WAITING = "waiting"
    """Begin: a join keeps the event until the others are there. Settled."""
    COMMITTED = "committed"
    """It is written, by this try or an earlier one with the same token."""
    DUPLICATE = "duplicate"
    """Another attempt has committed this already."""
    STALE = "stale"
    """The delivery is another worker's, or nobody's. Nothing was changed."""
    LATE = "late"
    """The saga unwinds: events were withheld, or the step was not run."""
    CLOSED = "closed"
    """Too late for the saga's state."""
    BLOCKED = "blocked"
    """A key in the way has the wrong type; nothing was changed. Try again when it is gone."""


class Answer(msgspec.Struct, frozen=True, gc=False):
    """A verdict and what comes with it: after ``RUN`` or ``POISON`` the saga's type and packed events."""

    verdict: Verdict
    rest: tuple[bytes, ...] = ()


_VERDICTS = {each.value.encode(): each for each in Verdict}


@lru_cache(maxsize=1024)
def _short_answer(line: bytes) -> Answer:
    word, space, rest = line.partition(b" ")
    return Answer(_VERDICTS[word], (rest,) if space else ())


@lru_cache(maxsize=1024)
def go_ahead(saga_type: str) -> Answer:
    """What the gate answers when a step may run."""
    return Answer(Verdict.RUN, (saga_type.encode(),))


def read_answer(answer: bytes | list[bytes]) -> Answer:
    """An answer as the script gives it: one line, or a verdict and packed events."""
    if isinstance(answer, bytes):
        return _short_answer(answer)
    return Answer(_VERDICTS[answer[0]], tuple(answer[1:]))
