"""Log lines for people: time, how bad it is, and what; on standard error."""

from __future__ import annotations

import logging
import os
import sys
import time

import click

from choreo.drawing.text import clean, clean_lines

_COLOURS = {"WARNING": "yellow", "ERROR": "red", "CRITICAL": "red"}
_MESSAGE_LIMIT = 2000


class LineFormatter(logging.Formatter):
    """``05:25:21 warning payments: reading has to wait``, with no control characters in it."""

    def __init__(self, *, colour: bool) -> None:
        super().__init__()
        self._colour = colour

    def format(self, record: logging.LogRecord) -> str:
        moment = self._style_as(time.strftime("%H:%M:%S", time.localtime(record.created)), "bright_black")
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()} "
        origin = "" if record.name.startswith("choreo.") else f"{clean(record.name)}: "
        message = f"{origin}{clean(record.getMessage(), _MESSAGE_LIMIT)}"
        lines = [f"{moment} {self._style_as(level, _COLOURS.get(record.levelname))}{message}"]
        if record.exc_info:
            lines += [f"         {line}" for line in clean_lines(self.formatException(record.exc_info))]
        return "\n".join(lines)

    def _style_as(self, text: str, colour: str | None) -> str:
        return click.style(text, fg=colour) if self._colour and colour and text else text


def configure(verbose: int, level: int = logging.WARNING) -> None:
    """Log to standard error: choreo from ``level`` on, other loggers from WARNING on.

    Each ``verbose`` lets one level more through, to both.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(colour=sys.stderr.isatty() and "NO_COLOR" not in os.environ))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(max(logging.DEBUG, logging.WARNING - 10 * verbose))
    logging.getLogger("choreo").setLevel(max(logging.DEBUG, level - 10 * verbose))
