"""Consumer groups: making them, reading, and the leases of what was read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from choreo.broker.connection import BLOCK, Argument, Connection
from choreo.broker.gate import Identity
from choreo.errors import BrokerRefused
from choreo.wire.keys import Keys

#: A lease handed over looks this old, so that any worker may claim it at once (ms).
_HANDED_OVER = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Delivery:
    """An entry that was read, and must be decided about."""

    stream: str
    entry: str
    deliveries: int
    """How often the server has delivered it, this time included."""
    fields: Mapping[bytes, bytes] | None
    """``None`` if the entry was deleted behind the group's back."""


@dataclass(frozen=True, slots=True)
class Held:
    """Entries of one stream that some worker holds."""

    stream: str
    partition: int
    entries: Sequence[str]


@dataclass(frozen=True, slots=True)
class Groups:
    """The consumer groups of one namespace."""

    connection: Connection
    keys: Keys

    async def ensure(self, streams: Sequence[str], group: str) -> None:
        """Make ``group`` on every stream, at its beginning, where it is missing; make streams likewise.

        Raises:
            BrokerRefused: if a key is there that is not a stream.
        """
        commands = [("XGROUP", "CREATE", stream, group, "0", "MKSTREAM") for stream in streams]
        for stream, answer in zip(streams, await self.connection.call_many(commands), strict=True):
            if isinstance(answer, Exception) and "BUSYGROUP" not in str(answer):
                raise BrokerRefused(f"{stream}: {answer}") if isinstance(answer, BrokerRefused) else answer

    async def read(
        self, identity: Identity, streams: Sequence[str], count: int, *, wait: bool
    ) -> list[Delivery]:
        """New entries: at most ``count`` of each stream. ``wait``: up to a second for the first one.

        Raises:
            NoGroup: if a group is missing on one of them; none is read then.
        """
        block = ("BLOCK", int(BLOCK * 1000)) if wait and self.connection.blocking else ()
        read = self.connection.read if block else self.connection.call
        answer = await read(
            "XREADGROUP", "GROUP", identity.participant, identity.consumer, "COUNT", count, *block,
            "STREAMS", *streams, *[">"] * len(streams),
        )  # fmt: skip
        return [
            Delivery(stream.decode(), entry.decode(), 1, fields or None)
            for stream, entries in pairs(answer)
            for entry, fields in entries
        ]

    async def acknowledge(self, group: str, entries: Mapping[str, Sequence[str]]) -> None:
        """Acknowledge entries (by stream) that need no decision."""
        await self.connection.call_many([("XACK", stream, group, *ids) for stream, ids in entries.items()])

    async def renew(self, identity: Identity, held: Mapping[str, Sequence[str]]) -> set[tuple[str, str]]:
        """Renew the leases of what this worker holds. Returns (stream, entry) of what it has lost."""
        calls = [
            ([stream], [identity.participant, identity.consumer, *ids]) for stream, ids in held.items() if ids
        ]
        answers = await self.connection.run_many("renew", calls) if calls else []
        lost: set[tuple[str, str]] = set()
        for (keys, _), answer in zip(calls, answers, strict=True):
            if not isinstance(answer, Exception):
                lost.update((keys[0], entry.decode()) for entry in answer)
        return lost

    async def overdue(
        self, identity: Identity, streams: Sequence[str], lease: int, count: int
    ) -> dict[str, list[tuple[str, int]]]:
        """Entries of each stream whose lease (ms) has run out, whoever holds them, and how often each
        was delivered."""
        commands = [
            ("XPENDING", stream, identity.participant, "IDLE", lease, "-", "+", count) for stream in streams
        ]
        answers = await self.connection.call_many(commands)
        found = {}
        for stream, answer in zip(streams, answers, strict=True):
            if not isinstance(answer, Exception) and answer:
                found[stream] = [(row[0].decode(), row[3]) for row in answer]
        return found

    async def claim(
        self, identity: Identity, held: Held, lease: int, now: int
    ) -> tuple[list[Delivery], list[str]]:
        """Take over deliveries whose lease (ms) has still run out. ``now`` is in ms since the epoch.

        Returns them, and the ids of those whose entry was deleted: they are dead letters now.
        """
        names = [held.stream, self.keys.dead(held.partition), self.keys.letters(held.partition)]
        prefix = f"lost:{held.stream}:{identity.participant}:"
        arguments: list[Argument] = [
            identity.participant, identity.consumer, lease, now, prefix, *held.entries
        ]  # fmt: skip
        answer = await self.connection.run("claim", names, arguments)
        taken = [
            Delivery(held.stream, entry.decode(), deliveries, fields_of(flat))
            for entry, deliveries, flat in answer
            if deliveries
        ]
        return taken, [entry.decode() for entry, deliveries, _ in answer if not deliveries]

    async def leave(self, identity: Identity, streams: Sequence[str]) -> int:
        """Hand over what this worker holds, and remove it where it holds nothing. Returns what it left."""
        arguments: list[Argument] = [identity.participant, identity.consumer, _HANDED_OVER]
        answers = await self.connection.run_many("leave", [([stream], arguments) for stream in streams])
        return sum(each for each in answers if isinstance(each, int))


def pairs(answer: Any) -> list[tuple[bytes, list[tuple[bytes, dict[bytes, bytes]]]]]:
    """The answer of XREAD and XREADGROUP as (stream, entries). A deleted entry has no fields."""
    return [
        (stream, [(entry, fields_of(flat or ())) for entry, flat in entries])
        for stream, entries in answer or ()
    ]


def fields_of(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    """Names and values that follow each other, as a map."""
    return dict(zip(flat[::2], flat[1::2], strict=True))
