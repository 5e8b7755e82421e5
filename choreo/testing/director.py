"""When a world is at rest, and how its time moves on.

Time does not tick: it jumps to the next moment at which something falls due. What choreo does by itself
every so often (looking, renewing, sweeping) is no reason to stop there; it happens when time has jumped,
as in a process that was suspended. Only while deliveries are in hand it happens at its proper time, for then
leases must be renewed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from choreo.testing.stage import Stage

#: Seconds for which handlers may work while a harness settles; longer is taken for a handler that never ends.
PATIENCE = 3600.0


@dataclass
class Director:
    """Drives the world of a stage."""

    stage: Stage

    def settle(self, until: float | None = None) -> None:
        """Run until nothing moves: time passes only while handlers work, and not beyond ``until``.

        Raises:
            TimeoutError: if a handler works for more than an hour of this world's time.
        """
        world, stage = self.stage.world, self.stage
        limit = world.loop.now + PATIENCE if until is None else until
        world.loop.may_move = lambda moment: stage.moving and moment <= limit
        try:
            world.pump()
            while not stage.moving and stage.next_idle_call():
                world.pump()
        finally:
            world.loop.may_move = lambda moment: False
        if until is None and stage.moving:
            raise TimeoutError(f"{stage.running} handlers still work after {PATIENCE:g} s")

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass, and everything happen that falls due in them, in order."""
        end = self.stage.world.loop.now + seconds
        self.settle(end)
        for moment in self._moments(end):
            self.stage.world.move(moment)
            self.settle(end)
        self.stage.world.move(end)
        self.settle()

    def finish(self, seconds: float) -> None:
        """Let time pass until nothing is due any more, at most so many seconds."""
        end = self.stage.world.loop.now + seconds
        self.settle()
        for moment in self._moments(end):
            self.stage.world.move(moment)
            self.settle()

    def _moments(self, end: float) -> Iterator[float]:
        """The next moment at which something falls due, again and again, until ``end``."""
        while True:
            moment = self.next_moment()
            if moment is None or moment > end:
                return
            yield moment

    def next_moment(self) -> float | None:
        """When (the loop's time) the next thing falls due that somebody waits for; ``None`` if nothing is."""
        stage, loop = self.stage, self.stage.world.loop
        stage.appointments = [each for each in stage.appointments if each > loop.now]
        due = [*stage.appointments, *self._due_in_store()]
        if stage.shaken or not due:
            due += self._leases()
        if loop.next_appointment is not None:
            due.append(loop.next_appointment)
        if stage.recovering and loop.next_timer is not None:
            due.append(loop.next_timer)
        if stage.moving or (due and min(due) <= loop.now):
            # It is due, and somebody will look at it when he next looks.
            return loop.next_timer
        return min(due, default=None)

    def _due_in_store(self) -> Iterator[float]:
        stage, keys = self.stage, self.stage.topology.keys
        for partition in range(keys.partitions):
            for key in (keys.timers(partition), keys.deadlines(partition)):
                first = stage.store.execute(["ZRANGE", key, 0, 0, "WITHSCORES"])
                if first:
                    yield stage.world.seconds_until(int(float(first[1])))
    def _leases(self) -> Iterator[float]:
        """When leases run out of what nobody holds any more."""
        stage = self.stage
        if stage.in_hand:
            return
        for stream, group in stage.groups():
            for _, _, idle, _ in self._pending(stream, group):
                yield stage.world.loop.now + stage.options.lease - idle / 1000

    def _pending(self, stream: str, group: str) -> list[Any]:
        summary = self.stage.store.execute(["XPENDING", stream, group])
        if not summary[0]:
            return []
        return list(self.stage.store.execute(["XPENDING", stream, group, "-", "+", summary[0]]))
