"""End-to-end latency under a steady load: from just before an event is sent to the last event's arrival."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Sequence
from statistics import quantiles
from typing import Any

from redis import Redis

from benchmarks.server import Server

#: Finds a saga's number in whatever a framework makes of a message.
SAGA = re.compile(rb"saga-(\d{8})")
#: Seconds that stragglers get.
PATIENCE = 20.0


class Arrivals(threading.Thread):
    """Notes when the last event of each saga arrives."""

    def __init__(self, url: str, streams: Sequence[str], wanted: range) -> None:
        super().__init__(daemon=True)
        self.at: dict[int, float] = {}
        self._client: Any = Redis.from_url(url, protocol=2)
        self._positions: dict[Any, Any] = dict.fromkeys((stream.encode() for stream in streams), b"0-0")
        self._wanted = wanted

    def run(self) -> None:
        """Read until all are there, or nothing comes any more."""
        last = time.monotonic()
        while len(self.at) < len(self._wanted) and time.monotonic() < last + PATIENCE:
            for stream, entries in self._client.xread(self._positions, block=1000):
                last = time.monotonic()
                self._positions[stream] = entries[-1][0]
                for _, fields in entries:
                    found = SAGA.search(b" ".join(fields.values()))
                    if found and int(found[1]) in self._wanted:
                        self.at.setdefault(int(found[1]), time.perf_counter())


def measure(
    server: Server, commands: Callable[[int, int], Any], ends: Sequence[str], per_second: int, seconds: float,
    first: int = 0, beside: Callable[[int], list[Any]] | None = None,
) -> list[float]:  # fmt: skip
    """Latencies in milliseconds of sagas that begin at a steady rate. ``beside``: commands to send with each.

    Raises:
        RuntimeError: if some do not end.
    """
    count = int(per_second * seconds)
    prepared = [next(iter(commands(first + number, 1))) for number in range(count)]
    arrivals = Arrivals(server.url, ends, range(first, first + count))
    arrivals.start()
    sent = {}
    begin = time.perf_counter()
    for number, command in enumerate(prepared):
        pause = begin + number / per_second - time.perf_counter()
        if pause > 0:
            time.sleep(pause)
        sent[first + number] = time.perf_counter()
        server.client.execute_command(*command)
        for extra in beside(number) if beside else ():
            server.client.execute_command(*extra)
    arrivals.join()
    missing = sent.keys() - arrivals.at.keys()
    if missing:
        raise RuntimeError(f"{len(missing)} of {count} sagas did not end")
    return [(arrivals.at[number] - moment) * 1000 for number, moment in sent.items()]


def percentile(values: Sequence[float], which: int) -> float:
    """The 50th, 99th, ... percentile."""
    return quantiles(values, n=100, method="inclusive")[which - 1]
