"""What does not stay for ever: trimming streams, and deleting what is kept of sagas that have ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from choreo.broker.connection import Argument, Connection
from choreo.broker.groups import fields_of
from choreo.broker.sagas import in_the_way
from choreo.model.facts import Fact
from choreo.model.saga import State
from choreo.wire.envelope import Reason
from choreo.wire.keys import Keys
from choreo.wire.limits import MAX_FORGOTTEN, MAX_TRIMMED

#: An id in front of every entry, and one behind every entry: (milliseconds, number).
BEGINNING = (0, 0)
END = (1 << 64, 0)
#: Sagas of each type and state among which that of a lost entry is searched for.
_SEARCHED = 500
#: Dead letters that are looked at at once.
_LETTERS = 100


@dataclass(frozen=True, slots=True)
class Keeping:
    """A stream that is to be trimmed."""

    stream: str
    since: int
    """What is older may go: milliseconds since the epoch."""
    projected: bool
    """Whether the tracker projects it, and so must have come past what goes."""


@dataclass(frozen=True, slots=True)
class Trimmed:
    """What trimming the streams of a partition came to."""

    removed: int
    more: bool
    """Whether there may be more to trim at once."""
    horizon: tuple[int, int]
    """The first entry that any of the streams still holds: what happened before it cannot be delivered
    again. ``END`` if they are empty."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A saga that may be forgotten."""

    saga_id: str
    saga_type: str
    state: State
    """The state that it has ended in; if its record says otherwise, it stays."""
    letters: Sequence[str] = ()
    """Its dead letters that its record does not know. While any of its letters is open, it stays."""
    planned: Sequence[str] = ()
    """Events that may be parked although its ledger does not know: ``participant/step:event id`` of each.
    While one of them is, it stays."""


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What forgetting came to."""

    version: int
    """Of the partition's projections, from now on."""
    gone: Sequence[str]
    """The ids of the sagas that are forgotten; the others stay."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The dead letter of an entry that was deleted before it was handled, and whose saga is not known."""

    letter: str
    place: str
    """Its entry in the stream of dead letters."""
    stream: str
    entry: str
    participant: str


@dataclass(frozen=True, slots=True)
class LostPage:
    """What a page of dead letters holds of these."""

    letters: Sequence[Lost]
    last: str
    """The last entry of the page; where to go on."""
    full: bool


@dataclass(frozen=True, slots=True)
class Walk:
    """How far the letters of a partition have been looked through."""

    place: str = "-"
    """The last letter that was looked at."""
    cursor: int = 0
    """The same for the states of letters that are deleted already."""


