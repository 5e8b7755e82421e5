"""Leases: who holds what was delivered, and what becomes of it when its worker is gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from choreo.broker.connection import Argument, Connection, ScriptCall
from choreo.broker.gate import Identity
from choreo.broker.groups import Delivery, fields_of
from choreo.errors import BrokerUnavailable
from choreo.wire.keys import Keys
from choreo.wire.limits import MAX_BATCH

#: A lease handed over looks this old, so that any worker may claim it at once (ms).
_HANDED_OVER = 1_000_000_000
#: Before the first entry of a stream.
START = "-"

#: Entries that were delivered, and how often each was.
Overdue: TypeAlias = list[tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Held:
    """Entries of one stream that some worker holds."""

    stream: str
    partition: int
    entries: Sequence[str]


@dataclass(frozen=True, slots=True)
class Leases:
    """The leases of one namespace. Those of dead workers run out; the living renew theirs."""

    connection: Connection
    keys: Keys

    async def renew(self, identity: Identity, held: Mapping[str, Sequence[str]]) -> set[tuple[str, str]]:
        """Renew the leases of what this worker holds. Returns (stream, entry) of what it has lost."""
        calls = renewals(identity, held)
        answers = await self.connection.run_many(calls)
        lost: set[tuple[str, str]] = set()
        for (_, keys, _), answer in zip(calls, answers, strict=True):
            if not isinstance(answer, Exception):
                lost.update((keys[0], entry.decode()) for entry in answer)
        return lost

    async def overdue(
        self, identity: Identity, after: Mapping[str, str], lease: int, count: int
    ) -> dict[str, Overdue]:
        """Entries whose lease (ms) has run out, whoever holds them, and how often each was delivered.

        ``after``: stream -> the entry behind which to look, :data:`START` for the first page. A page has
        ``count`` entries; a shorter one is the last. Streams without any are left out.
        """
        commands = [
            ("XPENDING", stream, identity.participant, "IDLE", lease, _behind(entry), "+", count)
            for stream, entry in after.items()
        ]
        return await self._pages(list(after), commands)

    async def own(self, identity: Identity, streams: Sequence[str], count: int) -> dict[str, Overdue]:
        """What this worker holds by the server's account: the first ``count`` entries of each stream.

        Raises:
            BrokerUnavailable: if one of the streams cannot be asked.
        """
        commands = [
            ("XPENDING", stream, identity.participant, START, "+", count, identity.consumer)
            for stream in streams
        ]
        return await self._pages(streams, commands, strict=True)

    async def _pages(
        self, streams: Sequence[str], commands: Sequence[Sequence[Argument]], *, strict: bool = False
    ) -> dict[str, Overdue]:
        found = {}
        for stream, answer in zip(streams, await self.connection.call_many(commands), strict=True):
            if isinstance(answer, Exception):
                if strict and isinstance(answer, BrokerUnavailable):
                    raise answer
            elif answer:
                found[stream] = [(row[0].decode(), row[3]) for row in answer]
        return found

    async def claim(
        self, identity: Identity, held: Held, lease: int | None, now: int
    ) -> tuple[list[Delivery], list[str]]:
        """Take over deliveries whose lease (ms) has still run out. ``now`` is in ms since the epoch.

        ``lease`` is ``None`` for deliveries of this same worker that it was given without learning of it:
        those that it still holds are taken in hand, and not counted as delivered once more.

        Returns them, and the ids of those whose entry was deleted: they are dead letters now.
        """
        names = [held.stream, self.keys.dead(held.partition), self.keys.letters(held.partition)]
        prefix = f"lost:{held.stream}:{identity.participant}:"
        idle = "" if lease is None else lease
        arguments: list[Argument] = [
            identity.participant, identity.consumer, idle, now, prefix, *held.entries
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
        answers = await self.connection.run_many([("leave", [stream], arguments) for stream in streams])
        return sum(each for each in answers if isinstance(each, int))

    async def tidy(self, identity: Identity, streams: Sequence[str], idle: int) -> int:
        """Remove other consumers that hold nothing and have not been seen for longer than ``idle`` (ms).

        Returns how many were removed.
        """
        arguments: list[Argument] = [identity.participant, identity.consumer, idle, MAX_BATCH]
        answers = await self.connection.run_many([("tidy", [stream], arguments) for stream in streams])
        return sum(each for each in answers if isinstance(each, int))


def renewals(identity: Identity, held: Mapping[str, Sequence[str]]) -> list[ScriptCall]:
    """The calls of the script that renew the leases of ``held`` (by stream), each of bounded length."""
    return [
        ("renew", [stream], [identity.participant, identity.consumer, *entries[at : at + MAX_BATCH]])
        for stream, entries in held.items()
        for at in range(0, len(entries), MAX_BATCH)
    ]


def _behind(entry: str) -> str:
    return entry if entry == START else f"({entry}"
