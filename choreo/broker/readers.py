"""What the server knows about streams and about those who read them; nothing here changes anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from choreo.broker.connection import Argument, Connection
from choreo.broker.groups import fields_of
from choreo.errors import BrokerRefused

#: Commands that are sent in one round trip at most.
_CHUNK = 500
#: The id before every entry's.
NOTHING = "0-0"


@dataclass(frozen=True, slots=True)
class Consumer:
    """One worker of a group, as the server has seen it on one stream."""

    name: str
    pending: int
    idle: int
    """Milliseconds since the server saw it. Before version 7.2: since it last gave it an entry."""


@dataclass(frozen=True, slots=True)
class Group:
    """A consumer group on one stream."""

    delivered: str
    """Id of the last entry that was given to any of its consumers."""
    pending: int
    lag: int | None
    """How many entries nobody has read; ``None`` if the server cannot tell."""
    consumers: tuple[Consumer, ...] = ()

    @property
    def seen(self) -> int | None:
        """Milliseconds since any of its consumers was seen; ``None`` if there are none."""
        return min((each.idle for each in self.consumers), default=None)


@dataclass(frozen=True, slots=True)
class StreamState:
    """A stream that is there."""

    length: int
    first: str
    """Id of its oldest entry; ``0-0`` if it is empty."""
    newest: str
    """The last id that was given to an entry, be it still there or not."""
    deleted: str
    """The greatest id that was deleted by XDEL; ``0-0`` if none was, or the server does not tell."""
    groups: Mapping[str, Group] = field(default_factory=dict)

    def waiting(self, group: Group) -> int | None:
        """How many entries the group has not read; ``None`` if there are some and nobody knows how many."""
        if group.lag is not None:
            return group.lag
        if order(group.delivered) >= order(self.newest):
            return 0
        return self.length if group.delivered == NOTHING else None


@dataclass(frozen=True, slots=True)
class Pending:
    """An entry in some worker's hands."""

    entry: str
    consumer: str
    idle: int
    """Milliseconds since the lease was last renewed."""
    deliveries: int


@dataclass(frozen=True, slots=True)
class Readers:
    """Questions about streams and their groups."""

    connection: Connection

    async def ask(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """The answer to each command; ``None`` where the server refuses to give one.

        Raises:
            BrokerUnavailable: if the server cannot be reached or cannot serve now.
        """
        answers: list[Any] = []
        for at in range(0, len(commands), _CHUNK):
            for answer in await self.connection.call_many(commands[at : at + _CHUNK]):
                if isinstance(answer, Exception) and not isinstance(answer, BrokerRefused):
                    raise answer
                answers.append(None if isinstance(answer, Exception) else answer)
        return answers

    async def streams(self, names: Sequence[str]) -> dict[str, StreamState]:
        """How each of these streams stands, with its groups; those that are missing are left out."""
        infos = await self.ask([("XINFO", "STREAM", name) for name in names])
        there = {name: _fields(info) for name, info in zip(names, infos, strict=True) if info}
        groups = await self.ask([("XINFO", "GROUPS", name) for name in there])
        listed = [
            (name, _fields(row)) for name, rows in zip(there, groups, strict=True) for row in rows or ()
        ]
        asked = [("XINFO", "CONSUMERS", name, row["name"]) for name, row in listed]
        found: dict[str, dict[str, Group]] = {}
        for (name, row), consumers in zip(listed, await self.ask(asked), strict=True):
            found.setdefault(name, {})[_text(row["name"])] = _group(row, consumers or ())
        return {name: _stream(info, found.get(name, {})) for name, info in there.items()}

    async def pending(
        self, wanted: Sequence[tuple[str, str, str, str]], *, idle: int = 0, count: int
    ) -> list[list[Pending]]:
        """For each (stream, group, first id, last id): entries between them that are in workers' hands.

        Only those whose lease was not renewed for ``idle`` ms; at most ``count`` each, the oldest first.
        """
        answers = await self.ask(
            [("XPENDING", stream, group, "IDLE", idle, *window, count) for stream, group, *window in wanted]
        )
        return [
            [Pending(_text(row[0]), _text(row[1]), int(row[2]), int(row[3])) for row in answer or ()]
            for answer in answers
        ]

    async def entries(self, wanted: Sequence[tuple[str, str]]) -> list[dict[bytes, bytes]]:
        """The fields of each (stream, entry id); none for an entry that is gone."""
        answers = await self.ask([("XRANGE", stream, entry, entry) for stream, entry in wanted])
        return [fields_of(answer[0][1] or ()) if answer else {} for answer in answers]


def order(entry: str) -> tuple[int, int]:
    """An entry id as what it is ordered by: (milliseconds, number)."""
    milliseconds, _, number = entry.partition("-")
    return int(milliseconds), int(number or 0)


def _fields(flat: Sequence[Any]) -> dict[str, Any]:
    return {_text(name): value for name, value in zip(flat[::2], flat[1::2], strict=True)}


def _text(value: Any) -> str:
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def _group(row: Mapping[str, Any], consumers: Sequence[Sequence[Any]]) -> Group:
    known = [_fields(each) for each in consumers]
    lag = row.get("lag")
    return Group(
        delivered=_text(row["last-delivered-id"]), pending=int(row["pending"]),
        lag=None if lag is None else int(lag),
        consumers=tuple(Consumer(_text(c["name"]), int(c["pending"]), int(c["idle"])) for c in known),
    )  # fmt: skip


def _stream(info: Mapping[str, Any], groups: Mapping[str, Group]) -> StreamState:
    first = info.get("first-entry")
    return StreamState(
        length=int(info["length"]), first=_text(first[0]) if first else NOTHING,
        newest=_text(info["last-generated-id"]), deleted=_text(info.get("max-deleted-entry-id") or NOTHING),
        groups=groups,
    )  # fmt: skip
