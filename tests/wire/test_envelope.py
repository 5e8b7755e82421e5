"""Envelopes: how events become entries and back, and what is refused with which reason code."""

from __future__ import annotations

import hashlib
import json
from base64 import urlsafe_b64decode

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import field

from choreo import Event
from choreo.errors import PayloadTooLarge
from choreo.wire.envelope import (
    Envelope,
    Malformed,
    Reason,
    check_data,
    derive_id,
    encode_data,
    nesting,
    parse,
)
from choreo.wire.limits import (
    MAX_DATA_BYTES,
    MAX_DATA_DEPTH,
    MAX_LEDGER_CHARACTERS,
    MAX_NAME_CHARACTERS,
    MAX_SOURCE_CHARACTERS,
)

printable = st.text(
    st.characters(exclude_categories=("C", "Z"), exclude_characters="{}"), min_size=1, max_size=30
)
loose = st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
milliseconds = st.integers(0, 10**15 - 1)
envelopes = st.builds(
    Envelope, id=printable, type=printable, subject=printable, data=st.binary(max_size=50), source=loose,
    time=milliseconds, sagatype=loose, cause=loose, ledger=loose, phase=loose, began=milliseconds,
    state=loose, seq=milliseconds, traceparent=loose, asks=st.lists(printable, max_size=3).map(tuple),
)  # fmt: skip


def entry_of(envelope: Envelope) -> dict[bytes, bytes]:
    """The entry that carries an envelope, as any program would write it."""
    values = msgspec.structs.asdict(envelope) | {"asks": " ".join(envelope.asks)}
    return {
        name.encode(): value if isinstance(value, bytes) else str(value).encode()
        for name, value in values.items()
        if value or name in ("id", "type", "subject", "data")
    }


def entry(**fields: str | bytes) -> dict[bytes, bytes]:
    """A well-formed entry, with some fields changed."""
    whole: dict[str, str | bytes] = {"id": "e1", "type": "Placed", "subject": "s1", "data": b"{}", **fields}
    return {
        name.encode(): value.encode() if isinstance(value, str) else value for name, value in whole.items()
    }


def refusal(fields: dict[bytes, bytes]) -> Malformed:
    with pytest.raises(Malformed) as caught:
        parse(fields)
    return caught.value


# -- round trips -------------------------------------------------------------------------------------


@given(envelopes)
def test_an_envelope_survives_its_entry(envelope: Envelope) -> None:
    """What is written as an entry is read back equal, whatever its attributes are."""
    assert parse(entry_of(envelope)) == envelope


@given(envelopes)
def test_an_envelope_survives_packing(envelope: Envelope) -> None:
    """What the ledger keeps is read back equal."""
    assert Envelope.unpack(envelope.pack()) == envelope


def test_four_fields_make_an_event() -> None:
    """Any program may write an event with id, type, subject and data alone."""
    assert parse(entry()) == Envelope("e1", "Placed", "s1", b"{}")


def test_unknown_fields_are_ignored() -> None:
    """Fields that a later version or another program adds do no harm, whatever bytes they hold."""
    assert parse(entry(datacontenttype="application/json", x=b"\xff\xfe") | {b"\xff": b"1"}) == parse(entry())


@given(st.dictionaries(st.sampled_from([b"id", b"type", b"subject", b"data", b"time", b"seq", b"asks", b"x"]),
                       st.binary(max_size=20)))  # fmt: skip
def test_any_entry_is_an_envelope_or_malformed(fields: dict[bytes, bytes]) -> None:
    """Whatever stands in a stream: it is understood, or refused with a reason code; nothing else happens."""
    try:
        parse(fields)
    except Malformed as malformed:
        assert malformed.reason in Reason


# -- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", [{}, {b"hello": b"world"}, {b"\xff\xfe": b"\xff\xfe"}, {b"time": b"1"}])
def test_what_is_not_ours_at_all(fields: dict[bytes, bytes]) -> None:
    """An entry with none of the required attributes is not an event."""
    assert refusal(fields).reason is Reason.NOT_AN_EVENT


