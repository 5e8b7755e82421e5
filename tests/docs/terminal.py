"""A reader at a terminal, who types what a page says and compares what is printed, loosely.

In a ``console`` block lines that begin with ``$`` are typed into a shell; what follows each is what should
be printed. Every line of that must come, in any order (side by side branches come as they like) and with
any times and widths. ``...`` stands for any number of lines; at the end of a line, for its rest.

A command that stays up (``choreo dev``, ``choreo run``) is left running and counts as done when all that
should be printed was printed. ``^C`` among that ends it; typed again, the one that runs is ended first, as
a reader would.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.docs.pages import ROOT, Block, Page

#: Seconds within which whatever is waited for must come.
PATIENCE = 60.0

#: Stand-ins for what a reader has installed: the path of a script, and what it runs.
PROGRAMS = {
    ".terminal/choreo": "-m choreo.cli",
    ".venv/bin/choreo": "-m choreo.cli",
    ".terminal/python": "",
    ".terminal/redis-cli": str(ROOT / "tests" / "docs" / "redis_cli.py"),
    "scripts/try": "-m examples.tour",
    "scripts/test": "-c pass",  # the tests are what runs here
}

_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d )?\d\d:\d\d:\d\d")
_TIME = re.compile(r"\+?\b\d+(\.\d+)? (ms|s|min|h|d)\b( \d\d (s|min|h)\b)?")
_ORDINAL = re.compile(r"\b\d+(st|nd|rd|th)\b")
#: What a reaction's line says beyond what it is: how long it took, in which order it came.
_DETAILS = re.compile(r"  (waited|undone|no event)\b.*")
#: Which event a join sees first is a race.
_RACE = re.compile(r"⋯ .*")


@dataclass
class Terminal:
    """Types commands in ``folder``, with ``environment`` over that of the tests."""

    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    _up: dict[str, _Running] = field(default_factory=dict)
    _started: list[_Running] = field(default_factory=list)
    _exit_code: int = 0

    def __post_init__(self) -> None:
        for name, arguments in PROGRAMS.items():
            script = self.folder / name
            script.parent.mkdir(parents=True, exist_ok=True)
            script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments} "$@"\n')
            script.chmod(0o755)

    def follow(self, page: Page) -> None:
        """Do everything that a page says, from its top to its end."""
        for block in page.blocks:
            if block.language == "console":
                for command, printed in typed(block):
                    self.type(command, printed)
            elif block.file:
                self.save(block)

    def save(self, block: Block) -> None:
        """Save a block as the file that its first line names."""
        found = block.file
        assert found
        path, where = self.folder / found["name"], found["where"] or ""
        body = block.text.partition("\n")[2]
        if where == "at its end":
            path.write_text(f"{path.read_text('utf-8')}\n\n{body}", "utf-8")
        elif where.startswith("instead of the line that begins with "):
            begin = where.rpartition(" ")[2]
            old = [line for line in path.read_text("utf-8").splitlines() if line.strip().startswith(begin)]
            assert len(old) == 1, f"{path} has {len(old)} lines that begin with {begin!r}"
            path.write_text(path.read_text("utf-8").replace(f"{old[0]}\n", body), "utf-8")
        else:
            assert not where, f"where in {found['name']} is {where!r}?"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, "utf-8")

    def type(self, command: str, expected: list[str]) -> None:
        """Run a command, and compare what it prints."""
        words = shlex.split(command)
        self._check_known(words)
        if words[0].endswith("choreo") and words[1] in ("dev", "run"):
            self._leave_up(command, expected)
            return
        deadline = time.monotonic() + (PATIENCE if _only_looks(words) else 0)
        printed = self._run(command)
        while lacking(expected, printed) and time.monotonic() < deadline:
            time.sleep(0.1)
            printed = self._run(command)
        missing = lacking(expected, printed)
        assert not missing, f"{command}\nshould print\n{_listed(missing)}\nbut printed\n{printed}"

    def stop(self) -> None:
        """Stop everything that is up; each must end as it should."""
        for command in list(self._up):
            self._up.pop(command).interrupt()

    def clean_up(self) -> None:
        """End whatever has not been stopped, because something has failed."""
        for running in self._started:
            running.clean_up()

    def _check_known(self, words: list[str]) -> None:
        name = words[1] if words[0] == "sh" else words[0]
        known = {each.removeprefix(".terminal/") for each in PROGRAMS} | {"echo"}
        assert name in known, f"the pages may not use {name!r}: nobody would test it"

    def _run(self, command: str) -> str:
        """Run a command to its end. Returns what it printed."""
        done = subprocess.run(
            # To the shell, the last command has just ended with its code.
            ["sh", "-c", f"(exit {self._exit_code})\nexec {command}"], cwd=self.folder, env=self._environment,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE,
            check=False, text=True,
        )  # fmt: skip
        self._exit_code = done.returncode
        return done.stdout

    @property
    def _environment(self) -> dict[str, str]:
        outside = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("CHOREO_") and name not in ("COLUMNS", "FORCE_COLOR", "NO_COLOR")
        }
        path = f"{self.folder / '.terminal'}{os.pathsep}{os.environ['PATH']}"
        return {**outside, "PATH": path, "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1", **self.environment}

    def _leave_up(self, command: str, expected: list[str]) -> None:
        if command in self._up:
            self._up.pop(command).interrupt()
        log = self.folder / ".terminal" / f"{len(list(self.folder.glob('.terminal/*.log')))}.log"
        running = self._up[command] = _Running(command, self.folder, self._environment, log)
        self._started.append(running)
        stopped = expected.index("^C") if "^C" in expected else len(expected)
        running.wait_for(expected[:stopped])
        if stopped < len(expected):
            self._exit_code = self._up.pop(command).interrupt()
            running.wait_for(expected[:stopped] + expected[stopped + 1 :])
        elif any(line.startswith("choreo: ") for line in expected):  # it refuses to start
            self._exit_code = self._up.pop(command).wait()


class _Running:
    """A command that is up."""

    def __init__(self, command: str, folder: Path, environment: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                ["sh", "-c", f"exec {command}"], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT,
            )  # fmt: skip

    @property
    def said(self) -> str:
        return self._log.read_text("utf-8", errors="replace")

    def wait_for(self, expected: list[str]) -> None:
        until(
            lambda: not lacking(expected, self.said) or self._process.poll() is not None,
            lambda: f"{_listed(lacking(expected, self.said))}\nit printed\n{self.said}",
        )
        missing = lacking(expected, self.said)
        assert not missing, f"it ended without\n{_listed(missing)}\nand printed\n{self.said}"

    def interrupt(self) -> int:
        """Press Ctrl-C, and wait for an end in good order."""
        self._process.send_signal(signal.SIGINT)
        code = self.wait()
        assert code == 0, f"it ended with {code}, and printed\n{self.said}"
        return code

    def wait(self) -> int:
        """Wait until it ends by itself."""
        return self._process.wait(PATIENCE)

    def clean_up(self) -> None:
        """End it, if it is still there; gently at first, for it may have started a server."""
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(PATIENCE)


@contextmanager
def terminal(folder: Path, environment: Mapping[str, str] | None = None) -> Iterator[Terminal]:
    """A terminal; what is still up at the end of the block is stopped."""
    opened = Terminal(folder, dict(environment or {}))
    try:
        yield opened
        opened.stop()
    finally:
        opened.clean_up()


def until(condition: Callable[[], object], what: Callable[[], str]) -> None:
    """Wait until ``condition`` holds; fail, saying ``what`` was waited for, if it does not in time."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE:g} s for {what()}"
        time.sleep(0.05)


