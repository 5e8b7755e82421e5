"""The envelope: what travels around an event, and how both become a stream entry and back.

Attributes are named after CloudEvents where it has a name. An entry is a flat map of bytes, so that
``redis-cli`` and any other language can read and write it:

===============  =========  ==================================================================
attribute        required   meaning
===============  =========  ==================================================================
``id``           yes        unique within the saga; derived from the cause, never random
``type``         yes        the event's type
``subject``      yes        the saga's id
``data``         yes        the event as JSON
``specversion``  no         version of this envelope; ``1`` if absent
``source``       no         ``participant/step`` that emitted it, or any name of a producer
``time``         no         when it was emitted: milliseconds since the epoch, decimal
``sagatype``     no         the saga's type; follows from ``type`` for an event that starts one
``cause``        no         id of the event whose handling emitted it
``ledger``       no         ledger entries that caused it, separated by spaces
``phase``        no         ``back`` for an event of the way back: an abort or a compensation
``began``        no         when the handler that emitted it began (milliseconds)
``state``        no         the state into which this commit brought the saga
``seq``          no         how many state changes the saga had then seen
``asks``         no         the undos that this commit asked for, separated by spaces
``traceparent``  no         W3C trace context, passed along from event to event
``unwinds``      no         ``1``: leads forward, but the commit that published it has made the saga unwind
===============  =========  ==================================================================
"""

from __future__ import annotations

import hashlib
from binascii import b2a_base64
from collections.abc import Mapping
from contextlib import suppress
from enum import StrEnum
from functools import cache

import msgspec

from choreo.errors import InvalidEvent, InvalidSagaId, PayloadTooLarge
from choreo.model.event import Event, type_name
from choreo.wire.keys import check_saga_id
from choreo.wire.limits import (
    MAX_DATA_BYTES,
    MAX_DATA_DEPTH,
    MAX_LEDGER_CHARACTERS,
    MAX_NAME_CHARACTERS,
    MAX_SOURCE_CHARACTERS,
)

SPEC_VERSION = "1"
#: Value of ``phase`` on the way back.
BACK = "back"

#: What base64 writes for values 62 and 63, and what URLs can hold.
_URL_SAFE = bytes.maketrans(b"+/", b"-_")

_encode = msgspec.json.Encoder(order="deterministic").encode
_skip = msgspec.json.Decoder(msgspec.Raw).decode


class Reason(StrEnum):
    """Why an entry became a dead letter. These codes are stable: scripts and dashboards may rely on them."""

    NOT_AN_EVENT = "not-an-event"
    """None of the envelope's attributes is there: the entry is not ours at all."""
    FIELDS_MISSING = "fields-missing"
    """Some required attributes are there, others are not."""
    FIELDS_INVALID = "fields-invalid"
    """An attribute is not UTF-8, too long, not a number where one is due, or not a saga id."""
    VERSION_UNKNOWN = "version-unknown"
    """``specversion`` names an envelope that this version of choreo does not know."""
    TYPE_UNKNOWN = "type-unknown"
    """The stream does not carry this event type."""
    DATA_TOO_LARGE = "data-too-large"
    DATA_TOO_DEEP = "data-too-deep"
    DATA_NOT_JSON = "data-not-json"
    """``data`` is no JSON: also NaN, Infinity and bytes that are not UTF-8."""
    DATA_MISFIT = "data-misfit"
    """``data`` is JSON, but not of the event type as the participant knows it."""
    STEP_FAILED = "step-failed"
    """A step raised an error, and its attempts are used up."""
    ENTRY_LOST = "entry-lost"
    """It was deleted from its stream before it was handled; what it said is lost."""
    POISON = "poison"
    """It was delivered too often without an outcome: it seems to kill the worker that handles it."""
    UNDO_FAILED = "undo-failed"
    """An undo raised an error, and its attempts are used up."""
    ABORT_TOO_LATE = "abort-too-late"
    """A step aborted when its saga had completed already."""


class Malformed(Exception):
    """An entry is not a well-formed event. ``reason`` is the stable code, ``detail`` is for people."""

    def __init__(self, reason: Reason, detail: str, subject: str = "") -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.subject = subject


