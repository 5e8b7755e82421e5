"""How an inbox entry becomes work again, and when a later attempt is due."""

from __future__ import annotations

import hashlib

import msgspec

from choreo.model.policy import Retry
from choreo.wire.envelope import Envelope
from choreo.wire.inbox import RETRY, UNDO, Parked


class NoWork(Exception):
    """An inbox entry makes no sense; somebody else has written into the inbox."""


class Work(msgspec.Struct, frozen=True, gc=False):
    """What a worker is to do: handle an event, undo the step of a ledger entry, or publish an event."""

    envelope: Envelope
    partition: int
    """That of its saga."""
    attempt: int = 1
    undo: str = ""
    step: str = ""
    """In a later attempt: the name of the step that is to be repeated. Else: that planned the event."""
    planned: bool = False
    """Whether the event is to be published now."""

    @classmethod
    def of_inbox(cls, entry: Envelope, partition: int) -> Work:
        """The work that an entry of a partition's inbox asks for.

        Raises:
            NoWork: if it asks for none.
        """
        try:
            if entry.type == UNDO:
                return cls(entry, partition, undo=entry.data.decode())
            if entry.type == RETRY:
                parked = Parked.unpack(entry.data)
                if parked.undo:
                    return cls(entry, partition, parked.attempt, parked.undo)
                event = Envelope.unpack(parked.event)
                return cls(event, partition, parked.attempt, step=parked.step, planned=parked.planned)
        except (UnicodeDecodeError, msgspec.DecodeError) as error:
            raise NoWork(f"the inbox holds an entry that cannot be read: {error}") from None
        raise NoWork(f"the inbox holds an entry that is no request: {entry.type!r:.100}")


def due_at(now: int, policy: Retry, attempt: int, key: str) -> int:
    """When the attempt after ``attempt`` is due (ms). Jitter follows from ``key``, so it can be repeated."""
    digest = hashlib.blake2b(f"{key}#{attempt}".encode(), digest_size=4).digest()
    chance = int.from_bytes(digest, "big") / 2**32
    return now + round(policy.delay(attempt, chance) * 1000)
