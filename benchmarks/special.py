"""Cases of choreo's own: other handlers, hot sagas, much that is stored, memory, start-up, idling."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from benchmarks import chain, handlers, latency
from benchmarks.cases import ENDS, Scale
from benchmarks.contestants import choreo_
from benchmarks.race import ALONE, APART, HOPS, backlog, crew, length, publish, send, timed, wait_until
from benchmarks.report import Row, ratio
from benchmarks.server import Server
from choreo.model.event import Event, type_name
from choreo.wire.envelope import encode_data

KEYS = handlers.TOPOLOGY.keys
ANSWERS = [KEYS.stream(number, "answered") for number in range(chain.PARTITIONS)]
HOT = "hot-saga"
TICKS = 10_000
_LOOK = "import choreo, sys; print(len({'redis', 'rich', 'yaml'} & set(sys.modules)))"
_COPY = """
for number = tonumber(ARGV[1]), tonumber(ARGV[2]) do
  local saga = string.format('old-%08d', number)
  for at = 4, #ARGV do
    redis.call('RESTORE', KEYS[at - 3] .. saga, 0, ARGV[at])
  end
  redis.call('ZADD', KEYS[#KEYS], ARGV[3] + number, saga)
end"""


def _started(event: Event, stream: str, saga: str, number: int) -> tuple[object, ...]:
    return (
        "XADD", KEYS.stream(KEYS.partition(saga), stream), "*", "id", f"q-{number}", "type", type_name(event),
        "subject", saga, "source", "client", "time", int(time.time() * 1000), "data", encode_data(event),
    )  # fmt: skip


def questions(first: int, count: int) -> Iterator[tuple[object, ...]]:
    """Events that a single handler answers; its answer ends the saga."""
    for number in range(first, first + count):
        yield _started(handlers.Asked(number), "asked", chain.saga_id(number), number)


def naps(number: int) -> list[tuple[object, ...]]:
    """Five events whose handler sleeps for 100 ms: at 100 of these a second, fifty sleep at any time."""
    return [
        _started(handlers.Slept(each), "slept", f"nap-{each}", each)
        for each in range(5 * number, 5 * number + 5)
    ]


def real_handlers(server: Server, scale: Scale) -> Iterable[Row]:
    """Handlers that wait for something, and handlers that are no coroutines."""
    for kind, wanted in (("await", ""), ("thread", ">= 5000")):
        rates = []
        for _ in range(scale.rounds):
            server.clear()
            count = max(500, scale.sagas // 5)
            send(server, questions(0, count))
            with crew("choreo_", [f"handlers:{kind}"], server.url, go=False) as members:
                rates.append(timed(server, members, count, lambda: length(server, ANSWERS)).rate)
        beside = {"10 ms each, 1,000 at once: at most": 100_000.0} if kind == "await" else {}
        yield Row("real handlers", kind, "events/s", rates, wanted, beside)


def neighbours(server: Server, scale: Scale) -> Iterable[Row]:
    """Latency of a quick step: by itself, beside one that sleeps for 100 ms, beside a hot saga."""
    found: dict[str, list[float]] = {"by itself": [], "beside sleepers": [], "beside a hot saga": []}
    for _ in range(scale.rounds):
        for kind, medians in found.items():
            server.clear()
            with crew("choreo_", ["handlers:quick"], server.url):
                latency.measure(server, questions, ANSWERS, 20, 1.0, first=10_000_000)
                if kind == "beside a hot saga":
                    send(server, [_started(handlers.Ticked(TICKS), "ticks", HOT, 0)])
                beside = naps if kind == "beside sleepers" else None
                found_now = latency.measure(server, questions, ANSWERS, 100, scale.seconds, beside=beside)
                medians.append(latency.percentile(found_now, 50))
    for kind, medians in found.items():
        yield Row("neighbours, median latency", kind, "ms", medians)


def growth(server: Server, scale: Scale) -> Iterable[Row]:
    """The rate with many stored sagas against the rate with few, and how long a page of a listing takes."""
    few, many = [], []
    sagas = max(200, scale.sagas // 5)
    for _ in range(scale.rounds):
        few.append(backlog(server, "choreo_", APART, sagas).rate)
    _store(server, scale.stored)
    base = sagas
    for number in range(scale.rounds):
        publish(server, choreo_, base + number * sagas, sagas)
        with crew("choreo_", APART, server.url, go=False) as members:
            target = HOPS * length(server, ENDS) + HOPS * sagas
            many.append(timed(server, members, target, lambda: HOPS * length(server, ENDS)).rate)
    yield ratio("growth", f"with {scale.stored:,} stored sagas : with none", many, few, ">= 0.9")
    began = time.perf_counter()
    keys = chain.TOPOLOGY.keys
    index = keys.index(0, "order", "completed")
    server.client.zrevrangebyscore(index, "+inf", "-inf", start=0, num=50, withscores=True)
    yield Row("growth", "a page of a partition's index", "ms", [(time.perf_counter() - began) * 1000], "< 50")


def _store(server: Server, count: int) -> None:
    """Copies of a saga that has ended: record, view and trace of each, and its place in the index."""
    keys = chain.TOPOLOGY.keys
    with crew("choreo_", [choreo_.TRACKER], server.url):
        pattern = chain.saga_id(0)
        home = keys.partition(pattern)
        wait_until(lambda: int(server.client.exists(keys.view(home, pattern))), 1)
        time.sleep(1.0)
    kinds = (keys.record, keys.view, keys.trace)
    dumps = [server.client.dump(kind(home, pattern)) for kind in kinds]
    script = server.client.register_script(_COPY)
    share = count // chain.PARTITIONS
    for partition in range(chain.PARTITIONS):
        names = [kind(partition, "") for kind in kinds] + [keys.index(partition, "order", "completed")]
        for first in range(0, share, 1000):
            script(names, [first, min(first + 999, share - 1), 1_700_000_000_000, *dumps])
    # Gigabytes of its file wait to be written to the disk now, and whoever writes next waits with them.
    os.sync()


def memory(server: Server, scale: Scale) -> Iterable[Row]:
    """What a finished saga leaves beside its stream entries, by `used_memory` and by `MEMORY USAGE`."""
    sagas = max(1000, scale.sagas)
    backlog(server, "choreo_", APART, sagas)
    keys = chain.TOPOLOGY.keys
    with crew("choreo_", [choreo_.TRACKER], server.url):
        last = chain.saga_id(sagas - 1)
        wait_until(lambda: int(server.client.exists(keys.view(keys.partition(last), last))), 1)
        time.sleep(2.0)
    streams = server.client.scan_iter("*", count=1000, _type="stream")
    entries = sum(server.client.memory_usage(key, samples=0) for key in streams)
    server.client.execute_command("MEMORY", "PURGE")
    used = server.client.info("memory")["used_memory"] - server.client.info("memory")["used_memory_startup"]
    each = [_usage(server, chain.saga_id(number)) for number in range(0, sagas, max(1, sagas // 100))]
    parts = {name: sum(one[name] for one in each) / len(each) for name in each[0]}
    yield Row("memory of a finished saga", "used_memory", "bytes", [(used - entries) / sagas], "<= 1536")
    yield Row("memory of a finished saga", "MEMORY USAGE", "bytes", [sum(parts.values())], "<= 1536", parts)
    yield Row("memory of a finished saga", "its stream entries", "bytes", [entries / sagas])


def _usage(server: Server, saga: str) -> dict[str, float]:
    keys = chain.TOPOLOGY.keys
    home = keys.partition(saga)
    names = {"record": keys.record(home, saga), "work": keys.work(home, saga), "view": keys.view(home, saga),
             "trace": keys.trace(home, saga)}  # fmt: skip
    return {name: server.client.memory_usage(key, samples=0) or 0 for name, key in names.items()}


def start_up(server: Server, scale: Scale) -> Iterable[Row]:
    """`choreo --help` against importing click, and what `import choreo` brings in."""
    click, helping = [], []
    for _ in range(scale.rounds * 3):
        click.append(_seconds(["-c", "import click"]))
        helping.append(_seconds(["-m", "choreo.cli", "--help"]))
    yield ratio("start-up", "choreo --help : import click", helping, click, "<= 3")
    found = subprocess.run(
        [sys.executable, "-c", _LOOK],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    yield Row("start-up", "of redis, rich, yaml imported by choreo", "modules", [float(found)], "0")


def _seconds(arguments: Sequence[str]) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
    return time.perf_counter() - began


def idling(server: Server, scale: Scale) -> Iterable[Row]:
    """Processor time of a process that has nothing to do."""
    for who, roles in (("a worker", APART[:1]), ("three in one process", ALONE), ("a tracker", ["tracker"])):
        server.clear()
        with crew("choreo_", roles, server.url) as members:
            time.sleep(2.0)
            before = members.cpu()
            time.sleep(scale.seconds)
            share = (members.cpu() - before) / scale.seconds * 100
        yield Row("idling", who, "% of a core", [share], "< 1" if who == "a worker" else "")


CASES: dict[str, Any] = {
    "handlers": real_handlers, "neighbours": neighbours, "growth": growth, "memory": memory,
    "start-up": start_up, "idle": idling,
}  # fmt: skip
