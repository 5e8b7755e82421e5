"""What inboxes deliver besides events: later attempts of steps, and requests to undo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from choreo.wire.envelope import Envelope

#: Types of inbox entries. No event type is called like that: these are no Python names.
UNDO: Final = "choreo.undo"
RETRY: Final = "choreo.retry"


class Parked(msgspec.Struct, frozen=True, array_like=True):
    """An attempt to come, or an event."""

    attempt: int
    undo: str = ""
    """For an undo: its ledger entry."""
    event: bytes = b""
    """For a step: the packed envelope of its event."""
    step: str = ""
    """For a step, or an event that one planned: the step's name."""
    planned: bool = False
    """Whether ``event`` is to be published now, and not to be handled."""

    def pack(self) -> bytes:
        return _encode(self)

    @staticmethod
    def unpack(packed: bytes) -> Parked:
        """The reverse of :meth:`pack`."""
        return _decode_parked(packed)


_encode = msgspec.msgpack.Encoder().encode
_decode_parked = msgspec.msgpack.Decoder(Parked).decode
_decode_list = msgspec.msgpack.Decoder(list[bytes]).decode


def pack(envelopes: Sequence[Envelope]) -> bytes:
    """Events as the ledger keeps them."""
    return _encode([each.pack() for each in envelopes])


def unpack(packed: bytes) -> list[Envelope]:
    """The reverse of :func:`pack`."""
    return [Envelope.unpack(each) for each in _decode_list(packed)]
