"""What does not wobble: calls of Python functions, commands and bytes of a hop; and a profile of one."""

from __future__ import annotations

import cProfile
import pstats
import sys
from collections.abc import Callable, Iterable
from time import process_time
from typing import Any

import anyio

from benchmarks.cases import Scale
from benchmarks.contestants import choreo_
from benchmarks.race import ALONE, HOPS, lap, length, publish
from benchmarks.report import Row
from benchmarks.server import Server

#: Counting is slow, and every hop is like the other.
SAGAS = 1000
SHOWN = 45


def counts(server: Server, scale: Scale) -> Iterable[Row]:
    """Counts per hop of a backlog in one process."""
    sagas = min(SAGAS, scale.sagas)
    calls = [0]

    def count(frame: Any, event: str, argument: Any) -> None:
        calls[0] += event in ("call", "c_call")

    before = _fill(server, sagas)
    sys.setprofile(count)
    try:
        _work(server, sagas)
    finally:
        sys.setprofile(None)
    spent = lap(sagas * HOPS, 1.0, 0.0, before, server.spent())
    yield Row("a hop in counts", "calls of functions in Python", "calls", [calls[0] / (sagas * HOPS)])
    commands = {name: number for name, number in spent.calls.items() if name not in ("xlen", "info")}
    scripts = commands.pop("evalsha", 0.0)
    total = sum(commands.values())
    yield Row("a hop in counts", "commands at the server", "commands", [total], beside=commands)
    yield Row("a hop in counts", "scripts", "calls", [scripts])
    yield Row("a hop in counts", "to the server", "bytes", [spent.bytes_in])
    yield Row("a hop in counts", "from the server", "bytes", [spent.bytes_out])


def profile(server: Server, scale: Scale) -> None:
    """Print where a hop's processor time goes: functions of Python, then commands at the server."""
    sagas = min(10 * SAGAS, scale.sagas)
    _fill(server, sagas)
    began = process_time()
    _work(server, sagas)
    plain = (process_time() - began) / (sagas * HOPS) * 1e6
    _fill(server, sagas)
    profiler = cProfile.Profile(process_time)
    profiler.runcall(_work, server, sagas)
    rows = sorted(_functions(profiler, sagas * HOPS), reverse=True)
    total = sum(own for own, _, _ in rows)
    print(f"one process, {sagas:,} sagas: {plain:.1f} us of its processor time a hop; profiled {total:.1f}:")
    for own, number, where in rows[:SHOWN]:
        print(f"{own:8.2f} us  {number:6.2f} calls  {where}")
    print("at the server, by command:")
    stats: dict[str, Any] = server.client.info("commandstats")
    for name, each in sorted(stats.items(), key=lambda item: -item[1]["usec"]):
        own, number = each["usec"] / (sagas * HOPS), each["calls"] / (sagas * HOPS)
        if own > 0.01:
            print(f"{own:8.2f} us  {number:6.2f} calls  {name.removeprefix('cmdstat_')}")


def _functions(profiler: cProfile.Profile, hops: int) -> Iterable[tuple[float, float, str]]:
    stats: dict[Any, Any] = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    for (file, line, name), (_, number, own, _, _) in stats.items():
        where = f"{'/'.join(file.split('/')[-3:])}:{line} {name}" if line else name
        yield own / hops * 1e6, number / hops, where


def _fill(server: Server, sagas: int) -> Any:
    server.clear()
    publish(server, choreo_, 0, sagas)
    return server.spent()


def _work(server: Server, sagas: int) -> None:
    """Empty the backlog in this process."""
    ends = choreo_.end_streams()
    anyio.run(_until, server.url, lambda: length(server, ends) >= sagas)


async def _until(url: str, done: Callable[[], bool]) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(choreo_.serve, url, ALONE[0].split(","))
        while not done():  # noqa: ASYNC110 - the server knows, and nobody tells
            await anyio.sleep(0.1)
        tasks.cancel_scope.cancel()