@pytest.mark.parametrize("name", [b"id", b"type", b"subject", b"data"])
def test_a_missing_field_is_named(name: bytes) -> None:
    """A required attribute that is not there is named, and the saga is known if the entry names it."""
    fields = entry()
    del fields[name]
    malformed = refusal(fields)
    assert malformed.reason is Reason.FIELDS_MISSING
    assert malformed.detail == f"not there: {name.decode()}"
    assert malformed.subject == ("" if name == b"subject" else "s1")


@pytest.mark.parametrize(
    "name", ["id", "type", "subject", "source", "time", "sagatype", "cause", "ledger", "phase", "began",
             "state", "seq", "asks", "traceparent", "specversion"],
)  # fmt: skip
def test_bytes_that_are_no_text_are_refused_in_every_attribute(name: str) -> None:
    """An attribute that is not UTF-8 is refused; `data` is opaque here."""
    assert refusal(entry(**{name: b"\xff\xfe"})).reason is Reason.FIELDS_INVALID


def test_data_is_not_looked_into() -> None:
    """Parsing an envelope leaves its data alone: that is for whoever decodes it."""
    assert parse(entry(data=b"\xff\xfe")).data == b"\xff\xfe"


@pytest.mark.parametrize(
    "fields",
    [
        {"id": ""}, {"id": "a b"}, {"id": "a\nb"}, {"id": "x" * (MAX_NAME_CHARACTERS + 1)}, {"type": ""},
        {"type": "Placed "}, {"type": "\x1b[31m"}, {"type": "x" * (MAX_NAME_CHARACTERS + 1)}, {"subject": ""},
        {"subject": "a{b}"}, {"subject": "a\x00"}, {"subject": "x" * (MAX_NAME_CHARACTERS + 1)},
        {"source": "x" * (MAX_SOURCE_CHARACTERS + 1)}, {"cause": "x" * (MAX_NAME_CHARACTERS + 1)},
        {"ledger": "x" * (MAX_LEDGER_CHARACTERS + 1)},
        {"time": "-1"}, {"time": "+1"}, {"time": "1.5"}, {"time": "1e3"}, {"time": "1_000"}, {"time": " 1"},
        {"time": "now"}, {"time": "0x10"}, {"time": "٣"}, {"time": "9" * 16}, {"time": "9" * 5_000},
        {"began": "-1"}, {"began": "9" * 400}, {"seq": "-1"}, {"seq": "NaN"},
    ],
    ids=lambda fields: ",".join(f"{name}={value[:12]!r}" for name, value in fields.items()),
)  # fmt: skip
def test_attributes_that_make_no_sense_are_refused(fields: dict[str, str]) -> None:
    """Ids that are empty, long or with spaces, saga ids that are none, and numbers that are none."""
    assert refusal(entry(**fields)).reason is Reason.FIELDS_INVALID


@given(st.fixed_dictionaries({}, optional={
    name: st.text(st.sampled_from("ab {}\n\x1f\u00a0é"), max_size=4) | st.just("x" * 200)
    for name in ("id", "type", "subject", "source", "ledger", "phase")
}))  # fmt: skip
def test_an_entry_is_taken_if_each_of_its_attributes_may_be(fields: dict[str, str]) -> None:
    """Whatever stands beside them: the longest ones allowed, spaces where they may be."""
    fields = {"id": "e1", "type": "T", "subject": "s1", "data": "{}", **fields}
    words = [fields["id"], fields["type"]]
    fine = (
        all(word.isprintable() and " " not in word for word in words)
        and all(0 < len(fields[name]) <= MAX_NAME_CHARACTERS for name in ("id", "type", "subject"))
        and fields["subject"].isprintable()
        and not set("{}") & set(fields["subject"])
        and len(fields.get("phase", "")) <= MAX_NAME_CHARACTERS
    )
    entry = {name.encode(): value.encode() for name, value in fields.items()}
    if fine:
        assert parse(entry).subject == fields["subject"]
    else:
        with pytest.raises(Malformed):
            parse(entry)


