"""What a check comes to."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from enum import StrEnum

import msgspec


class Verdict(StrEnum):
    """How bad it is."""

    OK = "ok"
    UNKNOWN = "unknown"
    """The server could not be asked."""
    WARNING = "warning"
    """It may be meant so, or will become a problem."""
    PROBLEM = "problem"
    """Sagas may be lost, or do not move."""


class Checked(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one check found."""

    check: str
    """Which check it is; a stable name."""
    verdict: Verdict
    what: str
    """What was found and, if that is not well, what it means."""
    remedy: tuple[str, ...] = ()
    """What to do: commands to paste, or a sentence that begins with ``#``."""


class Said(msgspec.Struct, frozen=True):
    """A check's answer; the list of checks knows its name."""

    verdict: Verdict
    what: str
    remedy: tuple[str, ...] = ()


def ok(what: str) -> Said:
    """All is well."""
    return Said(Verdict.OK, what)


def warning(what: str, *remedy: str) -> Said:
    """It may be meant so, or will become a problem."""
    return Said(Verdict.WARNING, what, remedy)


def problem(what: str, *remedy: str) -> Said:
    """Sagas may be lost, or do not move."""
    return Said(Verdict.PROBLEM, what, remedy)


def unknown(what: str) -> Said:
    """The server does not tell; ``what`` says what it does not do."""
    return Said(Verdict.UNKNOWN, f"could not be asked: {what}")


def redis_cli(*words: str) -> str:
    """A command line for ``redis-cli``, quoted for a shell."""
    return shlex.join(["redis-cli", *words])


def set_config(name: str, value: str) -> tuple[str, str]:
    """How a setting of the server is changed, now and for its next start."""
    return redis_cli("CONFIG", "SET", name, value), redis_cli("CONFIG", "REWRITE")


def for_each(partitions: Iterable[int], command: str) -> str:
    """One command line for several partitions; ``$p`` stands for the number in it."""
    return f"for p in {' '.join(map(str, sorted(partitions)))}; do {command}; done"


def span(milliseconds: int) -> str:
    """A span of time in one unit: ``12 s``, ``5 min``, ``3 h``, ``8 d``."""
    seconds = max(0, milliseconds) // 1000
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
