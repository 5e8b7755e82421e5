"""Exploration: deterministic, finds what is planted, and shrinks what it finds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from bank import Bank, Refused, TransferDone, TransferRequested, money_is_conserved

from choreo import Abort
from choreo.testing import (
    Crash,
    Duplicate,
    Ends,
    Exploration,
    Fail,
    Harness,
    InvariantViolated,
    Jump,
    explore,
)
from choreo.testing.exploration import draw

ROOT = Path(__file__).resolve().parents[2]

#: Seeds within which a planted bug must be found.
ENOUGH = 200


def test_a_sound_bank_holds() -> None:
    """What keeps its keys conserves money, whatever happens; and enough does happen."""
    found = explore(money_is_conserved, seeds=60)
    assert found.runs == 60
    assert {"Crash", "Fail", "Duplicate", "Disconnect", "Hang", "Unwind"} <= set(found.faults)


def test_a_sound_bank_whose_events_come_twice_at_once() -> None:
    """Two processes have a request in hand, and one of them refuses it: what the other moved is moved back."""

    async def what_was_moved_was_transferred(make: Callable[..., Harness]) -> None:
        bank = Bank()
        ends = Ends(completes_with=TransferDone, aborts_with=Refused)
        faults = [Duplicate("TransferRequested", times=3), Fail("debits/debit", Abort("closed"))]
        async with make(participants=bank.participants(), ends=ends, faults=faults, workers=2) as town:
            for _ in range(3):
                await town.start(TransferRequested())
            await town.finish()
            moved = 100 * [transfer.status for transfer in town.sagas].count("completed")
        assert bank.cents == {"ann": 1000 - moved, "bob": moved}

    assert explore(what_was_moved_was_transferred, seeds=60).runs == 60


def test_the_same_seeds_give_the_same_runs() -> None:
    """Twice in one process: every fact, every id and every time is the same; other seeds differ."""
    first, again, others = (explore(money_is_conserved, seeds=range(start, start + 8)) for start in (0, 0, 50))
    assert first == again
    assert first.digest != others.digest


def test_the_same_on_any_machine() -> None:
    """In other processes, with other hashes, another directory and another time zone: the same digest."""
    code = "from bank import *; from choreo.testing import *; print(explore(money_is_conserved, seeds=12).digest)"

    def digest(seed: str, zone: str) -> str:
        env = {**os.environ, "PYTHONHASHSEED": seed, "TZ": zone, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'testing'}"}
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True, cwd="/"
        )
        return done.stdout.strip()

    assert digest("1", "UTC") == digest("77", "Asia/Tokyo") == explore(money_is_conserved, seeds=12).digest


@pytest.mark.parametrize("bug", ["forgetful", "one_eyed"])
def test_planted_bugs_are_found(bug: str, record_property: Callable[[str, object], None]) -> None:
    """A refund that is not idempotent, and an undo that forgets a branch, within two hundred seeds."""
    invariant = partial(money_is_conserved, **{bug: True})
    with pytest.raises(InvariantViolated) as caught:
        explore(invariant, seeds=ENOUGH)
    error = caught.value
    record_property("seed", error.seed)
    print(f"{bug}: found with seed {error.seed}, by {error.faults}")
    assert 1 <= len(error.faults) <= 2
    assert "does not hold with seed" in str(error)
    assert "● TransferRequested" in str(error)
    assert f"seeds=[{error.seed}]" in str(error)


def test_what_was_found_can_be_repeated() -> None:
    """The seed alone leads there again, and to the same few faults."""
    invariant = partial(money_is_conserved, forgetful=True)
    with pytest.raises(InvariantViolated) as first:
        explore(invariant, seeds=ENOUGH)
    with pytest.raises(InvariantViolated) as again:
        explore(invariant, seeds=[first.value.seed])
    assert str(first.value) == str(again.value)


def test_no_fault_is_blamed_for_what_is_always_wrong() -> None:
    """An invariant that never holds is shrunk to no fault at all, on a calm day."""

    async def nobody_pays(make: Callable[..., Harness]) -> None:
        bank = Bank()
        async with bank.play(make) as town:
            await town.start(TransferRequested())
            await town.finish()
        assert bank.cents["ann"] == 1000 or bank.cents["bob"] == 0

    with pytest.raises(InvariantViolated) as caught:
        explore(nobody_pays, seeds=50)
    assert caught.value.faults == []
    assert "no fault is needed" in str(caught.value)
    assert "Harness(..., faults=[])" in str(caught.value)


def test_faults_are_drawn_with_measure() -> None:
    """Never so many of one handler that nothing could be expected of it."""
    harness = Bank().harness()
    for seed in range(300):
        drawn = draw(harness.cast, seed)
        assert repr(drawn) == repr(draw(harness.cast, seed))
        for handler in {each.handler for each in drawn if isinstance(each, Crash | Fail)}:
            of_one = [each for each in drawn if isinstance(each, Crash | Fail) and each.handler == handler]
            assert len(of_one) <= 2
    assert any(isinstance(each, Jump) for seed in range(300) for each in draw(harness.cast, seed))


def test_exploration_is_plain_data() -> None:
    """So it can be compared and printed."""
    assert isinstance(explore(money_is_conserved, seeds=1), Exploration)