@pytest.mark.parametrize("version", ["2", "1.0", "0", "", "one", "1" * 5_000])
def test_an_unknown_version_is_refused(version: str) -> None:
    """An envelope of another version is refused, in few words, and its saga is known."""
    malformed = refusal(entry(specversion=version))
    assert malformed.reason is Reason.VERSION_UNKNOWN
    assert malformed.subject == "s1"
    assert len(malformed.detail) < 200
    assert parse(entry(specversion="1"))


def test_a_refusal_is_short_however_long_the_entry() -> None:
    """A refusal does not repeat megabytes of what it refuses."""
    for name in ("id", "type", "source", "time", "specversion"):
        assert len(refusal(entry(**{name: "9" * 1_000_000})).detail) < 500


def test_reason_codes_are_stable() -> None:
    """Scripts and dashboards rely on these codes."""
    assert {reason.value for reason in Reason} >= {
        "not-an-event", "fields-missing", "fields-invalid", "version-unknown", "type-unknown",
        "data-too-large", "data-too-deep", "data-not-json", "data-misfit",
        "step-failed", "undo-failed", "abort-too-late",
    }  # fmt: skip


# -- data --------------------------------------------------------------------------------------------

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(max_examples=40)
@given(json_values, st.booleans())
def test_any_json_is_fine(value: object, ascii_only: bool) -> None:
    """Everything that a JSON encoder writes passes."""
    check_data(json.dumps(value, ensure_ascii=ascii_only).encode())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.DATA_NOT_JSON), (b" ", Reason.DATA_NOT_JSON), (b"{", Reason.DATA_NOT_JSON),
        (b"NaN", Reason.DATA_NOT_JSON), (b'{"a":NaN}', Reason.DATA_NOT_JSON),
        (b"Infinity", Reason.DATA_NOT_JSON), (b"[-Infinity]", Reason.DATA_NOT_JSON),
        (b"{'a':1}", Reason.DATA_NOT_JSON), (b"{} {}", Reason.DATA_NOT_JSON),
        (b"\xff\xfe", Reason.DATA_NOT_JSON), (b'{"a":"\xff\xfe"}', Reason.DATA_NOT_JSON),
        (b'{"a":"\xed\xa0\x80"}', Reason.DATA_NOT_JSON), (b"\xef\xbb\xbf{}", Reason.DATA_NOT_JSON),
        (b'{"a":1,}', Reason.DATA_NOT_JSON), (b"01", Reason.DATA_NOT_JSON),
        (b"plain text", Reason.DATA_NOT_JSON),
        (b"\x81\xa1a\x01", Reason.DATA_NOT_JSON),
        (b"[" * 100_000, Reason.DATA_TOO_DEEP), (b"[" * 100_000 + b"]" * 100_000, Reason.DATA_TOO_DEEP),
        (b'{"a":' * 40_000 + b"1" + b"}" * 40_000, Reason.DATA_TOO_DEEP),
        (b'"' + b"x" * 5_000_000 + b'"', Reason.DATA_TOO_LARGE), (b"x" * 5_000_000, Reason.DATA_TOO_LARGE),
        (b"[" * 300_000, Reason.DATA_TOO_LARGE),
    ],
    ids=lambda value: repr(value[:16]) if isinstance(value, bytes) else value,
)  # fmt: skip
def test_data_that_nobody_could_decode_is_refused(data: bytes, reason: Reason) -> None:
    """No JSON, too deep or too large: each with its own code."""
    with pytest.raises(Malformed) as caught:
        check_data(data)
    assert caught.value.reason is reason
    assert len(caught.value.detail) < 500


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def test_depth_is_allowed_up_to_the_limit() -> None:
    """JSON may nest as deep as the limit says, and no deeper."""
    check_data(nested(MAX_DATA_DEPTH))
    with pytest.raises(Malformed):
        check_data(nested(MAX_DATA_DEPTH + 1))