@dataclass(frozen=True, slots=True)
class Retention:
    """Trimming and forgetting in one namespace."""

    connection: Connection
    keys: Keys

    async def trim(self, partition: int, streams: Sequence[Keeping]) -> Trimmed:
        """Trim streams of a partition, as far as every group and the tracker have done with them.

        Bounded: what is left over goes with the next call. May be run by any number of processes.
        """
        names = [self.keys.tracker(partition), *(each.stream for each in streams)]
        arguments: list[Argument] = [MAX_TRIMMED]
        for each in streams:
            arguments += (max(0, each.since), "1" if each.projected else "")
        removed, more, first = await self.connection.run("trim", names, arguments)
        return Trimmed(removed, bool(more), order_of(first.decode()) if first else END)

    async def forget(self, partition: int, version: int, sagas: Sequence[Ended]) -> Forgotten | None:
        """Delete all that is kept of ended sagas, each at once. ``version`` is that of the partition's
        projections as the caller knows them; ``None`` if somebody else has written since.
        """
        keys = self.keys
        names = [keys.tracker(partition), keys.letters(partition), keys.timers(partition)]
        arguments: list[Argument] = [version]
        for saga in sagas:
            names += [
                keys.record(partition, saga.saga_id), keys.work(partition, saga.saga_id),
                keys.view(partition, saga.saga_id), keys.trace(partition, saga.saga_id),
                keys.index(partition, saga.saga_type, saga.state),
            ]  # fmt: skip
            arguments += (saga.saga_id, saga.state, len(saga.letters), *saga.letters)
            arguments += (len(saga.planned), *saga.planned)
        answer, *went = await self.connection.run("forget", names, arguments)
        if answer == -1:
            return None
        gone = [saga.saga_id for saga, goes in zip(sagas, went, strict=True) if goes]
        return Forgotten(answer, gone)

    async def listed(
        self, partition: int, ended: Sequence[tuple[str, State]], until: Sequence[int], skip: Sequence[int],
    ) -> list[list[str]]:  # fmt: skip
        """For each type and state the ids of sagas that began first, and no later than ``until`` (ms),
        without the first ``skip`` of them; a page of each."""
        commands = [
            ("ZRANGEBYSCORE", self.keys.index(partition, saga_type, state), 0, latest,
             "LIMIT", passed, MAX_FORGOTTEN)
            for (saga_type, state), latest, passed in zip(ended, until, skip, strict=True)
        ]  # fmt: skip
        answers = await self.connection.call_many(commands)
        return [
            [] if isinstance(answer, Exception) else [saga_id.decode() for saga_id in answer]
            for answer in answers
        ]

    async def newest(
        self, partition: int, listings: Sequence[tuple[str, State]], until: int
    ) -> list[list[str]]:
        """For each type and state the ids of the sagas that began last, but no later than ``until`` (ms)."""
        commands = [
            ("ZREVRANGEBYSCORE", self.keys.index(partition, *listing), until, 0, "LIMIT", 0, _SEARCHED)
            for listing in listings
        ]
        answers = await self.connection.call_many(commands)
        return [
            [] if isinstance(answer, Exception) else [saga_id.decode() for saga_id in answer]
            for answer in answers
        ]

    async def lost(self, partition: int, after: str) -> LostPage:
        """The letters of lost entries without a saga, in one page of dead letters behind ``after``."""
        start = "-" if after == "-" else f"({after}"
        rows = await self.connection.call("XRANGE", self.keys.dead(partition), start, "+", "COUNT", _LETTERS)
        found = []
        for place, flat in rows:
            text = {name: value.decode(errors="replace") for name, value in fields_of(flat).items()}
            if text.get(b"reason") == Reason.ENTRY_LOST and b"subject" not in text:
                found.append(Lost(text[b"letter"], place.decode(), text[b"stream"], text[b"entry"],
                                  text[b"participant"]))  # fmt: skip
        return LostPage(found, rows[-1][0].decode() if rows else after, len(rows) == _LETTERS)

    async def bury(self, partition: int, before: int, walk: Walk) -> Walk:
        """Delete letters that were settled before a time (ms), a page of them. Open ones stay for ever.

        Returns where to go on; from the beginning again, when all were looked at.
        """
        dead, states = self.keys.dead(partition), self.keys.letters(partition)
        start = "-" if walk.place == "-" else f"({walk.place}"
        rows = await self.connection.call("XRANGE", dead, start, "+", "COUNT", _LETTERS)
        cursor, flat = await self.connection.call("HSCAN", states, walk.cursor, "COUNT", _LETTERS)
        arguments: list[Argument] = []
        if rows:
            ids = [fields_of(fields).get(b"letter", b"") for _, fields in rows]
            found = await self.connection.call("HMGET", states, *ids)
            for (place, _), letter, state in zip(rows, ids, found, strict=True):
                if _settled_before(state, before):
                    arguments += (letter, state, place)
        for letter, state in fields_of(flat).items():
            if state.startswith(b"dropped ") and _settled_before(state, before):
                arguments += (letter, state, "")
        if arguments:
            await self.connection.run("bury", [dead, states], arguments)
        return Walk(rows[-1][0].decode() if len(rows) == _LETTERS else "-", int(cursor))

    async def tell_lost(
        self, partition: int, saga_id: str, now: int, lost: Lost, fact: Fact, note: str
    ) -> bool:  # fmt: skip
        """Write into a saga's journal, and on the letter, that ``fact`` was lost. Returns whether it is news.

        Raises:
            BrokerRefused: if a key has the wrong type.
        """
        keys = self.keys
        names = [
            keys.record(partition, saga_id), keys.work(partition, saga_id), keys.journal(partition),
            keys.dead(partition), keys.letters(partition), keys.timers(partition), keys.parked(partition),
        ]  # fmt: skip
        arguments: list[Argument] = [
            now, saga_id, keys.inbox_prefix(partition), lost.letter, lost.place, lost.participant, fact.type,
            fact.id, note,
        ]  # fmt: skip
        answer, key = await self.connection.run("lost", names, arguments)
        if answer == b"blocked":
            raise in_the_way(key)
        return bool(answer == b"told")


def order_of(entry: str) -> tuple[int, int]:
    """A stream entry's id as what it is ordered by: (milliseconds, number)."""
    milliseconds, _, number = entry.partition("-")
    return int(milliseconds), int(number)


def _settled_before(state: bytes | None, before: int) -> bool:
    """Whether the state of a letter, ``<what became of it> <ms> ...``, is older than ``before`` (ms)."""
    if not state or state == b"open":
        return False
    time = state.split(b" ")[1:2]
    return bool(time) and time[0].isdigit() and int(time[0]) < before
