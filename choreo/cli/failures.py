"""From what went wrong to what is said about it and the exit code. No traceback reaches a user.

====  ==============================================================================================
code  meaning
====  ==============================================================================================
0     fine
1     bad news: a saga failed or was compensated, is not known, or cannot be changed; a check found
      something
2     wrong use or configuration: also a server that is too old or refuses, an engine that does not
      start, and participants' code that cannot be imported
3     the server cannot be reached, or cannot serve now
70    a bug in choreo
130   ended by Ctrl-C
====  ==============================================================================================
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import click

from choreo.drawing.text import clean, clean_lines
from choreo.errors import BrokerUnavailable, ChoreoError, SagaError

FINE, BAD_NEWS, WRONG_USE, UNREACHABLE, BUG, INTERRUPTED = 0, 1, 2, 3, 70, 130

DEBUG_VARIABLE = "CHOREO_DEBUG"

_PACKAGE = str(Path(__file__).parents[1]) + os.sep
_LIBRARIES = ("site-packages", "dist-packages", f"{os.sep}lib{os.sep}python", "<frozen")


@dataclass(frozen=True, slots=True)
class Failure:
    """What is said on standard error, and the process's exit code."""

    code: int
    lines: list[str]


def explain(error: BaseException) -> Failure:
    """What to tell a user about ``error``, be it one error or a group of them."""
    causes = list(_causes(error))
    if any(isinstance(each, KeyboardInterrupt | click.Abort) for each in causes):
        return Failure(INTERRUPTED, [])
    if any(isinstance(each, BrokenPipeError) for each in causes):
        _give_up_stdout()
        return Failure(FINE, [])
    unexpected = [each for each in causes if not isinstance(each, ChoreoError | click.ClickException)]
    if unexpected:
        return _explain_unexpected(unexpected[0])
    lines = [line for each in causes for line in _lines(each)]
    code = min(map(_code, causes), key=(WRONG_USE, UNREACHABLE, BAD_NEWS).index)
    return Failure(code, list(dict.fromkeys(lines)))


def _give_up_stdout() -> None:
    """Whoever read it has seen enough. What is still buffered must not fail when the process ends."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def complain(failure: Failure) -> None:
    """Print a failure on standard error."""
    for number, line in enumerate(failure.lines):
        click.secho(line if number else f"choreo: {line}", err=True, fg="red")


def show_traceback(error: BaseException) -> None:
    """Print the traceback, if ``CHOREO_DEBUG`` asks for it."""
    if os.environ.get(DEBUG_VARIABLE):
        for line in clean_lines("".join(traceback.format_exception(error))):
            print(line, file=sys.stderr)


def _causes(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _causes(each)
    else:
        yield error


def _code(error: BaseException) -> int:
    if isinstance(error, BrokerUnavailable):
        return UNREACHABLE
    return BAD_NEWS if isinstance(error, SagaError) else WRONG_USE


def _lines(error: BaseException) -> list[str]:
    if not isinstance(error, click.ClickException):
        return clean_lines(str(error))
    lines = clean_lines(error.format_message())
    context = error.ctx if isinstance(error, click.UsageError) else None
    return [*lines, f"See `{clean(context.command_path)} --help`."] if context else lines


def _explain_unexpected(error: BaseException) -> Failure:
    what = clean(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)
    hint = f"Set {DEBUG_VARIABLE}=1 to see the traceback."
    place = _place_in_users_code(error)
    if place:
        return Failure(WRONG_USE, [f"{clean(place)}: {what}", hint])
    return Failure(BUG, [f"this is a bug in choreo: {what}", hint])


def _place_in_users_code(error: BaseException) -> str:
    """``file:line`` if it was not choreo but a participant's own code that failed, else empty."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename.startswith(_PACKAGE):
            return ""
        if not any(part in frame.filename for part in _LIBRARIES):
            return f"{frame.filename}:{frame.lineno}"
    return ""
