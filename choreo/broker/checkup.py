"""What `choreo doctor` asks of a server: its settings, its clock, and how the namespace stands there.

Nothing here changes anything. A server that will not tell (managed ones forbid CONFIG, fakeredis has no
INFO) is asked no further: then the answer is ``None``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from choreo.broker.clock import Clock
from choreo.broker.connection import Connection
from choreo.broker.groups import fields_of
from choreo.broker.readers import Readers
from choreo.wire.keys import Keys

#: Dead letters of one partition, and of all, that are looked at to count their reasons.
_LETTERS, _ALL_LETTERS = 1_000, 10_000
_OPEN = b"open"


@dataclass(frozen=True, slots=True)
class Skew:
    """How this machine's clock compares with the server's."""

    server: int
    """The server's time, in milliseconds since the epoch."""
    ahead: int
    """By how many milliseconds this machine is ahead; what the way of the answer may explain is left out."""


@dataclass(frozen=True, slots=True)
class Overdue:
    """Timers, or deadlines, whose time has come, and nobody has seen to it."""

    count: int = 0
    oldest: int = 0
    """When the first of them was due, in milliseconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Letters:
    """Dead letters that wait for somebody."""

    total: int = 0
    """How many dead letters there are, whatever their state."""
    open: Mapping[str, int] = field(default_factory=dict)
    """Reason code -> how many of those that were looked at are open."""
    looked_at: int = 0


@dataclass(frozen=True, slots=True)
class Checkup:
    """Questions about one server and one namespace on it."""

    connection: Connection
    keys: Keys

    @property
    def readers(self) -> Readers:
        return Readers(self.connection)

    async def info(self) -> dict[str, str] | None:
        """What INFO says, by name."""
        (answer,) = await self.readers.ask([("INFO",)])
        if answer is None:
            return None
        lines = answer.decode(errors="replace").splitlines()
        parts = (line.partition(":") for line in lines if line and not line.startswith("#"))
        return {name: value.strip() for name, _, value in parts}

    async def setting(self, name: str) -> str | None:
        """One of the server's settings."""
        (answer,) = await self.readers.ask([("CONFIG", "GET", name)])
        return answer[1].decode(errors="replace") if answer else None

    async def skew(self, clock: Clock) -> Skew | None:
        """How ``clock`` compares with the server's."""
        before = clock()
        (answer,) = await self.readers.ask([("TIME",)])
        after = clock()
        if answer is None:
            return None
        server = int(answer[0]) * 1000 + int(answer[1]) // 1000
        ahead = before - server if before > server else min(0, after - server)
        return Skew(server, ahead)

    async def meta(self) -> dict[str, str]:
        """What the namespace says of itself; empty if nobody has joined it yet."""
        (answer,) = await self.readers.ask([("HGETALL", self.keys.meta)])
        return {name.decode(): value.decode() for name, value in fields_of(answer or ()).items()}

    async def types(self, wanted: Sequence[str]) -> dict[str, str]:
        """Key -> the type of what is there, for those that are there."""
        answers = await self.readers.ask([("TYPE", key) for key in wanted])
        found = {key: answer.decode() for key, answer in zip(wanted, answers, strict=True) if answer}
        return {key: kind for key, kind in found.items() if kind != "none"}

    async def overdue(self, key_of: Callable[[int], str], now: int) -> Overdue:
        """What was due at ``now`` (ms), in the sorted sets that ``key_of`` names for all partitions."""
        timers = [key_of(partition) for partition in range(self.keys.partitions)]
        answers = await self.readers.ask(
            [command for key in timers for command in (
                ("ZCOUNT", key, "-inf", now), ("ZRANGE", key, 0, 0, "WITHSCORES"))]
        )  # fmt: skip
        counts = [int(each or 0) for each in answers[::2]]
        due = [int(float(each[1])) for each in answers[1::2] if each]
        return Overdue(sum(counts), min(due, default=now))

    async def letters(self) -> Letters:
        """The dead letters of all partitions. Of very many only the newest are looked at."""
        partitions = range(self.keys.partitions)
        lengths = await self.readers.ask([("XLEN", self.keys.dead(each)) for each in partitions])
        total = sum(int(each or 0) for each in lengths)
        reasons: Counter[str] = Counter()
        looked_at = 0
        for partition, length in zip(partitions, lengths, strict=True):
            if length and looked_at < _ALL_LETTERS:
                found = await self._open_letters(partition)
                looked_at += min(int(length), _LETTERS)
                reasons.update(found)
        return Letters(total, dict(reasons), looked_at)

    async def _open_letters(self, partition: int) -> list[str]:
        """The reason of each open letter among the newest of a partition; each letter counts once."""
        dead = self.keys.dead(partition)
        (answer,) = await self.readers.ask([("XREVRANGE", dead, "+", "-", "COUNT", _LETTERS)])
        found: dict[bytes, str] = {}
        for _, flat in answer or ():
            fields = fields_of(flat)
            found.setdefault(fields.get(b"letter", b""), fields.get(b"reason", b"?").decode(errors="replace"))
        if not found:
            return []
        (states,) = await self.readers.ask([("HMGET", self.keys.letters(partition), *found)])
        return [
            reason
            for reason, state in zip(found.values(), states or [_OPEN] * len(found), strict=True)
            if (state or _OPEN) == _OPEN
        ]

    async def positions(self, streams: Mapping[int, Sequence[str]]) -> dict[str, str]:
        """For each stream (by partition) that a tracker has projected: the last entry that was."""
        commands = [
            ("HMGET", self.keys.tracker(partition), *(f"at:{name}" for name in names))
            for partition, names in streams.items()
        ]
        answers = await self.readers.ask(commands)
        return {
            name: position.decode()
            for names, answer in zip(streams.values(), answers, strict=True)
            for name, position in zip(names, answer or (), strict=False)
            if position
        }

    async def first_behind(self, positions: Sequence[tuple[str, str]]) -> list[str | None]:
        """For each (stream, position): the id of the first entry behind it, if there is one."""
        commands = [("XRANGE", name, f"({position}", "+", "COUNT", 1) for name, position in positions]
        answers = await self.readers.ask(commands)
        return [answer[0][0].decode() if answer else None for answer in answers]
