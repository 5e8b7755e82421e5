"""Consumer groups: making them, and reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from choreo.broker.connection import BLOCK, Argument, Connection
from choreo.broker.gate import Identity
from choreo.errors import BrokerRefused
from choreo.wire.keys import Keys


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """An entry that was read, and must be decided about."""

    stream: str
    entry: str
    deliveries: int
    """How often the server has delivered it, this time included."""
    fields: Mapping[bytes, bytes] | None
    """``None`` if the entry was deleted behind the group's back."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What :meth:`Groups.take` found."""

    deliveries: list[Delivery]
    ends: dict[str, str]
    """If there was nothing: stream -> the id of its last entry, to wait behind."""
    obstacle: str
    """A key that should be a stream and is not; empty if there is none."""


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
        return _deliveries(answer)

    async def take(self, identity: Identity, streams: Sequence[str], count: int) -> Taken:
        """New entries: at most ``count`` of all streams together, those in front being served first.

        A key that is no stream hinders only itself.

        Raises:
            NoGroup: if a group is missing on one of them, and nothing was taken from others.
        """
        arguments: list[Argument] = [identity.participant, identity.consumer, count]
        taken, ends, obstacle = await self.connection.run("take", streams, arguments, changes=False)
        return Taken(
            _deliveries(taken), {stream.decode(): entry.decode() for stream, entry in ends}, obstacle.decode()
        )

    async def wait_behind(self, ends: Mapping[str, str]) -> bool:
        """Wait up to a second until a stream goes on behind its entry in ``ends``. Takes nothing.

        Returns whether one does.
        """
        block = int(BLOCK * 1000)
        return bool(
            await self.connection.read("XREAD", "COUNT", 1, "BLOCK", block, "STREAMS", *ends, *ends.values())
        )

    async def acknowledge(self, group: str, entries: Mapping[str, Sequence[str]]) -> None:
        """Acknowledge entries (by stream) that need no decision."""
        await self.connection.call_many([("XACK", stream, group, *ids) for stream, ids in entries.items()])


def _deliveries(answer: Any) -> list[Delivery]:
    return [
        Delivery(key, entry.decode(), 1, fields or None)
        for stream, entries in pairs(answer)
        for key in (stream.decode(),)
        for entry, fields in entries
    ]


def pairs(answer: Any) -> list[tuple[bytes, list[tuple[bytes, dict[bytes, bytes]]]]]:
    """The answer of XREAD and XREADGROUP as (stream, entries). A deleted entry has no fields."""
    return [
        (stream, [(entry, fields_of(flat or ())) for entry, flat in entries])
        for stream, entries in answer or ()
    ]


def fields_of(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    """Names and values that follow each other, as a map."""
    parts = iter(flat)
    return dict(zip(parts, parts, strict=False))  # looking whether one is left over takes half as long again
