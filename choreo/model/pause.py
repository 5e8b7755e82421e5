"""A participant that an operator has paused: its workers take nothing new until it is resumed."""

from __future__ import annotations

import msgspec


class Pause(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who paused a participant, and when."""

    who: str
    at: int
    """Milliseconds since the epoch."""
    note: str = ""
    """Why, in the operator's words."""


encode_pause = msgspec.json.Encoder(order="deterministic").encode
decode_pause = msgspec.json.Decoder(Pause).decode
