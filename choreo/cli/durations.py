"""Spans of time, as people write and read them."""

from __future__ import annotations

import re

import click

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_WRITTEN = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)\s*(ms|s|m|h|d)?", re.ASCII)


def parse_duration(text: str) -> float:
    """Seconds, from ``200ms``, ``30s``, ``5m``, ``1h`` or ``7d``; bare numbers are seconds.

    Raises:
        click.BadParameter: if it is nothing of the kind.
    """
    written = _WRITTEN.fullmatch(text.strip())
    if written is None:
        raise click.BadParameter(f"{text!r} is not a span of time; write 200ms, 30s, 5m, 1h or 7d")
    return float(written[1]) * _SECONDS[written[2] or "s"]


def format_age(milliseconds: int) -> str:
    """How long ago something was: ``just now``, ``3.0 s ago``."""
    return "just now" if milliseconds < 1000 else f"{format_duration(milliseconds)} ago"


def format_duration(milliseconds: int) -> str:
    """A span of time in the two units that matter: ``42 ms``, ``1.2 s``, ``3 min 04 s``, ``2 d 05 h``."""
    if milliseconds < 1000:
        return f"{max(0, milliseconds)} ms"
    seconds = milliseconds // 1000
    if seconds < 60:
        return f"{milliseconds // 100 / 10:.1f} s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes:02} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours:02} h"
