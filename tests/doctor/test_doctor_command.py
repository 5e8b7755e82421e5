"""`choreo doctor` as it is used."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from choreo.cli.doctoring import format_check, format_remedy
from choreo.cli.main import cli
from choreo.doctor.verdict import Checked, Verdict

STREAMS = """
namespace: test
partitions: 2
streams: {orders: {events: [Placed, Paid]}}
participants: {payments: "shop:payments"}
sagas: {order: {starts_with: Placed, completes_with: [Paid]}}
"""


@pytest.fixture
def doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs the command in a folder with a streams.yaml; participants' code is not needed."""
    (tmp_path / "streams.yaml").write_text(STREAMS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CHOREO_REDIS_URL", raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    return lambda *arguments: CliRunner().invoke(cli, ["doctor", *arguments])


def test_a_good_server(doctor: Callable[..., Result], server_process: Any) -> None:
    """On a server with an append-only file every check is fine, and so is the exit code."""
    result = doctor("--redis", server_process().url)
    assert "✓ append-only-file  on\n" in result.stdout
    assert "nothing is wrong at unix:" in result.stdout
    assert result.exit_code == 0


def test_a_bad_server(doctor: Callable[..., Result], server_process: Any) -> None:
    """A problem is shown with its remedy below it, and makes the exit code 1."""
    result = doctor("--redis", server_process({"maxmemory-policy": "allkeys-lru"}).url)
    lines = result.stdout.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("✗ eviction"))
    assert lines[at + 2] == "      redis-cli CONFIG SET maxmemory-policy noeviction"
    assert lines[-1].startswith("1 problem at ")
    assert result.exit_code == 1


def test_json(doctor: Callable[..., Result], server_process: Any) -> None:
    """--json gives a list of what each check found; defaults are left out."""
    result = doctor("--json", "--redis", server_process({"maxmemory-policy": "allkeys-lru"}).url)
    said = {each["check"]: each for each in json.loads(result.stdout)}
    assert said["eviction"]["verdict"] == "problem"
    assert said["eviction"]["remedy"][0].startswith("redis-cli ")
    assert said["cluster"] == {"check": "cluster", "verdict": "ok", "what": "off"}
    assert result.exit_code == 1


def test_no_server(doctor: Callable[..., Result]) -> None:
    """A server that is away is exit code 3, and named."""
    result = doctor("--redis", "redis://localhost:1/0")
    assert result.exit_code == 3
    assert "redis://localhost:1/0: " in result.stderr
    assert result.stdout == ""


def test_names_from_outside_are_cleaned() -> None:
    """A group may be called whatever its maker liked; what would not print is shown as an escape."""
    found = Checked("groups", Verdict.PROBLEM, "a\x1b[31mb", ("rm a\x1b[0m",))
    console = Console(file=io.StringIO(), record=True)
    console.print(format_check(found), format_remedy(found))
    shown = console.export_text()
    assert "a\\x1b[31mb" in shown
    assert "rm a\\x1b[0m" in shown
    assert "\x1b" not in shown
