"""Where the tracker keeps its progress, views, traces and indexes, and how they are asked."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TypeAlias

import msgspec

from choreo.broker.connection import BLOCK, Argument, Connection
from choreo.broker.gate import Letter
from choreo.broker.groups import fields_of, pairs
from choreo.errors import BrokerRefused
from choreo.model.saga import State
from choreo.wire.keys import TRACKER_GROUP, Keys

Entry: TypeAlias = tuple[str, dict[bytes, bytes]]
#: Under which type and state a saga is listed, and its place there: when it began, in ms since the epoch.
Listing: TypeAlias = tuple[str, str, int]

#: Sagas whose projections one script deletes at most.
_WIPE = 500
#: Sagas whose views are made from their timelines at once.
_REMAKE = 200


class Update(msgspec.Struct, frozen=True, gc=False):
    """What a batch of entries makes of one saga. Facts and view are packed."""

    saga_id: str
    view: bytes
    facts: Sequence[bytes]
    """The facts that are new."""
    leave: Listing | None
    """How it was listed before; ``None`` if nothing was projected of it."""
    enter: Listing
    """How it is listed from now on."""
    due: int | None = None
    """When its next deadline passes (ms); ``None`` if none is pending."""
    was_due: bool = True
    """Whether a deadline may have been pending before."""


@dataclass(slots=True)
class Batch:
    """What the tracker made of entries of one partition: written whole, or not at all."""

    partition: int
    version: int
    """Of the partition's projections, as it was when the tracker learnt what it knows."""
    after: dict[str, str] = field(default_factory=dict)
    """Stream key -> the last entry that the batch holds."""
    updates: list[Update] = field(default_factory=list)
    letters: list[Letter] = field(default_factory=list)
    remade: Sequence[str] = ()
    """Sagas whose view was to be made from their timeline, and is."""


@dataclass(slots=True)
class Progress:
    """How far the projections of a partition are."""

    version: int
    """Grows with each write, by whomever."""
    positions: dict[str, str]
    """Stream key -> the last entry that was projected; ``0-0`` where none was."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How a partition stands, seen from outside."""

    version: int
    positions: dict[str, str]
    """As in :class:`Progress`."""
    ends: dict[str, str]
    """Stream key -> its last entry; ``0-0`` if it holds none, or is no stream."""