@given(st.text(st.sampled_from('[]{}"\\a')))
def test_brackets_in_strings_do_not_count(text: str) -> None:
    """However many brackets, quotes and backslashes stand in a string, it is not deep."""
    assert nesting(json.dumps({"a": text * 30}).encode()) == 1
    check_data(json.dumps({"a": [text * 100]}).encode())


@settings(max_examples=40)
@given(json_values)
def test_nesting_is_what_it_says(value: object) -> None:
    """The depth found in the text is the depth of the value."""

    def depth(part: object) -> int:
        if isinstance(part, dict):
            return 1 + max(map(depth, part.values()), default=0)
        return 1 + max(map(depth, part), default=0) if isinstance(part, list) else 0

    assert nesting(json.dumps(value).encode()) == depth(value)


def test_data_is_allowed_up_to_the_limit() -> None:
    """JSON may be as large as the limit says, and no larger."""
    check_data(b'"' + b"x" * (MAX_DATA_BYTES - 2) + b'"')
    with pytest.raises(Malformed):
        check_data(b'"' + b"x" * (MAX_DATA_BYTES - 1) + b'"')


class Noted(Event):
    text: str
    tags: frozenset[str] = frozenset()
    more: dict[str, int] = field(default_factory=dict)


def test_an_event_that_is_too_large_is_refused_before_it_is_sent() -> None:
    """The error says how large it is, how large it may be, and what to do."""
    room = MAX_DATA_BYTES - len(encode_data(Noted("")))
    check_data(encode_data(Noted("x" * room)))
    with pytest.raises(
        PayloadTooLarge, match=r"Noted has 262,145 bytes of JSON; at most 262,144 .*reference"
    ):
        encode_data(Noted("x" * (room + 1)))


@given(st.text(st.characters(exclude_categories=("Cs",))), st.frozensets(st.text("abc")),
       st.dictionaries(st.text("abc"), st.integers(0, 9)))  # fmt: skip
def test_equal_events_give_equal_bytes(text: str, tags: frozenset[str], more: dict[str, int]) -> None:
    """The JSON of an event does not depend on the order in which sets and dicts were filled."""
    event = Noted(text, tags, more)
    again = Noted(text, frozenset(reversed(list(tags))), dict(reversed(more.items())))
    assert encode_data(event) == encode_data(again)
    assert msgspec.json.decode(encode_data(event), type=Noted) == event


# -- ids ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "derived"),
    [
        (("start", "order-1", "Placed", "{}"), "Lcuw2-t_b8wrxPohZuRe"),
        (("e1", "payments", "charge", "0"), "5tV0h11qLQEAw99OpnHb"),
        (("key", "order-1", "payments", "charge", "", "e1"), "ayrtNP3kUoAgtRVuYFTY"),
        (("Käse",), "tTxeE3ro1cpMsZm6IYJl"),
    ],
)
def test_derived_ids_never_change(parts: tuple[str, ...], derived: str) -> None:
    """Another version must derive the same, or repetitions would not be recognised."""
    assert derive_id(*parts) == derived
    digest = hashlib.blake2b("\0".join(parts).encode(), digest_size=15).digest()
    assert urlsafe_b64decode(derived) == digest


parts = st.lists(
    st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=5), min_size=1
)


@given(parts, parts)
def test_ids_follow_from_their_parts_alone(one: list[str], other: list[str]) -> None:
    """Equal parts give equal ids, and different ones different ids, wherever the parts are cut."""
    assert (derive_id(*one) == derive_id(*other)) == (one == other)


@given(st.lists(st.text(st.characters(exclude_categories=("Cs",))), min_size=1))
def test_a_derived_id_is_one_that_an_envelope_takes(parts: list[str]) -> None:
    """A derived id is 20 characters of the alphabet that URLs and keys take."""
    derived = derive_id(*parts)
    assert len(derived) == 20
    assert parse(entry(id=derived)).id == derived
