"""Running a contestant's processes against the server, and timing how they empty a backlog."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from benchmarks.server import Server, Spent, cpu_seconds

#: One process with all participants, or a process for each.
ALONE = ("payments,inventory,shipping",)
APART = ("payments", "inventory", "shipping")
HOPS = 3
#: Seconds without any progress after which a run is given up.
PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Lap:
    """What one run came to."""

    rate: float
    """What was counted (hops, commits, facts), per second."""
    members_us: float
    """Processor time of the contestant's processes per count, in microseconds."""
    server_us: float
    """Processor time of the server per count, in microseconds."""
    calls: dict[str, float]
    """Commands per count, those within scripts included."""
    bytes_in: float
    """Bytes that the server got per count."""
    bytes_out: float


class Crew:
    """Processes of one contestant."""

    def __init__(self, contestant: str, roles: Sequence[str], url: str) -> None:
        self.members = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.member", contestant, each, url],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
            for each in roles
        ]  # fmt: skip
        for member in self.members:
            if not member.stdout or member.stdout.readline() != "ready\n":
                raise RuntimeError(f"a process of {contestant} does not start")

    def go(self) -> None:
        """Let them begin."""
        for member in self.members:
            if member.stdin:
                member.stdin.write("go\n")
                member.stdin.flush()

    def cpu(self) -> float:
        """Processor time that they have used, in seconds."""
        return sum(cpu_seconds(member.pid) for member in self.members)

    def end(self) -> None:
        """End them; nothing of theirs is needed any more."""
        for member in self.members:
            member.kill()
        for member in self.members:
            member.communicate()


@contextmanager
def crew(contestant: str, roles: Sequence[str], url: str, *, go: bool = True) -> Iterator[Crew]:
    """Processes of a contestant for a block of code."""
    made = Crew(contestant, roles, url)
    try:
        if go:
            made.go()
        yield made
    finally:
        made.end()


def load_contestant(name: str) -> Any:
    """The module of a contestant."""
    return import_module(f"benchmarks.contestants.{name}")


def backlog(server: Server, name: str, roles: Sequence[str], sagas: int) -> Lap:
    """Publish first events, then let a contestant's processes work until all last events are there."""
    contestant = load_contestant(name)
    server.clear()
    contestant.prepare(server)
    publish(server, contestant, 0, sagas)
    ends = contestant.end_streams()
    with crew(name, roles, server.url, go=False) as members:
        return timed(server, members, sagas * HOPS, lambda: HOPS * length(server, ends))


def publish(server: Server, contestant: Any, first: int, count: int) -> None:
    """Publish the first events of some sagas."""
    if hasattr(contestant, "publish"):
        contestant.publish(server, first, count)
    else:
        send(server, contestant.commands(first, count))


def send(server: Server, commands: Iterable[Sequence[Any]]) -> None:
    """Send many commands, some thousand at a time."""
    pipeline = server.client.pipeline(transaction=False)
    for number, command in enumerate(commands, 1):
        pipeline.execute_command(*command)
        if number % 2000 == 0:
            pipeline.execute()
    pipeline.execute()


def timed(server: Server, members: Crew, target: int, count: Callable[[], int]) -> Lap:
    """Let processes begin, and time them until ``count()`` has risen to ``target``."""
    base, cpu, before, began = count(), members.cpu(), server.spent(), time.perf_counter()
    members.go()

    def check() -> int:
        if any(member.poll() is not None for member in members.members):
            raise RuntimeError("a process has ended")
        return count()

    wait_until(check, target)
    seconds = time.perf_counter() - began
    return lap(target - base, seconds, members.cpu() - cpu, before, server.spent())


def lap(done: int, seconds: float, cpu: float, before: Spent, after: Spent) -> Lap:
    """Figures per count."""
    calls = {name: (number - before.calls.get(name, 0)) / done for name, number in after.calls.items()}
    return Lap(
        rate=done / seconds, members_us=cpu / done * 1e6, server_us=(after.cpu - before.cpu) / done * 1e6,
        calls={name: number for name, number in calls.items() if number > 0.005},
        bytes_in=(after.bytes_in - before.bytes_in) / done,
        bytes_out=(after.bytes_out - before.bytes_out) / done,
    )  # fmt: skip


def wait_until(count: Callable[[], int], target: int) -> None:
    """Wait until ``count()`` has risen to ``target``.

    Raises:
        RuntimeError: if it does not rise any more.
    """
    last, moved = -1, time.monotonic()
    while (now := count()) < target:
        if now != last:
            last, moved = now, time.monotonic()
        elif time.monotonic() > moved + PATIENCE:
            raise RuntimeError(f"stuck at {now:,} of {target:,}")
        time.sleep(0.02)


def length(server: Server, streams: Sequence[str]) -> int:
    """Entries of all ``streams`` together."""
    pipeline = server.client.pipeline(transaction=False)
    for stream in streams:
        pipeline.xlen(stream)
    return sum(pipeline.execute())