@dataclass(frozen=True, slots=True)
class Projections:
    """The tracker's own keys of one namespace."""

    connection: Connection
    keys: Keys

    async def progress(self, partition: int, streams: Sequence[str]) -> Progress:
        """How far each of ``streams`` has been projected."""
        fields = [f"at:{stream}" for stream in streams]
        key = self.keys.tracker(partition)
        version, *found = await self.connection.call("HMGET", key, "version", *fields)
        positions = {
            stream: position.decode() if position else "0-0"
            for stream, position in zip(streams, found, strict=True)
        }
        return Progress(int(version or 0), positions)

    async def standings(self, streams: Mapping[int, Sequence[str]]) -> dict[int, Standing]:
        """How partitions stand, in one round trip; ``streams`` of each.

        What cannot be read counts as empty.
        """
        commands: list[Sequence[Argument]] = []
        for partition, names in streams.items():
            fields = [f"at:{stream}" for stream in names]
            commands.append(("HMGET", self.keys.tracker(partition), "version", *fields))
            commands += [("XREVRANGE", stream, "+", "-", "COUNT", 1) for stream in names]
        answers = iter(await self.connection.call_many(commands))
        found = {}
        for partition, names in streams.items():
            known = next(answers)
            version, *at = [None] * (len(names) + 1) if isinstance(known, Exception) else known
            positions = {name: each.decode() for name, each in zip(names, at, strict=True) if each}
            ends = dict(zip(names, map(_last_id, islice(answers, len(names))), strict=True))
            found[partition] = Standing(int(version or 0), positions, ends)
        return found

    async def newest(self, streams: Sequence[str]) -> dict[str, str]:
        """The id that each stream gave last, whether or not it still holds that entry; ``0-0`` if it gave
        none or is gone.

        Raises:
            BrokerRefused: if one of them is no stream.
        """
        kinds = await self.connection.call_many([("TYPE", stream) for stream in streams])
        asked = [stream for stream, kind in zip(streams, kinds, strict=True) if kind != b"none"]
        answers = await self.connection.call_many([("XINFO", "STREAM", stream) for stream in asked])
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        given = {
            stream: fields_of(answer)[b"last-generated-id"].decode()
            for stream, answer in zip(asked, answers, strict=True)
        }
        return {stream: given.get(stream, "0-0") for stream in streams}

    async def read(self, positions: Mapping[str, str], count: int, *, wait: float) -> dict[str, list[Entry]]:
        """Entries behind ``positions``: at most ``count`` of each stream.

        Waits up to ``wait`` seconds (at most ``BLOCK``) for some, if the server can.
        """
        milliseconds = math.ceil(min(wait, BLOCK) * 1000)
        block = ("BLOCK", milliseconds) if milliseconds and self.connection.blocking else ()
        read = self.connection.read if block else self.connection.call
        answer = await read("XREAD", "COUNT", count, *block, "STREAMS", *positions, *positions.values())
        return {
            stream.decode(): [(entry.decode(), fields) for entry, fields in entries]
            for stream, entries in pairs(answer)
        }

    async def load(
        self, partition: int, saga_ids: Sequence[str], new: Sequence[str] = ()
    ) -> list[list[bytes]]:
        """The packed facts of each saga, and then of those that seem to be ``new``, as far as they were
        projected. Whether anything is known of all the new ones is a single question.
        """
        commands: list[Sequence[Argument]] = [self._all_of(partition, saga_id) for saga_id in saga_ids]
        if new:
            commands.append(("EXISTS", *[self.keys.trace(partition, saga_id) for saga_id in new]))
        answers = await self.connection.call_many(commands)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        if not new:
            return answers
        if answers.pop():
            return answers + await self.load(partition, new)
        return answers + [[] for _ in new]

    def _all_of(self, partition: int, saga_id: str) -> Sequence[Argument]:
        return "LRANGE", self.keys.trace(partition, saga_id), 0, -1

    async def write(self, batch: Batch) -> int | None:
        """Write a batch. Returns the new version; ``None`` if another tracker was faster or the views
        are being wiped.

        Raises:
            BrokerUnavailable: if it is not known whether it was written. Trying it again is safe.
            BrokerRefused: if a key of the tracker's has the wrong type. Nothing was written.
        """
        names, arguments = _write_call(self.keys, batch)
        answer = await self.connection.run("project", names, arguments)
        if isinstance(answer, bytes):
            what = "it has the wrong type, or is a stream to which nothing can be added any more"
            raise BrokerRefused(f"{answer.decode()} is in the tracker's way: {what}; delete or rename it")
        return None if answer < 0 else int(answer)

    async def views(self, saga_ids: Sequence[str]) -> list[bytes | None]:
        """The packed view of each saga, ``None`` where there is none."""
        keys = self.keys
        commands = [("GET", keys.view(keys.partition(saga_id), saga_id)) for saga_id in saga_ids]
        answers = await self.connection.call_many(commands)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    async def listed(
        self, types: Sequence[str], states: Sequence[State], since: int, until: int, limit: int
    ) -> list[tuple[int, str]]:
        """The newest sagas of these types and states that began within a time: (start time in ms, id).

        ``since`` and ``until`` are milliseconds since the epoch, both included. At most ``limit``.
        """
        commands = [
            ("ZREVRANGEBYSCORE", self.keys.index(partition, saga_type, state), until, since,
             "WITHSCORES", "LIMIT", 0, limit)
            for partition in range(self.keys.partitions) for saga_type in types for state in states
        ]  # fmt: skip
        found: set[tuple[int, str]] = set()
        for answer in await self.connection.call_many(commands):
            if isinstance(answer, Exception):
                raise answer
            scores = fields_of(answer)
            found.update((int(float(score)), saga_id.decode()) for saga_id, score in scores.items())
        return sorted(found, key=lambda item: (-item[0], item[1]))[:limit]

    async def oldest(self, types: Sequence[str], states: Sequence[State], limit: int) -> list[str]:
        """The ids of the sagas of these types and states that began first, the oldest first.

        At most ``limit``; of each partition, type and state only its share of that, or a hundred.
        """
        share = max(100, limit // self.keys.partitions)
        commands = [
            ("ZRANGE", self.keys.index(partition, saga_type, state), 0, share - 1, "WITHSCORES")
            for partition in range(self.keys.partitions) for saga_type in types for state in states
        ]  # fmt: skip
        found: set[tuple[int, str]] = set()
        for answer in await self.connection.call_many(commands):
            if isinstance(answer, Exception):
                raise answer
            found.update((int(float(score)), name.decode()) for name, score in fields_of(answer).items())
        return [saga_id for _, saga_id in sorted(found)[:limit]]

    async def unmade(self, partition: int) -> list[str]:
        """Some of the sagas that have a timeline but no view since the last wipe; empty if none is left."""
        found = await self.connection.call("ZRANGE", self.keys.unmade(partition), 0, _REMAKE - 1)
        return [saga_id.decode() for saga_id in found]

    async def wipe(self, partition: int, streams: Sequence[str], *, begin: bool) -> None:
        """Delete every projection of a partition and go back to the beginning of its ``streams``.

        Timelines stay of sagas that the streams do not tell whole any more; see :meth:`unmade`.
        Without ``begin`` only goes on with a wipe that was begun. Safe to run from several processes,
        and to be killed: whoever comes next goes on.
        """
        prefixes = self.keys.view(partition, ""), self.keys.trace(partition, "")
        keys = self.keys
        names = [keys.tracker(partition), keys.deadlines(partition), keys.unmade(partition), *streams]
        how = "begin" if begin else "go on"
        while await self.connection.run("wipe", names, [how, *prefixes, _WIPE]) != -1:
            how = "go on"


def _last_id(entries: Exception | Sequence[Sequence[bytes]]) -> str:
    return "0-0" if isinstance(entries, Exception) or not entries else entries[0][0].decode()


def _write_call(keys: Keys, batch: Batch) -> tuple[list[str], list[Argument]]:
    """Keys and arguments of the script that writes a batch."""
    partition = batch.partition
    updates = sorted(batch.updates, key=_is_known)
    moves = {keys.index(partition, *listing): each for listing, each in _moves(updates).items()}
    names = [
        keys.tracker(partition), keys.dead(partition), keys.letters(partition), keys.deadlines(partition),
        keys.unmade(partition), *batch.after, *moves,
        *[keys.trace(partition, each.saga_id) for each in updates],
        *[keys.view(partition, each.saga_id) for each in updates],
    ]  # fmt: skip
    arguments: list[Argument] = [
        TRACKER_GROUP, batch.version, len(batch.after), len(moves), len(updates),
        sum([update.leave is None for update in updates]), len(batch.letters),
    ]  # fmt: skip
    marks: list[Argument] = [part for stream, at in batch.after.items() for part in (f"at:{stream}", at)]
    for index, (entering, _) in moves.items():
        marks += (f"index:{index}", "1") if entering else ()
    due = [part for update in updates if update.due is not None for part in (update.due, update.saga_id)]
    over = [update.saga_id for update in updates if update.due is None and update.was_due]
    lists: list[Sequence[Argument]] = [marks, *chain.from_iterable(moves.values()), due, over, batch.remade]
    for each in lists:
        arguments += (len(each), *each)
    for update in updates:
        arguments += (update.view, len(update.facts), *update.facts)
    for letter in batch.letters:
        record: Argument = ""
        if letter.subject and keys.partition(letter.subject) == partition:
            names.append(keys.record(partition, letter.subject))
            record = len(names)
        arguments += (letter.id, record, len(letter.fields), *letter.fields)
    return names, arguments


def _is_known(update: Update) -> bool:
    return update.leave is not None


def _moves(updates: Sequence[Update]) -> dict[tuple[str, str], tuple[list[Argument], list[Argument]]]:
    """By (type, state): the start times and ids of the sagas that are listed there, and who is no more."""
    moves: defaultdict[tuple[str, str], tuple[list[Argument], list[Argument]]]
    moves = defaultdict(lambda: ([], []))
    for update in updates:
        leave, enter = update.leave, update.enter
        if leave == enter:
            continue
        moves[enter[:2]][0].extend((enter[2], update.saga_id))
        if leave is not None and leave[:2] != enter[:2]:
            moves[leave[:2]][1].append(update.saga_id)
    return moves
