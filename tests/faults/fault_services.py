"""Services in processes of their own, as the tests drive them: started, watched, paused, killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.processes.process_kit import ROOT, until

HERE = Path(__file__).resolve().parent


class Nursery:
    """Starts services, and is what sends them signals; see fault_nursery."""

    def __init__(self) -> None:
        paths = (str(ROOT), str(HERE))
        self._process = subprocess.Popen(
            [sys.executable, HERE / "fault_nursery.py"], start_new_session=True, text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONHASHSEED": "0"},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def ask(self, **request: Any) -> Any:
        """The answer to a request."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request, default=str) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, job: str, log: Path, **arguments: Any) -> Service:
        log.touch()
        return Service(self, self.ask(job=job, log=log, **{"with": arguments}), log)

    def end(self) -> None:
        """End it and everything that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


@dataclass(frozen=True)
class Service:
    """A process that does one job of fault_jobs."""

    nursery: Nursery
    pid: int
    log: Path

    @property
    def ended(self) -> int | None:
        """The code with which it has ended, or minus the signal; ``None`` while it lives."""
        return self.nursery.ask(ended=self.pid)

    @property
    def said(self) -> str:
        """Everything that it has printed."""
        return self.log.read_text(errors="replace")

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, if it lives."""
        self.nursery.ask(signal=number, to=self.pid)

    def kill(self) -> None:
        """End it where it stands, and wait until it is gone."""
        self.send(signal.SIGKILL)
        until(lambda: self.ended is not None, f"process {self.pid} to end")
