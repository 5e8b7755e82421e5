"""Trying an invariant: once per case of the matrix, or once per seed."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from choreo.testing.harness import Harness
from choreo.testing.matrix import Case, NotReached

#: Makes a harness; takes what :class:`~choreo.testing.Harness` takes.
MakeHarness = Callable[..., Harness]
#: What must hold whatever goes wrong: it opens a harness, plays, and raises if something is wrong.
Invariant = Callable[[MakeHarness], Awaitable[None]]


class Verdict(StrEnum):
    """What came of a trial."""

    HELD = "held"
    VIOLATED = "violated"
    NOT_REACHED = "not reached"


@dataclass(frozen=True)
class Trial:
    """One trial of an invariant."""

    verdict: Verdict
    error: BaseException | None
    ends: tuple[str, ...]
    """How many sagas ended how, for people."""
    tree: str
    """The traces of all sagas that did not complete, for people. Empty unless the invariant was violated."""
    digest: str
    """A hash of everything that happened in all sagas, and when."""


class _Makers:
    """Makes harnesses for one trial, and remembers them."""

    def __init__(self, make: MakeHarness) -> None:
        self._make = make
        self.made: list[Harness] = []

    def __call__(self, *arguments: object, **options: object) -> Harness:
        harness = self._make(*arguments, **options)
        self.made.append(harness)
        return harness


def attempt(invariant: Invariant, make: MakeHarness, run: Callable[[Awaitable[None]], None]) -> Trial:
    """Try an invariant once; ``run`` runs a coroutine."""
    makers = _Makers(make)
    error: BaseException | None = None
    verdict = Verdict.HELD
    try:
        run(invariant(makers))
    except NotReached:
        verdict = Verdict.NOT_REACHED
    except Exception as raised:
        verdict, error = Verdict.VIOLATED, raised
    opened = [each for each in makers.made if each.has_opened]
    tree = "\n\n".join(filter(None, map(_trees, opened))) if error is not None else ""
    return Trial(verdict, error, tuple(_ends(opened)), tree, digest(opened))


def rehearse(invariant: Invariant, cases: Iterable[Case]) -> Iterator[tuple[Case, Trial]]:
    """Try an invariant once for each case."""
    with asyncio.Runner() as runner:
        for case in cases:
            yield case, attempt(invariant, case.harness, lambda call: runner.run(_awaited(call)))


def digest(harnesses: Iterable[Harness]) -> str:
    """A hash of everything that happened in all sagas, and when; the same on any machine.

    Tracebacks are left out: they name files.
    """
    found = hashlib.sha256()
    for harness in harnesses:
        for saga in sorted(harness.sagas, key=lambda each: each.id):
            for fact in saga.facts:
                found.update(msgspec.msgpack.encode(msgspec.structs.replace(fact, detail="")))
    return found.hexdigest()


async def _awaited(call: Awaitable[None]) -> None:
    await call


def _ends(harnesses: Iterable[Harness]) -> Iterator[str]:
    counts = Counter(str(saga.status) for harness in harnesses for saga in harness.sagas if saga.facts)
    for status, number in sorted(counts.items()):
        yield f"{number} {status}" if number > 1 else status


def _trees(harness: Harness) -> str:
    return "\n\n".join(saga.tree for saga in harness.sagas)
