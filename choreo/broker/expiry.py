"""Deadlines as the server keeps them: which sagas are due, and letting them time out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from choreo.broker.connection import Argument, Connection
from choreo.broker.sagas import in_the_way
from choreo.wire.keys import Keys
from choreo.wire.limits import MAX_UNREAD
from choreo.wire.topology import OWN_STREAM


class Fate(StrEnum):
    """What became of a saga whose deadline was due."""

    FIRED = "fired"
    """It unwinds now."""
    CLOSED = "closed"
    """It did not run any more."""
    MOVED = "moved"
    """It is due later, or no deadline is pending."""
    GONE = "gone"
    """It must have had a record, and has none any more: it ended long ago."""
    MET = "met"
    """What was awaited has come, but the tracker has not read it yet."""
    BEHIND = "behind"
    """The tracker has so much to read that nobody can know."""
    BLOCKED = "blocked"
    """A key is in the way; nothing was changed."""

    @property
    def stays(self) -> bool:
        """Whether the saga is still due."""
        return self in (Fate.MET, Fate.BEHIND, Fate.BLOCKED)


@dataclass(frozen=True, slots=True)
class Overdue:
    """A saga that is listed as due, and what its facts say."""

    saga_id: str
    saga_type: str
    due: int | None
    """When the deadline passes (ms since the epoch); ``None`` if none is pending."""
    fresh: bool
    """Whether no participant is known to have handled it: it need not have a record yet."""
    awaited: Sequence[tuple[str, str]]
    """The (topic, event type) that would have met the deadline."""
    event_id: str
    data: bytes
    """The id and the payload of the event that says so."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one saga."""

    fate: Fate
    obstacle: str = ""
    """The key that is in the way."""


@dataclass(frozen=True, slots=True)
class Expiry:
    """The deadlines of one namespace."""

    connection: Connection
    keys: Keys

    async def look(self, partition: int, now: int, skip: int, limit: int) -> tuple[list[str], int | None]:
        """The sagas that are due by ``now``, the first ``skip`` left out, at most ``limit``; and when the
        next one is due after that (ms), ``None`` if none is.
        """
        key = self.keys.deadlines(partition)
        due, following = await self.connection.call_many([
            ("ZRANGEBYSCORE", key, "-inf", now, "LIMIT", skip, limit),
            ("ZRANGEBYSCORE", key, f"({now}", "+inf", "WITHSCORES", "LIMIT", 0, 1),
        ])  # fmt: skip
        for answer in (due, following):
            if isinstance(answer, Exception):
                raise answer
        return [saga_id.decode() for saga_id in due], int(float(following[1])) if following else None

    async def expire(
        self, partition: int, version: int, now: int, overdue: Sequence[Overdue]
    ) -> list[Verdict] | None:
        """Let sagas of one partition time out. What was decided before is decided no differently.

        Returns:
            What became of each; ``None`` if another tracker was faster, or the views are being wiped.

        Raises:
            BrokerUnavailable: if it is not known what happened. Trying it again is safe.
            BrokerRefused: if a key of the tracker's has the wrong type. Nothing was written.
        """
        keys = self.keys
        names = [
            keys.tracker(partition), keys.deadlines(partition), keys.journal(partition),
            keys.dead(partition), keys.letters(partition), keys.timers(partition), keys.parked(partition),
            keys.stream(partition, OWN_STREAM),
        ]  # fmt: skip
        numbers: dict[str, int] = {}
        arguments: list[Argument] = [now, version, keys.inbox_prefix(partition), MAX_UNREAD, len(overdue)]
        for each in overdue:
            due: Argument = "" if each.due is None else each.due
            arguments += (len(names) + 1, each.saga_id, each.saga_type, due, "1" if each.fresh else "")
            names += (keys.record(partition, each.saga_id), keys.work(partition, each.saga_id))
            arguments.append(len(each.awaited))
            for topic, event_type in each.awaited:
                if topic not in numbers:
                    names.append(keys.stream(partition, topic))
                    numbers[topic] = len(names)
                arguments += (numbers[topic], event_type)
            arguments += (each.event_id, each.data)
        answer = await self.connection.run("expire", names, arguments)
        if isinstance(answer, bytes):
            raise in_the_way(answer)
        if answer == -1:
            return None
        return [Verdict(Fate(fate.decode()), *(key.decode() for key in more)) for fate, *more in answer]
