"""How streams and journal tell facts: from entries to :class:`~choreo.model.facts.Fact`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import msgspec

from choreo.errors import InvalidSagaId
from choreo.model.deadlines import describe
from choreo.model.event import SagaTimedOut, type_name
from choreo.model.facts import Fact, Kind
from choreo.model.saga import State
from choreo.wire.envelope import BACK, Envelope, Malformed, Reason, check_data, number, parse
from choreo.wire.keys import check_saga_id
from choreo.wire.limits import MAX_JOURNAL_BYTES
from choreo.wire.topology import Topology

_STATES = frozenset(State) | {""}


class Place(NamedTuple):
    """Where an entry was read: a topic, and a partition of it."""

    topic: str
    partition: int


def judge(topology: Topology, place: Place, entry: Mapping[bytes, bytes]) -> Envelope:
    """The envelope of an entry of a topic, if any participant could make sense of it.

    Participants and the tracker judge by this alone, so that what one handles the other does not refuse.

    Raises:
        Malformed: if the entry is malformed, whatever a participant's contract says. Its ``subject`` is
            set if the entry can be held against a saga.
    """
    envelope = parse(entry)
    if topology.keys.partition(envelope.subject) != place.partition:
        # No subject: the keys of its saga are elsewhere, so the refusal cannot be told there.
        right = topology.keys.partition(envelope.subject)
        raise Malformed(Reason.FIELDS_INVALID, f"saga {envelope.subject!r} belongs into partition {right}")
    if topology.routes.get(envelope.type) != place.topic:
        detail = f"{place.topic} does not carry {envelope.type}"
        raise Malformed(Reason.TYPE_UNKNOWN, detail, envelope.subject)
    try:
        check_data(envelope.data)
        if envelope.state not in _STATES:
            raise Malformed(Reason.FIELDS_INVALID, f"state {envelope.state!r} is none")
    except Malformed as malformed:
        malformed.subject = envelope.subject
        raise
    return envelope


def of_event(
    topology: Topology, place: Place, entry: Mapping[bytes, bytes], entry_id: str = ""
) -> tuple[str, Fact]:
    """The saga id and the fact of an entry of a topic.

    Raises:
        Malformed: as :func:`judge` does.
    """
    envelope = judge(topology, place, entry)
    return envelope.subject, _event_fact(topology, envelope, entry_id)


def _event_fact(topology: Topology, envelope: Envelope, entry_id: str) -> Fact:
    participant, step, undo = _parts_of(envelope.source)
    saga = topology.saga_type_of(envelope.type, envelope.sagatype)
    return Fact(
        envelope.id, _EVENT, envelope.time or time_of(entry_id), envelope.type, envelope.cause,
        participant, step, undo, envelope.began, envelope.state, envelope.seq, saga.name if saga else "",
        envelope.phase == BACK, _timed_out(envelope.data) if envelope.type == _TIMED_OUT else "", "",
        envelope.asks, tuple(envelope.ledger.split()) if envelope.ledger else (), entry=entry_id,
    )  # fmt: skip


#: Looking up a member of an enumeration takes longer than one would think.
_EVENT = Kind.EVENT
_TIMED_OUT = type_name(SagaTimedOut)
_decode_timed_out = msgspec.json.Decoder(SagaTimedOut).decode


@lru_cache(1024)
def _parts_of(source: str) -> tuple[str, str, str]:
    """Participant, step and undo; there are few, and each is told of again and again."""
    participant, _, rest = source.partition("/")
    step, _, undo = rest.partition("/")
    return participant, step, undo


def _timed_out(data: bytes) -> str:
    try:
        return describe(_decode_timed_out(data))
    except msgspec.MsgspecError:  # any program can write into any stream
        return ""


def time_of(entry_id: str) -> int:
    """When the server took an entry in: milliseconds since the epoch. For a producer that gave no time, it is
    the best that is known."""
    return int(entry_id.partition("-")[0] or 0)


def of_journal(
    topology: Topology, partition: int, entry: Mapping[bytes, bytes], entry_id: str = ""
) -> tuple[str, Fact]:
    """The saga id and the fact of an entry of a partition's journal.

    Raises:
        Malformed: if it is none; somebody else has written into the journal.
    """
    try:
        text = {name: _words(entry, name) for name in _JOURNAL}
        subject = check_saga_id(text["subject"])
        if topology.keys.partition(subject) != partition:
            raise ValueError(f"saga {subject!r} belongs elsewhere")
        if text["state"] not in _STATES or not text["id"]:
            raise ValueError(f"id {text['id']!r}, state {text['state']!r}")
        fact = Fact(
            id=text["id"], kind=Kind(text["kind"]), type=text["type"],
            time=number(entry, b"time") or time_of(entry_id),
            cause=text["cause"], participant=text["participant"], step=text["step"], undo=text["undo"],
            began=number(entry, b"began"), state=text["state"], seq=number(entry, b"seq"),
            saga_type=text["sagatype"] if text["sagatype"] in topology.sagas else "",
            note=text["note"], detail=text["detail"], asks=tuple(text["asks"].split()),
            attempt=number(entry, b"attempt"), due=number(entry, b"due"), entry=entry_id,
            order=text["order"], settles=tuple(text["settles"].split()),
        )  # fmt: skip
    except (ValueError, UnicodeDecodeError, InvalidSagaId) as error:
        raise Malformed(Reason.NOT_AN_EVENT, f"no journal entry: {error}") from None
    return subject, fact


_JOURNAL = (
    "id", "kind", "subject", "type", "cause", "participant", "step", "undo", "state", "sagatype", "note",
    "detail", "asks", "order", "settles",
)  # fmt: skip


def _words(entry: Mapping[bytes, bytes], name: str) -> str:
    value = entry.get(name.encode(), b"")
    if len(value) > MAX_JOURNAL_BYTES:
        raise ValueError(f"{name} has {len(value)} bytes")
    return value.decode()


def of_malformed(stream: str, entry_id: str, malformed: Malformed) -> Fact:
    """The fact that an entry naming a saga was refused; ``stream`` is the key where it stands."""
    return Fact(
        id=f"refused:{stream}:{entry_id}", kind=Kind.REFUSED, time=time_of(entry_id), entry=entry_id,
        note=f"{malformed.reason.value}: {malformed.detail}", detail=malformed.reason.value,
    )  # fmt: skip
