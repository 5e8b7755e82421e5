"""Dead letters on the server: listing them, and carrying out what operators order about them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from choreo.broker.connection import Argument, Connection
from choreo.broker.groups import fields_of
from choreo.broker.sagas import in_the_way
from choreo.wire.keys import Keys

#: Letters of one partition that are read at once.
_PAGE = 200
_OPEN = "open"


@dataclass(frozen=True, slots=True)
class Filed:
    """A dead letter as it is kept."""

    partition: int
    entry: str
    """Its id in the stream of dead letters; empty if it was dropped."""
    fields: Mapping[bytes, bytes]
    state: str
    """``open``, or ``<what became of it> <ms> <token> <who>``."""

    @property
    def id(self) -> str:
        return self.fields.get(b"letter", b"").decode(errors="replace")

    @property
    def place(self) -> str:
        """Partition and entry, as :meth:`Letters.at` takes them."""
        return f"{self.partition}:{self.entry}"

    def text(self, name: str) -> str:
        """A field as text; empty if it is not there."""
        return self.fields.get(name.encode(), b"").decode(errors="replace")


@dataclass(frozen=True, slots=True)
class OrderSlip:
    """What all orders say. The same ``token`` sent again is the same order."""

    now: int
    """Milliseconds since the epoch."""
    token: str
    who: str
    why: str = ""
    rehearse: bool = False
    """Only say what would become of it; of orders about letters."""

    def arguments(self, keys: Keys, partition: int, saga_id: str) -> list[Argument]:
        return [self.now, saga_id, keys.inbox_prefix(partition), self.token, self.who, self.why]


class Answer(NamedTuple):
    """A script's word, and what it says more: a state, a count, or what became of a letter."""

    word: str
    detail: str


