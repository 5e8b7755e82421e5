"""The pytest plugin, as a project that uses choreo sees it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

STREAMS = """
namespace: shop
streams:
  all: {events: [Placed, Paid]}
participants:
  payments: payments:payments
sagas:
  order: {starts_with: Placed, completes_with: [Paid]}
"""
CODE = """
from choreo import Event, Participant

class Placed(Event):
    cents: int = 1

class Paid(Event):
    pass

payments = Participant("payments")

@payments.on(Placed)
def charge(placed: Placed) -> Paid:
    return Paid()
"""
TESTS = """
import asyncio
import pytest
import redis
from payments import Placed

@pytest.mark.anyio
async def test_it(choreo_harness):
    async with choreo_harness() as shop:
        order = await shop.start(Placed())
        await shop.settle()
        order.assert_status("completed")

def test_without_a_plugin_for_coroutines(choreo_harness):
    async def main():
        async with choreo_harness(seed=3) as shop:
            order = await shop.start(Placed())
            await shop.settle()
            order.assert_status("completed")
    asyncio.run(main())

def test_server(choreo_server):
    with redis.Redis.from_url(choreo_server) as client:
        assert client.ping()

@pytest.fixture
def anyio_backend():
    return "asyncio"
"""


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in a folder of its own, as a user would."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "choreo.testing.plugin", "-p", "no:cacheprovider"]
    return subprocess.run(
        [*command, *arguments], cwd=folder, capture_output=True, text=True, check=False,
        env={"PYTHONPATH": f"{ROOT}:{folder}", "PATH": "/usr/bin:/bin:/usr/local/bin"},
    )  # fmt: skip


def test_it_costs_other_projects_nothing() -> None:
    """pytest loads it in every run: it imports nothing of choreo but itself, nor what choreo stands on."""
    look = "import sys, choreo.testing.plugin; print(*(n for n in sys.modules if n.split('.')[0] in {names}))"
    names = ("choreo", "anyio", "fakeredis", "msgspec", "redis", "rich", "yaml")
    found = subprocess.run(
        [sys.executable, "-c", look.format(names=names)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert set(found.stdout.split()) == {"choreo", "choreo.testing", "choreo.testing.plugin"}


def test_the_fixtures(tmp_path: Path) -> None:
    """`choreo_harness` finds the nearest streams.yaml; `choreo_server` is a real server."""
    (tmp_path / "streams.yaml").write_text(STREAMS)
    (tmp_path / "payments.py").write_text(CODE)
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_payments.py").write_text(TESTS)
    done = run_pytest(tmp_path)
    assert "3 passed" in done.stdout, done.stdout + done.stderr


def test_no_streams_yaml(tmp_path: Path) -> None:
    """Whoever has none is told what to give instead."""
    (tmp_path / "test_it.py").write_text("def test_it(choreo_harness):\n    choreo_harness()\n")
    done = run_pytest(tmp_path)
    assert "there is no streams.yaml" in done.stdout
    assert "choreo_harness(participants=[...])" in done.stdout


def test_the_plugin_is_light() -> None:
    """It is loaded in every test run of an environment, so it brings in nothing before it is used."""
    code = (
        "import sys, pytest, choreo.testing.plugin;"
        "print(sorted({'redis', 'fakeredis', 'rich', 'anyio', 'lupa', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_plugin_is_announced() -> None:
    """pytest finds it by its entry point, which is named like its module."""
    assert '"choreo.testing.plugin" = "choreo.testing.plugin"' in (ROOT / "pyproject.toml").read_text("utf-8")
