"""What is parked for a later attempt, and how an inbox entry becomes work again."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Final

import msgspec

from choreo.model.policy import Retry
from choreo.wire.envelope import Envelope

#: Types of inbox entries. No event type is called like that: these are no Python names.
UNDO: Final = "choreo.undo"
RETRY: Final = "choreo.retry"


class Parked(msgspec.Struct, frozen=True, array_like=True):
    """An attempt to come."""

    attempt: int
    undo: str = ""
    """For an undo: its ledger entry."""
    event: bytes = b""
    """For a step: the packed envelope of its event."""
    step: str = ""
    """For a step: its name."""

    def pack(self) -> bytes:
        return msgspec.msgpack.encode(self)


class NoWork(Exception):
    """An inbox entry makes no sense; somebody else has written into the inbox."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a worker is to do: handle an event, or undo the step of a ledger entry."""

    envelope: Envelope
    attempt: int = 1
    undo: str = ""
    step: str = ""
    """In a later attempt: the name of the step that is to be repeated."""

    @classmethod
    def of_inbox(cls, entry: Envelope) -> Work:
        """The work that an inbox entry asks for.

        Raises:
            NoWork: if it asks for none.
        """
        try:
            if entry.type == UNDO:
                return cls(entry, undo=entry.data.decode())
            if entry.type == RETRY:
                parked = msgspec.msgpack.decode(entry.data, type=Parked)
                if parked.undo:
                    return cls(entry, parked.attempt, parked.undo)
                return cls(Envelope.unpack(parked.event), parked.attempt, step=parked.step)
        except (UnicodeDecodeError, msgspec.DecodeError) as error:
            raise NoWork(f"the inbox holds an entry that cannot be read: {error}") from None
        raise NoWork(f"the inbox holds an entry that is no request: {entry.type!r:.100}")


def due_at(now: int, policy: Retry, attempt: int, key: str) -> int:
    """When the attempt after ``attempt`` is due (ms). Jitter follows from ``key``, so it can be repeated."""
    digest = hashlib.blake2b(f"{key}#{attempt}".encode(), digest_size=4).digest()
    chance = int.from_bytes(digest, "big") / 2**32
    return now + round(policy.delay(attempt, chance) * 1000)
