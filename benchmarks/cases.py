"""The cases that are measured in rounds: everyone in turn, and what is wanted of their ratios."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks import chain, latency
from benchmarks.contestants import choreo_
from benchmarks.race import (
    ALONE,
    APART,
    HOPS,
    Lap,
    backlog,
    crew,
    length,
    load_contestant,
    publish,
    timed,
    wait_until,
)
from benchmarks.report import Row, ratio
from benchmarks.server import Server

CONTESTANTS = ("choreo_", "bare", "faststream_", "dramatiq_")
ENDS, JOURNALS = choreo_.end_streams(), choreo_.journals()
#: How many times fewer sagas the others get, so that they need about the same time.
FEWER = {"faststream_": 10, "dramatiq_": 10}


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    rounds: int = 5
    sagas: int = 50_000
    seconds: float = 10.0
    """Of a latency run."""
    minute: int = 400_000
    """Sagas that keep three processes, and the trackers beside them, busy for about a minute."""
    stored: int = 1_000_000
    """Sagas that are there already, in the case of growth."""


def competitors() -> list[str]:
    """Those that are installed."""
    return [name for name in CONTESTANTS if load_contestant(name).INSTALLED]


def backlogs(server: Server, scale: Scale) -> Iterable[Row]:
    """50,000 waiting sagas, by one process and by three."""
    for case, roles in (("backlog, 1 process", ALONE), ("backlog, 3 processes", APART)):
        laps: dict[str, list[Lap]] = {name: [] for name in competitors()}
        for _ in range(scale.rounds):
            for name, done in laps.items():
                done.append(backlog(server, name, roles, max(200, scale.sagas // FEWER.get(name, 1))))
        for name, done in laps.items():
            yield _lap_row(case, name.rstrip("_"), "hops/s", done)
        yield from _wanted(case, laps, {"faststream_": ">= 10", "bare": ">= 0.4"})


def _wanted(case: str, laps: dict[str, list[Lap]], wanted: dict[str, str]) -> Iterable[Row]:
    rates = {name: [lap.rate for lap in done] for name, done in laps.items()}
    for other, what in wanted.items():
        if other in rates:
            yield ratio(case, f"choreo : {other.rstrip('_')}", rates["choreo_"], rates[other], what)


def _lap_row(case: str, who: str, unit: str, laps: Sequence[Lap]) -> Row:
    middle = sorted(laps, key=lambda lap: lap.members_us)[len(laps) // 2]
    beside = {"members us": middle.members_us, "server us": middle.server_us}
    return Row(case, who, unit, [lap.rate for lap in laps], beside=beside)


def unwinding(server: Server, scale: Scale) -> Iterable[Row]:
    """Three steps and three undos a saga, against the forward rate."""
    there, back = [], []
    sagas = max(200, scale.sagas // 4)
    roles = [f"{name}:unwinding" for name in APART]
    for _ in range(scale.rounds):
        there.append(backlog(server, "choreo_", APART, sagas))
        server.clear()
        publish(server, choreo_, 0, sagas)
        with crew("choreo_", roles, server.url, go=False) as members:
            # A step tells its journal nothing, an undo one fact: three of six commits.
            back.append(timed(server, members, 2 * HOPS * sagas, lambda: 2 * length(server, JOURNALS)))
    yield _lap_row("unwinding", "choreo", "commits/s", back)
    rates = [lap.rate for lap in back], [lap.rate for lap in there]
    yield ratio("unwinding", "back : forward", *rates, ">= 0.6")


def tracking(server: Server, scale: Scale) -> Iterable[Row]:
    """The tracker alone behind three participants' work, and beside them."""
    produced, projected, beside, lags = [], [], [], []
    sagas = max(200, scale.sagas // 2)
    facts = sagas * (HOPS + 1)
    for _ in range(scale.rounds):
        done = backlog(server, "choreo_", APART, sagas)
        produced.append(done.rate * (HOPS + 1) / HOPS)
        with crew("choreo_", [choreo_.TRACKER], server.url, go=False) as members:
            projected.append(timed(server, members, facts, lambda: _projected(server, facts)))
        lap, lag = _all_together(server, sagas)
        beside.append(lap)
        lags.append(lag)
    yield _lap_row("tracker alone", "choreo", "facts/s", projected)
    yield ratio("tracker alone", "projected : produced", [lap.rate for lap in projected], produced, ">= 1")
    yield _lap_row("tracker beside", "choreo", "hops/s", beside)
    yield Row("tracker beside", "work behind at the end", "s", lags, "<= 1")


def minute(server: Server, scale: Scale) -> Iterable[Row]:
    """Participants at full load, and one to three trackers beside them, for about a minute; once each."""
    for trackers in (1, 2, 3):
        lap, lag = _all_together(server, scale.minute, trackers)
        seconds = HOPS * scale.minute / lap.rate
        case = f"{trackers} tracker{'s' if trackers > 1 else ''} beside for {seconds:.0f} s"
        yield _lap_row(case, "choreo", "hops/s", [lap])
        yield Row(case, "work behind at the end", "s", [lag], "<= 1")


def _all_together(server: Server, sagas: int, trackers: int = 1) -> tuple[Lap, float]:
    """Three participants and trackers empty a backlog. Returns how the participants did, and how many
    seconds the trackers needed after them to catch up."""
    server.clear()
    publish(server, choreo_, 0, sagas)
    with crew("choreo_", [*APART, *[choreo_.TRACKER] * trackers], server.url, go=False) as members:
        lap = timed(server, members, HOPS * sagas, lambda: HOPS * length(server, ENDS))
        end = time.perf_counter()
        wait_until(lambda: _projected(server, 1), 1)
        return lap, time.perf_counter() - end


def _projected(server: Server, facts: int) -> int:
    """All ``facts`` if the tracker is at the end of every stream, else none. To count them on the way would
    keep the server busier than the tracker does."""
    keys = chain.TOPOLOGY.keys
    pipeline = server.client.pipeline(transaction=False)
    for partition in range(chain.PARTITIONS):
        for name in chain.TOPOLOGY.streams:
            stream = keys.stream(partition, name)
            pipeline.xrevrange(stream, count=1)
            pipeline.hget(keys.tracker(partition), f"at:{stream}")
    answers = iter(pipeline.execute())
    ends = zip(answers, answers, strict=True)
    return facts if all(not newest or newest[0][0] == position for newest, position in ends) else 0


def latencies(server: Server, scale: Scale) -> Iterable[Row]:
    """100 sagas a second, three processes."""
    names = [name for name in competitors() if name != "dramatiq_"]
    medians: dict[str, list[float]] = {name: [] for name in names}
    tails: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(scale.rounds):
        for name in names:
            values = _latency(server, name, APART, scale.seconds)
            medians[name].append(latency.percentile(values, 50))
            tails[name].append(latency.percentile(values, 99))
    for name in names:
        yield Row("latency, median", name.rstrip("_"), "ms", medians[name])
        wanted = "< 10" if name == "choreo_" else ""
        yield Row("latency, 99th percentile", name.rstrip("_"), "ms", tails[name], wanted)
    for other, wanted in {"bare": "<= 1.5", "faststream_": "<= 1"}.items():
        if other in medians:
            who = f"choreo : {other.rstrip('_')}"
            yield ratio("latency, median", who, medians["choreo_"], medians[other], wanted)


def _latency(server: Server, name: str, roles: Sequence[str], seconds: float) -> list[float]:
    contestant = load_contestant(name)
    server.clear()
    contestant.prepare(server)
    with crew(name, roles, server.url):
        # What is done once (connecting, making groups, compiling scripts) is not latency.
        latency.measure(server, contestant.commands, contestant.end_streams(), 20, 1.0, first=10_000_000)
        return latency.measure(server, contestant.commands, contestant.end_streams(), 100, seconds)