class Envelope(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """An event as it travels. ``data`` is its JSON, opaque until a participant decodes it."""

    id: str
    type: str
    subject: str
    data: bytes
    source: str = ""
    time: int = 0
    sagatype: str = ""
    cause: str = ""
    ledger: str = ""
    phase: str = ""
    began: int = 0
    state: str = ""
    seq: int = 0
    traceparent: str = ""
    asks: tuple[str, ...] = ()
    unwinds: str = ""

    def pack(self) -> bytes:
        """This envelope as msgpack: what the ledger keeps for an undo."""
        return _pack(self)

    @staticmethod
    def unpack(packed: bytes) -> Envelope:
        """The reverse of :meth:`pack`."""
        return _unpack(packed)


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(Envelope).decode


def encode_data(event: Event) -> bytes:
    """The event's JSON; equal events give equal bytes.

    Raises:
        InvalidEvent: if it is no event, or JSON cannot tell it: NaN and Infinity would become null.
        PayloadTooLarge: if it has more than ``limits.MAX_DATA_BYTES`` bytes.
    """
    if not isinstance(event, Event):
        raise InvalidEvent(f"{event!r:.200} is no event; give an instance of a subclass of choreo.Event")
    try:
        data = _encode(event)
        told = not _has_floats(type(event)) or msgspec.json.decode(data, type=type(event)) == event
    except (TypeError, ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise InvalidEvent(f"{type_name(event)} cannot be told in JSON: {error}") from error
    if not told:
        raise InvalidEvent(f"{type_name(event)} cannot be told in JSON: a number is NaN or infinite")
    if len(data) > MAX_DATA_BYTES:
        raise PayloadTooLarge(
            f"{type_name(event)} has {len(data):,} bytes of JSON; at most {MAX_DATA_BYTES:,} may be sent."
            " Store the bulk elsewhere and send a reference to it"
        )
    return data


@cache
def _has_floats(event: type[Event]) -> bool:
    """Whether a field may hold a float, at any depth; unknown types count as if."""
    try:
        schema = msgspec.json.schema(event)
    except Exception:  # a type of the user's own, without a schema
        return True
    text = msgspec.json.encode(schema)
    return b'"number"' in text or b'{}' in text


def derive_id(*parts: str) -> str:
    """An id that follows from ``parts`` alone: 20 characters, 120 bits of BLAKE2b.

    Derived ids are what makes a repetition recognisable: the same input gives the same ids.
    """
    digest = hashlib.blake2b("\0".join(parts).encode(), digest_size=15).digest()
    return b2a_base64(digest, newline=False).translate(_URL_SAFE).decode()


def refusal_id(reason: str, stream: str, entry: str) -> str:
    """The id of the dead letter of an entry that no participant can own."""
    return derive_id("letter", reason, stream, entry)


def check_data(data: bytes) -> None:
    """Refuse ``data`` that no participant could decode, whatever its contract.

    Raises:
        Malformed: if it is too large, nests too deep, or is not JSON.
    """
    if len(data) > MAX_DATA_BYTES:
        raise Malformed(Reason.DATA_TOO_LARGE, f"{len(data):,} bytes; at most {MAX_DATA_BYTES:,}")
    if data.count(b"[") + data.count(b"{") > MAX_DATA_DEPTH and nesting(data) > MAX_DATA_DEPTH:
        raise Malformed(Reason.DATA_TOO_DEEP, f"nests deeper than {MAX_DATA_DEPTH} levels")
    try:
        _skip(data)
        data.decode()
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Malformed(Reason.DATA_NOT_JSON, str(error)) from None


def nesting(data: bytes) -> int:
    """How deep the brackets of a JSON text nest, those within strings not counted."""
    deepest = depth = 0
    quoted = escaped = False
    for byte in data:
        if quoted:
            if escaped:
                escaped = False
            elif byte == 0x5C:  # backslash
                escaped = True
            elif byte == 0x22:  # quote
                quoted = False
        elif byte == 0x22:
            quoted = True
        elif byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


def parse(entry: Mapping[bytes, bytes]) -> Envelope:
    """The envelope of a stream entry. ``data`` is not looked into; see :func:`check_data`.

    Raises:
        Malformed: if the entry is not a well-formed envelope of a version that is known.
    """
    get = entry.get
    try:
        values = [
            entry[b"id"], entry[b"type"], entry[b"subject"], get(b"source", b""), get(b"sagatype", b""),
            get(b"cause", b""), get(b"ledger", b""), get(b"phase", b""), get(b"state", b""),
            get(b"traceparent", b""), get(b"unwinds", b""),
        ]  # fmt: skip
        data = entry[b"data"]
    except KeyError:
        raise _missing(entry) from None
    subject = ""
    try:
        packed = _PART.join(values)
        text = packed.decode().split("\x1f")
        if len(text) != len(values):  # one of them holds what parts them
            text = [value.decode() for value in values]
        if not _is_plain(text, len(packed)):
            subject = check_saga_id(text[_SUBJECT])
            _check_text(text)
        subject = text[_SUBJECT]
        time, began, seq = number(entry, b"time"), number(entry, b"began"), number(entry, b"seq")
        version = entry[b"specversion"].decode() if b"specversion" in entry else SPEC_VERSION
        asks = tuple(entry[b"asks"].decode().split()) if b"asks" in entry else ()
    except (UnicodeDecodeError, ValueError, InvalidSagaId) as error:
        raise Malformed(Reason.FIELDS_INVALID, str(error), subject) from None
    if version != SPEC_VERSION:
        detail = f"specversion {version!r:.40}; this is {SPEC_VERSION}"
        raise Malformed(Reason.VERSION_UNKNOWN, detail, subject)
    event_id, event_type, _, source, saga_type, cause, ledger, phase, state, traceparent, unwinds = text
    return Envelope(
        event_id, event_type, subject, data, source, time, saga_type, cause, ledger, phase, began,
        state, seq, traceparent, asks, unwinds,
    )  # fmt: skip


_REQUIRED_IN_ORDER = (b"id", b"type", b"subject", b"data")
_TEXT = (
    "id", "type", "subject", "source", "sagatype", "cause", "ledger", "phase", "state", "traceparent",
    "unwinds",
)  # fmt: skip
_SUBJECT = _TEXT.index("subject")
_PART = b"\x1f"
_LIMITS = {"ledger": MAX_LEDGER_CHARACTERS, "source": MAX_SOURCE_CHARACTERS}


def _missing(entry: Mapping[bytes, bytes]) -> Malformed:
    missing = [name for name in _REQUIRED_IN_ORDER if name not in entry]
    if len(missing) == len(_REQUIRED_IN_ORDER):
        return Malformed(Reason.NOT_AN_EVENT, "no attribute of an envelope is there")
    subject = ""
    with suppress(UnicodeDecodeError, InvalidSagaId):
        subject = check_saga_id(entry.get(b"subject", b"").decode())
    names = ", ".join(name.decode() for name in missing)
    return Malformed(Reason.FIELDS_MISSING, f"not there: {names}", subject)


def _is_plain(text: list[str], together: int) -> bool:
    """A quick look: whether :func:`check_saga_id` and :func:`_check_text` have nothing to find. If not, they
    may still find nothing. ``together`` is the length of all attributes."""
    event_id, event_type, subject = text[:3]
    words = event_id + event_type + subject
    return (
        bool(event_id and event_type and subject)
        and words.isprintable()
        and not (" " in words or "{" in words or "}" in words)
        and (together <= MAX_NAME_CHARACTERS or max(map(len, text)) <= MAX_NAME_CHARACTERS)
    )


def _check_text(text: list[str]) -> None:
    """Refuse attributes (in the order of ``_TEXT``) that are too long, or cannot be an id or a type."""
    if max(map(len, text)) > MAX_NAME_CHARACTERS:
        for name, value in zip(_TEXT, text, strict=True):
            limit = _LIMITS.get(name, MAX_NAME_CHARACTERS)
            if len(value) > limit:
                raise ValueError(f"{name} has {len(value)} characters; at most {limit}")
    for name, value in zip(_TEXT[:2], text, strict=False):
        if not value or " " in value or not value.isprintable():
            what = "it must be printable, without spaces, and not empty"
            raise ValueError(f"{name} is {value!r}; {what}")


def number(entry: Mapping[bytes, bytes], name: bytes) -> int:
    """A number of milliseconds, or a count; 0 if it is not there.

    Raises:
        ValueError: if it is anything but up to 15 decimal digits.
    """
    value = entry.get(name)
    if not value:
        return 0
    if len(value) > 15 or not value.isdigit():
        raise ValueError(f"{name.decode()} is {value[:40]!r}, not a number of milliseconds")
    return int(value)
