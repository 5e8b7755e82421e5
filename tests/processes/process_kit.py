"""choreo's processes, as a test drives them: started, watched, stopped, killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

#: Seconds within which whatever a test waits for must come.
PATIENCE = 60.0


def until(condition: Callable[[], object], what: str, *, seconds: float = PATIENCE) -> None:
    """Wait until ``condition`` holds; fail, naming ``what``, if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.02)


class Command:
    """A running ``choreo`` command."""

    def __init__(self, *arguments: str, environment: dict[str, str], log: Path) -> None:
        self.arguments = arguments
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "choreo.cli", *arguments],
                cwd=ROOT, env={**os.environ, **environment}, stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    @property
    def said(self) -> str:
        """Everything that it has printed."""
        return self.log.read_text(errors="replace")

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def wait_until_it_says(self, text: str, *, times: int = 1) -> None:
        until(
            lambda: self.said.count(text) >= times or not self.running,
            f"{self.arguments} to say {text!r}; it said:\n{self.said}",
        )
        assert self.said.count(text) >= times, f"{self.arguments} ended:\n{self.said}"

    def stop(self) -> int:
        """Ask it to end, and return its exit code."""
        if self.running:
            self._process.send_signal(signal.SIGTERM)
        return self._process.wait(PATIENCE)

    def kill(self) -> None:
        """End it at once, and what it has started."""
        if self.running:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(PATIENCE)


class Commands:
    """Starts commands against one server, and ends them."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        self.environment = environment
        self._started: list[Command] = []

    def start(self, *arguments: str) -> Command:
        log = self._folder / f"{len(self._started)}-{'-'.join(arguments[:3]).replace('/', '_')}.log"
        command = Command(*arguments, environment=self.environment, log=log)
        self._started.append(command)
        return command

    def run(self, *arguments: str) -> tuple[int, str]:
        """Run a command to its end. Returns its exit code and what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "choreo.cli", *arguments], cwd=ROOT,
            env={**os.environ, **self.environment}, stdin=subprocess.DEVNULL, capture_output=True,
            timeout=PATIENCE, check=False, text=True,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def end(self) -> None:
        for command in self._started:
            command.kill()


@contextmanager
def commands(folder: Path, environment: dict[str, str]) -> Iterator[Commands]:
    """Commands that are ended with the block."""
    started = Commands(folder, environment)
    try:
        yield started
    finally:
        started.end()
