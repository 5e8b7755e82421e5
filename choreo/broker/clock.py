"""The time of day. Whatever needs it is handed a clock, so that tests can have their own."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeAlias

#: Returns milliseconds since the epoch.
Clock: TypeAlias = Callable[[], int]


def wall_clock() -> int:
    """This machine's clock, in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
