"""Exploration: random schedules and faults, the same for the same seed, shrunk when they find something."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from choreo.testing.casting import Cast
from choreo.testing.faults import Crash, Fail, Fault, Jump, Unwind
from choreo.testing.harness import Harness
from choreo.testing.matrix import cases_of
from choreo.testing.process import Process
from choreo.testing.stage import Call
from choreo.testing.trials import Invariant, Trial, Verdict, attempt
from choreo.wire.topology import Topology

#: Faults of one run at most, and of one handler.
_MOST, _MOST_OF_ONE = 4, 2
#: Seconds that a request travels, or a handler works, at most.
_LONGEST = 0.05


@dataclass(repr=False)
class Weather(Fault):
    """The schedule of one run: how long each request travels and each handler works, decided by a seed."""

    seed: int

    def __post_init__(self) -> None:
        self._random = random.Random(f"weather {self.seed}")

    async def before(self, call: Call) -> None:
        await self._wait(call.process, 0.7)

    async def on_the_way(self, process: Process) -> None:
        await self._wait(process, 0.3)

    async def _wait(self, process: Process, chance: float) -> None:
        if self._random.random() < chance:
            # Mostly short, sometimes long: so that whatever may overtake does so now and then.
            seconds = _LONGEST * self._random.random() ** 4
            process.stage.travelling += 1
            try:
                await anyio.sleep(seconds)
            finally:
                process.stage.travelling -= 1


class InvariantViolated(AssertionError):
    """An exploration found a run in which the invariant does not hold. The message says how to repeat it."""

    def __init__(self, message: str, seed: int, faults: Sequence[Fault]) -> None:
        super().__init__(message)
        self.seed = seed
        self.faults = list(faults)
        """The fewest faults with which it does not hold."""


@dataclass(frozen=True)
class Exploration:
    """What was explored."""

    runs: int
    faults: Counter[str]
    """Kind of fault -> how often one happened."""
    digest: str
    """A hash of everything that happened in all runs: equal on any machine."""


def explore(
    invariant: Invariant, seeds: int | Iterable[int] = 1000, *, source: str | Path | Topology | None = None
) -> Exploration:
    """Try an invariant under many random schedules, each with a few random faults::

        def test_money_is_conserved_whatever_happens():
            explore(money_is_conserved, seeds=1000)

    ``seeds`` is how many, or which. The same seed is the same run on any machine: interleavings, faults,
    crashes, duplicates, jumps of the clock. ``source`` is what a harness plays if the invariant does not
    say, as for :class:`~choreo.testing.Harness`.

    Raises:
        InvariantViolated: with the seed, the fewest faults that still break the invariant, and the traces.
    """
    happened: Counter[str] = Counter()
    whole = hashlib.sha256()
    count = 0
    with asyncio.Runner() as runner:
        explorer = _Explorer(invariant, source, lambda call: runner.run(_awaited(call)))
        for seed in range(seeds) if isinstance(seeds, int) else seeds:
            trial = explorer.run(seed)
            count += 1
            whole.update(trial.digest.encode())
            happened.update(explorer.happened)
            if trial.verdict is Verdict.VIOLATED:
                raise explorer.shrink(seed, trial)
    return Exploration(count, happened, whole.hexdigest())


class _Explorer:
    """Runs an invariant under a seed, with all of its faults or some of them."""

    def __init__(
        self, invariant: Invariant, source: Any, run: Callable[[Awaitable[None]], None]
    ) -> None:
        self._invariant = invariant
        self._source = source
        self._run = run
        self.planned: list[Fault] = []
        self.happened: list[str] = []

    def run(self, seed: int, faults: Sequence[Fault] | None = None, *, calm: bool = False) -> Trial:
        """One run; with ``faults`` instead of those that the seed draws, ``calm``: without its weather."""

        def make(source: Any = None, **arguments: Any) -> Harness:
            if source is None and not arguments.get("participants"):
                source = self._source
            harness = Harness(source, **{"seed": seed, **arguments})
            self.planned = draw(harness.cast, seed) if faults is None else list(faults)
            for fault in [*self.planned, *([] if calm else [Weather(seed)])]:
                harness.plant(fault, required=False)
            harnesses.append(harness)
            return harness

        harnesses: list[Harness] = []
        trial = attempt(self._invariant, make, self._run)
        self.happened = [
            type(fault).__name__ for each in harnesses for fault in each.planted if fault.happened
        ]
        return trial

    def shrink(self, seed: int, trial: Trial) -> InvariantViolated:
        """The violation with as few faults as still break the invariant, and on a calm day if that does."""
        faults, calm = list(self.planned), False
        for fault in list(faults):
            fewer = [each for each in faults if each is not fault]
            again = self.run(seed, fewer)
            if again.verdict is Verdict.VIOLATED:
                faults, trial = fewer, again
        again = self.run(seed, faults, calm=True)
        if again.verdict is Verdict.VIOLATED:
            trial, calm = again, True
        return InvariantViolated(_report(self._invariant, seed, faults, trial, calm), seed, faults)


def draw(choreography: Cast, seed: int) -> list[Fault]:
    """The faults of a run: up to four of the matrix, and now and then a jump of the clock."""
    chance = random.Random(f"faults {seed}")
    cases = cases_of(choreography)
    drawn: list[Fault] = []
    load: Counter[str] = Counter()
    for _ in range(chance.randint(0, _MOST)):
        for fault in chance.choice(cases).faults:
            handler = str(getattr(fault, "handler", ""))
            if isinstance(fault, Crash | Fail) and load[handler] >= _MOST_OF_ONE:
                continue
            if isinstance(fault, Unwind) and any(isinstance(each, Unwind) for each in drawn):
                continue
            load[handler] += 1
            drawn.append(fault)
    if chance.random() < 0.1:
        drawn.append(Jump(chance.choice([1.0, 60.0, 3600.0]), commits=chance.randint(1, 8)))
    return drawn


def _report(invariant: Invariant, seed: int, faults: Sequence[Fault], trial: Trial, calm: bool) -> str:
    name = getattr(invariant, "__name__", "the invariant")
    lines = [f"{name} does not hold with seed {seed}: {type(trial.error).__name__}: {trial.error}", ""]
    lines.append("the fewest faults that break it:" if faults else "no fault is needed to break it:")
    lines += [f"  {fault!r}" for fault in faults]
    lines += ["", f"to repeat it: explore({name}, seeds=[{seed}])"]
    if calm:
        lines.append(f"or, on any schedule: Harness(..., faults=[{', '.join(map(repr, faults))}])")
    return "\n".join([*lines, "", trial.tree])


async def _awaited(call: Awaitable[None]) -> None:
    await call
