"""Spans of time as people write them, in files and on the command line alike."""

from __future__ import annotations

import re

#: What to write; for messages.
EXAMPLES = "200ms, 30s, 5m, 1h or 7d"

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_WRITTEN = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)\s*(ms|s|m|h|d)?", re.ASCII)


def parse_duration(text: str) -> float:
    """Seconds, from ``200ms``, ``30s``, ``5m``, ``1h`` or ``7d``; bare numbers are seconds.

    Raises:
        ValueError: if it is nothing of the kind.
    """
    written = _WRITTEN.fullmatch(text.strip())
    if written is None:
        raise ValueError(f"{text!r:.60} is not a span of time; write {EXAMPLES}")
    return float(written[1]) * _SECONDS[written[2] or "s"]
