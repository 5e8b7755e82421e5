"""Every template works as it is written: its tests pass, its checks are clean, and its README is right."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from choreo.projects import templates, write_project
from choreo.wire.streams_yaml import load

ROOT = Path(__file__).resolve().parents[2]
#: A command of a README, and how its saga ends.
COMMAND = re.compile(r"^choreo (start .*?) +# (completed|compensated|failed)$", re.MULTILINE)
#: Seconds.
PATIENCE = 60

EACH_TEMPLATE = pytest.mark.parametrize("template", templates())


@pytest.fixture
def project(template: str, tmp_path: Path) -> Path:
    write_project(template, tmp_path / "project")
    return tmp_path / "project"


def environment(project: Path, **more: str) -> dict[str, str]:
    """That of a shell in the project, with this choreo."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "CHOREO", "COV"))}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **more}


def call(project: Path, command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the project to its end."""
    return subprocess.run(
        command, cwd=project, env=environment(project, **variables),
        capture_output=True, check=False, text=True, timeout=4 * PATIENCE,
    )  # fmt: skip


def plugin() -> list[str]:
    """Loads the plugin where choreo is not installed and only on the path."""
    installed = any(each.value == "choreo.testing.plugin" for each in entry_points(group="pytest11"))
    return [] if installed else ["-p", "choreo.testing.plugin"]


@EACH_TEMPLATE
def test_its_tests_pass(project: Path) -> None:
    """At once, as they are written. What is skipped is only what a matrix's saga does not come across."""
    ran = call(project, [sys.executable, "-m", "pytest", "-q", "-rs", *plugin()])
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.search(r"\b[1-9]\d* passed", ran.stdout)
    skipped = [line for line in ran.stdout.splitlines() if line.startswith("SKIPPED")]
    assert all("planted, but did not happen" in line for line in skipped), ran.stdout


@EACH_TEMPLATE
def test_its_check_is_clean(project: Path) -> None:
    """`choreo check` finds nothing."""
    checked = call(project, [sys.executable, "-m", "choreo.cli", "check"])
    assert checked.returncode == 0, checked.stdout + checked.stderr


@contextmanager
def running(project: Path, url: str) -> Iterator[None]:
    """Every participant and the tracker, each as a process of its own."""
    names = list(load(project / "streams.yaml").participants)
    with ExitStack() as stack:
        processes: list[subprocess.Popen[Any]] = []
        for arguments in [["tracker"], *(["participant", name] for name in names)]:
            log = stack.enter_context((project / f"{arguments[-1]}.log").open("wb"))
            process = subprocess.Popen(
                [sys.executable, "-m", "choreo.cli", "run", *arguments],
                cwd=project, env=environment(project, CHOREO_REDIS_URL=url), stdout=log, stderr=log,
            )  # fmt: skip
            processes.append(stack.enter_context(process))
        try:
            yield
        finally:
            for process in processes:
                process.terminate()
    assert [process.returncode for process in processes] == [0] * len(processes), _logs(project)


def _logs(project: Path) -> str:
    return "\n".join(f"{path.name}:\n{path.read_text()}" for path in project.glob("*.log"))


@pytest.mark.processes
@EACH_TEMPLATE
def test_its_readme_is_right(project: Path, server_url: str) -> None:
    """On real processes and a real server, every saga that the README starts ends as the README says."""
    commands = COMMAND.findall((project / "README.md").read_text("utf-8"))
    assert len({end for _, end in commands}) > 1, "the README shows one way to end only"
    with running(project, server_url):
        for command, end in commands:
            script = f"{sys.executable} -m choreo.cli {command} --timeout {PATIENCE}"
            ran = call(project, ["sh", "-c", script], CHOREO_REDIS_URL=server_url)
            assert end in ran.stdout, f"{command}\n{ran.stdout}{ran.stderr}\n{_logs(project)}"
            assert ran.returncode == (0 if end == "completed" else 1), ran.stdout + ran.stderr