@dataclass(slots=True)
class _Scan:
    """How far the listing of one partition is."""

    end: str
    found: list[Filed] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Letters:
    """The dead letters of one namespace."""

    connection: Connection
    keys: Keys

    # -- looking -----------------------------------------------------------------------------------

    async def listed(
        self, wanted: Callable[[Filed], bool], *, limit: int, oldest_first: bool = False,
        partitions: Iterable[int] | None = None,
    ) -> list[Filed]:  # fmt: skip
        """At most ``limit`` letters that are wanted, the newest (or the oldest) of all partitions first.

        Reads page by page, and of each partition no further than it must.
        """
        command = "XRANGE" if oldest_first else "XREVRANGE"
        first, last = ("-", "+") if oldest_first else ("+", "-")
        everywhere = range(self.keys.partitions) if partitions is None else partitions
        scans = {partition: _Scan(first) for partition in everywhere}
        active = dict(scans)
        while active:
            commands = [
                (command, self.keys.dead(number), scan.end, last, "COUNT", _PAGE)
                for number, scan in active.items()
            ]
            pages = await self._call_all(commands)
            for (number, scan), page in zip(list(active.items()), pages, strict=True):
                filed = await self._filed(number, page)
                scan.found += [each for each in filed if wanted(each)][: limit - len(scan.found)]
                if len(page) < _PAGE or len(scan.found) >= limit:
                    del active[number]
                else:
                    scan.end = f"({filed[-1].entry}"
        found = [each for scan in scans.values() for each in scan.found]
        found.sort(key=lambda each: (_order(each.entry), each.partition), reverse=not oldest_first)
        return found[:limit]

    async def find(self, letter_id: str) -> Filed | None:
        """The letter of an id; ``None`` if there never was one. Of a dropped one only its state is known."""
        commands = [("HGET", self.keys.letters(each), letter_id) for each in range(self.keys.partitions)]
        states = await self._call_all(commands)
        partition = next((number for number, state in enumerate(states) if state), None)
        if partition is None:
            return None
        found = await self.listed(lambda each: each.id == letter_id, limit=1, partitions=[partition])
        return found[0] if found else Filed(
            partition, "", {b"letter": letter_id.encode()}, states[partition].decode(errors="replace")
        )

    async def at(self, place: str) -> Filed | None:
        """The letter at a place (``partition:entry``), or ``None`` if none stands there (any more)."""
        partition, _, entry = place.partition(":")
        if not partition.isdecimal() or int(partition) >= self.keys.partitions:
            return None
        page = await self.connection.call("XRANGE", self.keys.dead(int(partition)), entry, entry)
        filed = await self._filed(int(partition), page)
        return filed[0] if filed else None

    async def _filed(self, partition: int, page: Sequence[tuple[bytes, Sequence[bytes]]]) -> list[Filed]:
        entries = [(entry.decode(), fields_of(flat or ())) for entry, flat in page]
        ids = [fields.get(b"letter", b"") for _, fields in entries]
        states = await self.connection.call("HMGET", self.keys.letters(partition), *ids) if ids else []
        return [
            Filed(partition, entry, fields, state.decode(errors="replace") if state else _OPEN)
            for (entry, fields), state in zip(entries, states, strict=True)
        ]

    async def _call_all(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        answers = await self.connection.call_many(commands)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    # -- ordering ----------------------------------------------------------------------------------

    def saga_of(self, filed: Filed) -> str:
        """The saga that a letter can be held against; empty if it names none, or one that lives elsewhere."""
        saga_id = filed.text("subject")
        return saga_id if saga_id and self.keys.partition(saga_id) == filed.partition else ""

    async def replay(
        self, filed: Filed, slip: OrderSlip, attempt: bytes, parts: Sequence[tuple[str, bytes]]
    ) -> Answer:
        """Try again a step or an undo. ``attempt`` is what the inbox is to deliver; for a join ``parts`` are
        its events, by field. An undo is asked for, and needs neither.

        Answers ``replayed``, ``closed``, ``unknown`` or ``refused``.
        """
        rest: list[Argument] = [attempt, *(each for part in parts for each in part)]
        return await self._order("replay", filed, slip, rest)

    async def republish(
        self, filed: Filed, slip: OrderSlip, stream: str, entry: Mapping[bytes, bytes]
    ) -> Answer:
        """Add a refused entry to its stream once more. Answers ``replayed``, ``closed`` or ``unknown``."""
        rest: list[Argument] = [each for pair in entry.items() for each in pair]
        return await self._order("republish", filed, slip, rest, stream)

    async def drop(self, filed: Filed, slip: OrderSlip) -> Answer:
        """Delete a letter. Answers ``dropped``, ``closed`` or ``unknown``."""
        return await self._order("drop", filed, slip, [])

    async def _order(
        self, script: str, filed: Filed, slip: OrderSlip, rest: Sequence[Argument], *more_keys: str
    ) -> Answer:
        saga_id = self.saga_of(filed)
        names = [*order_keys(self.keys, filed.partition, saga_id), *more_keys]
        arguments = [
            *slip.arguments(self.keys, filed.partition, saga_id), filed.id, filed.entry,
            "rehearse" if slip.rehearse else "", *rest,
        ]  # fmt: skip
        return answer_of(await self.connection.run(script, names, arguments))

    async def hurry(self, saga_id: str, slip: OrderSlip) -> Answer:
        """Have a saga's attempts that wait for their time due now. Answers ``hurried`` and how many those
        are, or ``unknown``."""
        return await self._order_saga("hurry", saga_id, slip)

    async def resolve(self, saga_id: str, slip: OrderSlip) -> Answer:
        """Count a saga as put right by hand. Answers ``resolved`` and how many letters that settled,
        ``closed`` and the saga's state, or ``unknown``."""
        return await self._order_saga("resolve", saga_id, slip)

    async def _order_saga(self, script: str, saga_id: str, slip: OrderSlip) -> Answer:
        partition = self.keys.partition(saga_id)
        names = order_keys(self.keys, partition, saga_id)
        return answer_of(
            await self.connection.run(script, names, slip.arguments(self.keys, partition, saga_id))
        )


def order_keys(keys: Keys, partition: int, saga_id: str) -> list[str]:
    """The keys that every order about a saga is given."""
    return [
        keys.record(partition, saga_id), keys.work(partition, saga_id), keys.journal(partition),
        keys.dead(partition), keys.letters(partition), keys.timers(partition), keys.parked(partition),
    ]  # fmt: skip


def answer_of(answer: Sequence[bytes]) -> Answer:
    """A script's answer as text.

    Raises:
        BrokerRefused: if a key is in the way.
    """
    word, detail = answer
    if word == b"blocked":
        raise in_the_way(detail)
    return Answer(word.decode(), detail.decode(errors="replace"))


def _order(entry: str) -> tuple[int, int]:
    milliseconds, _, number = entry.partition("-")
    return int(milliseconds), int(number)