def _only_looks(words: list[str]) -> bool:
    """Whether a command changes nothing: a reader would look again until there is something to see."""
    if words[0] == "redis-cli":
        return words[1] in ("XRANGE", "XLEN", "XPENDING")
    return words[0].endswith("choreo") and words[1] in ("sagas", "trace")


def typed(block: Block) -> Iterator[tuple[str, list[str]]]:
    """The commands of a ``console`` block, each with the lines that it should print."""
    command = ""
    printed: list[str] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            if command:
                yield command, printed
            command, printed = line.removeprefix("$ "), []
        else:
            assert command, f"line {block.line}: a console block begins with a command"
            printed.append(line)
    yield command, printed


def lacking(expected: list[str], printed: str) -> list[str]:
    """The expected lines that were not printed."""
    there = Counter(map(loosely, printed.splitlines()))
    missing = []
    for line in expected:
        wanted = loosely(line)
        if wanted in ("", "..."):
            continue
        if wanted.endswith("..."):
            found = next((each for each in there if there[each] and each.startswith(wanted[:-3])), None)
        else:
            found = wanted if there[wanted] else None
        if found is None:
            missing.append(line)
        else:
            there[found] -= 1
    return missing


def loosely(line: str) -> str:
    """A line without what differs from run to run."""
    line = _MOMENT.sub("<time>", _RACE.sub("", _DETAILS.sub("", line)))
    line = _ORDINAL.sub("0th", _TIME.sub("", line))
    line = re.sub(r"\S*/\.choreo/\S*|unix://\S*", "<path>", line)
    line = re.sub(r"worker [\w.-]+-\w+", "worker <name>", line)
    line = re.sub(r"[│├└─]+", " ", line)
    return " ".join(line.split())


def _listed(lines: list[str]) -> str:
    return "\n".join(f"  {line}" for line in lines)
