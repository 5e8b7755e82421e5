"""Deadlines: by when a saga must have ended, and which of its events must come within which time.

Everything here is a function of the *set* of a saga's facts, as its view is: in whatever order they were
read, the same deadline is due next.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Expectation:
    """One entry of ``expects``: within ``within`` of each ``after`` event, one of ``one_of`` must come."""

    after: str
    within: int
    """Milliseconds."""
    one_of: tuple[str, ...]
    """Event types, in the order of the file."""

    @property
    def name(self) -> str:
        """How people are told of it: ``PaymentCaptured, PaymentDeclined after OrderPlaced``."""
        return f"{', '.join(self.one_of)} after {self.after}"


@dataclass(frozen=True, slots=True)
class Deadlines:
    """The deadlines of one kind of saga."""

    whole: int | None = None
    """Milliseconds from its start within which a saga must have ended; ``None``: as long as it takes."""
    expects: tuple[Expectation, ...] = ()

    def __bool__(self) -> bool:
        return self.whole is not None or bool(self.expects)


NO_DEADLINES = Deadlines()
