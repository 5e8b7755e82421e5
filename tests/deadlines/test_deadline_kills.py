"""Tracker processes that are killed while they let deadlines pass."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from deadline_kit import PATIENCE, topology_of

from choreo.wire.topology import OWN_STREAM

pytestmark = pytest.mark.processes

ROOT = Path(__file__).resolve().parents[2]
CROWD, KILLS = 1500, 4

FILE = """\
namespace: {namespace}
partitions: 2
streams:
  orders: {{events: [Placed, Shipped]}}
sagas:
  order: {{starts_with: Placed, completes_with: [Shipped], deadline: 1s}}
"""


@contextmanager
def tracker(folder: Path, url: str) -> Iterator[subprocess.Popen[bytes]]:
    """A tracker's process; killed in the end, if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", "choreo.cli", "run", "tracker"],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT), "CHOREO_REDIS_URL": url},
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def until_more_than(wanted: int, client: redis.Redis, streams: list[str]) -> None:
    deadline = time.monotonic() + 3 * PATIENCE
    while sum(client.xlen(stream) for stream in streams) < wanted:
        assert time.monotonic() < deadline, f"waited for {wanted} sagas to time out"
        time.sleep(0.002)


def test_killed_anywhere(server_url: str, namespace: str, tmp_path: Path) -> None:
    """However often trackers are killed, each saga that is late times out, and once."""
    (tmp_path / "streams.yaml").write_text(FILE.format(namespace=namespace))
    keys, names = topology_of(namespace).keys, [f"s{number}" for number in range(CROWD)]
    own = [keys.stream(partition, OWN_STREAM) for partition in range(2)]
    chance = random.Random(3)
    with redis.Redis.from_url(server_url, protocol=2, decode_responses=True) as client:
        late = client.time()[0] * 1000 - 10_000
        pipeline = client.pipeline(transaction=False)
        for name in names:
            fields = {"id": f"p-{name}", "type": "Placed", "subject": name, "data": "{}", "time": late}
            pipeline.xadd(keys.stream(keys.partition(name), "orders"), fields)
        pipeline.execute()
        fired = 0
        for _ in range(KILLS):
            with tracker(tmp_path, server_url) as process:
                until_more_than(fired + chance.randint(1, CROWD // 6), client, own)
                process.send_signal(signal.SIGKILL)
                process.wait()
            fired = sum(client.xlen(stream) for stream in own)
            assert fired < CROWD, "all had timed out before the tracker was killed"
        with tracker(tmp_path, server_url):
            until_more_than(CROWD, client, own)
        timed_out = [fields["subject"] for stream in own for _, fields in client.xrange(stream)]
        assert sorted(timed_out) == sorted(names)
        states = {client.hget(keys.record(keys.partition(name), name), "state") for name in names}
        assert states == {"compensated"}
