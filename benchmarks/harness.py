"""What a user waits for: pytest on a file of a hundred small saga tests, as a process of its own."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

from benchmarks.cases import Scale
from benchmarks.report import Row
from benchmarks.server import Server

#: Two participants, three events; one saga in three unwinds. Written as a user would.
TESTS = '''
import pytest

from choreo import Abort, Event, Participant
from choreo.testing import Ends


class Ordered(Event):
    number: int


class Reserved(Event):
    number: int


class Shipped(Event):
    number: int


stock, shipping = Participant("stock"), Participant("shipping")


@stock.on(Ordered)
def reserve(ordered: Ordered) -> Reserved:
    return Reserved(ordered.number)


@reserve.undo
def release(ordered: Ordered, reserved: Reserved | None) -> None:
    pass


@shipping.on(Reserved)
def ship(reserved: Reserved) -> Shipped:
    if reserved.number % 3 == 0:
        raise Abort("nobody lives there")
    return Shipped(reserved.number)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
@pytest.mark.parametrize("number", range(100))
async def test_an_order(number: int, choreo_harness) -> None:
    ends = Ends(completes_with=Shipped)
    async with choreo_harness(participants=[stock, shipping], ends=ends) as shop:
        order = await shop.start(Ordered(number))
        await shop.settle()
        if number % 3:
            order.assert_status("completed")
            order.assert_events(Ordered, Reserved, Shipped)
        else:
            order.assert_status("compensated")
            order.assert_undone("stock/reserve")
'''
#: What pytest needs to load for it.
PLUGINS = ("-p", "anyio", "-p", "choreo.testing.plugin")
NOTHING = "def test_nothing():\n    pass\n"


def hundred_tests(server: Server, scale: Scale) -> Iterable[Row]:
    """Seconds from the start of pytest to its end, with all plugins of this installation and with two."""
    with tempfile.TemporaryDirectory() as folder:
        for who, everything in (("two plugins", False), ("all plugins", True)):
            run(TESTS, Path(folder), everything)  # Python compiles what it has not met before
            laps, empty = [], []
            for _ in range(max(3, scale.rounds)):
                laps.append(run(TESTS, Path(folder), everything))
                empty.append(run(NOTHING, Path(folder), everything))
            beside = {"processor time, s": min(cpu for _, cpu in laps),
                      "of that with one empty test, s": min(cpu for _, cpu in empty)}  # fmt: skip
            yield Row("hundred tests", who, "s", [seconds for seconds, _ in laps], "< 2", beside)


def run(tests: str, folder: Path, everything: bool = True) -> tuple[float, float]:
    """Run pytest on a file with these ``tests``; ``everything``: with whatever plugins are installed.

    Returns the seconds it took, and its processor time.

    Raises:
        CalledProcessError: if a test fails.
    """
    file = folder / "test_orders.py"
    file.write_text(tests)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *PLUGINS, str(file)]
    environment = {**os.environ, **({} if everything else {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"})}
    began, before = time.perf_counter(), _processor_time()
    subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True)
    return time.perf_counter() - began, _processor_time() - before


def _processor_time() -> float:
    """Of the processes that this one has started and waited for, in seconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
