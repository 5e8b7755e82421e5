"""The server that all contestants use, and what it has spent."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis import Redis

from choreo.broker.engine import EngineProcess


@dataclass(frozen=True, slots=True)
class Server:
    """A server with an append-only file, as production would have it, and a client of it."""

    url: str
    name: str
    pid: int
    client: Any

    def clear(self) -> None:
        """Forget everything: data and statistics."""
        self.client.flushall()
        self.client.config_resetstat()

    def spent(self) -> Spent:
        """What the server has done since :meth:`clear`."""
        commands: dict[str, dict[str, Any]] = self.client.info("commandstats")
        stats = self.client.info("stats")
        return Spent(
            cpu=cpu_seconds(self.pid),
            calls={name.removeprefix("cmdstat_").lower(): each["calls"] for name, each in commands.items()},
            bytes_in=stats["total_net_input_bytes"],
            bytes_out=stats["total_net_output_bytes"],
        )


@dataclass(frozen=True, slots=True)
class Spent:
    """What a server has done so far."""

    cpu: float
    """Seconds of processor time."""
    calls: dict[str, int]
    """Command -> how often it ran, those within scripts included."""
    bytes_in: int
    bytes_out: int


@contextmanager
def running_server() -> Iterator[Server]:
    """A server of this run's own, gone with all its data at the end of the block."""
    with tempfile.TemporaryDirectory(prefix="choreo-bench-", ignore_cleanup_errors=True) as folder:
        # Measuring fills the append-only file with gigabytes; rewriting it would disturb at random.
        extra = {"auto-aof-rewrite-percentage": "0"}
        with EngineProcess(Path(folder), extra=extra) as engine, Redis.from_url(engine.url) as client:
            yield Server(engine.url, engine.server, engine.pid, client)


def cpu_seconds(pid: int) -> float:
    """Processor time of a process, in seconds; 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / 100
