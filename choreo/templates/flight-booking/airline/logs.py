"""Logs of one booking carry one id, whichever service writes them: the saga's."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

from choreo import Context


class BookingLog(logging.LoggerAdapter[logging.Logger]):
    """Writes the booking's id before each line, and as ``booking`` into the record."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        assert self.extra is not None
        return f"[{self.extra['booking']}] {msg}", {**kwargs, "extra": self.extra}


def log_of(ctx: Context) -> BookingLog:
    """The log for what a handler does."""
    return BookingLog(logging.getLogger(f"airline.{ctx.participant}"), {"booking": ctx.saga_id})
