"""The benchmarks run: what they send by hand is still what the gate takes. No speed is asserted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import harness
from benchmarks.race import ALONE, backlog
from benchmarks.server import Server, running_server


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server of the benchmarks' own making."""
    with running_server() as running:
        yield running


@pytest.mark.processes
@pytest.mark.parametrize("contestant", ["choreo_", "bare"])
def test_a_contestant_empties_a_backlog(server: Server, contestant: str) -> None:
    """Every saga gets to its last event, and each hop is added once and acknowledged once."""
    lap = backlog(server, contestant, ALONE, 50)
    assert lap.rate > 0
    assert lap.calls["xadd"] == pytest.approx(1, abs=0.05)
    assert lap.calls["xack"] > 0


@pytest.mark.processes
def test_the_hundred_tests_pass(tmp_path: Path) -> None:
    """What is measured as a hundred tests of a user's are tests that hold."""
    harness.run(harness.TESTS, tmp_path)
