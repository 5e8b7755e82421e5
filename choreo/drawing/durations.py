"""Spans of time, as the command line takes and shows them."""

from __future__ import annotations

import click

from choreo.wire import durations


def parse_duration(text: str) -> float:
    """Seconds, from ``200ms``, ``30s``, ``5m``, ``1h`` or ``7d``; bare numbers are seconds.

    Raises:
        click.BadParameter: if it is nothing of the kind.
    """
    try:
        return durations.parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


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
