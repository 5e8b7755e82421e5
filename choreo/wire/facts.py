"""How streams and journal tell facts: from entries to :class:`~choreo.model.facts.Fact`."""

from __future__ import annotations

from collections.abc import Mapping

from choreo.errors import InvalidSagaId
from choreo.model.facts import Fact, Kind
from choreo.model.saga import State
from choreo.wire.envelope import BACK, Envelope, Malformed, Reason, check_data, number, parse
from choreo.wire.keys import check_saga_id
from choreo.wire.limits import MAX_JOURNAL_BYTES
from choreo.wire.topology import Topology

_STATES = frozenset(State) | {""}


def of_event(topology: Topology, stream: str, entry: Mapping[bytes, bytes]) -> tuple[str, Fact]:
    """The saga id and the fact of an entry of the topic ``stream``.

    Raises:
        Malformed: if no participant could make sense of the entry, whatever its contract.
    """
    envelope = parse(entry)
    if topology.routes.get(envelope.type) != stream:
        detail = f"{stream} does not carry {envelope.type}"
        raise Malformed(Reason.TYPE_UNKNOWN, detail, envelope.subject)
    try:
        check_data(envelope.data)
        if envelope.state not in _STATES:
            raise Malformed(Reason.FIELDS_INVALID, f"state {envelope.state!r} is none")
    except Malformed as malformed:
        malformed.subject = envelope.subject
        raise
    return envelope.subject, _event_fact(topology, envelope)


def _event_fact(topology: Topology, envelope: Envelope) -> Fact:
    participant, _, rest = envelope.source.partition("/")
    step, _, undo = rest.partition("/")
    saga = topology.saga_type_of(envelope.type, envelope.sagatype)
    return Fact(
        id=envelope.id,
        kind=Kind.EVENT,
        time=envelope.time,
        type=envelope.type,
        cause=envelope.cause,
        participant=participant,
        step=step,
        undo=undo,
        began=envelope.began,
        state=envelope.state,
        seq=envelope.seq,
        saga_type=saga.name if saga else "",
        back=envelope.phase == BACK,
        asks=envelope.asks,
        ledger=tuple(envelope.ledger.split()),
    )


def of_journal(topology: Topology, entry: Mapping[bytes, bytes]) -> tuple[str, Fact]:
    """The saga id and the fact of a journal entry.

    Raises:
        Malformed: if it is none; somebody else has written into the journal.
    """
    try:
        text = {name: _words(entry, name) for name in _JOURNAL}
        subject = check_saga_id(text["subject"])
        if text["state"] not in _STATES or not text["id"]:
            raise ValueError(f"id {text['id']!r}, state {text['state']!r}")
        fact = Fact(
            id=text["id"], kind=Kind(text["kind"]), time=number(entry, "time"), type=text["type"],
            cause=text["cause"], participant=text["participant"], step=text["step"], undo=text["undo"],
            began=number(entry, "began"), state=text["state"], seq=number(entry, "seq"),
            saga_type=text["sagatype"] if text["sagatype"] in topology.sagas else "",
            note=text["note"], detail=text["detail"], asks=tuple(text["asks"].split()),
            attempt=number(entry, "attempt"), due=number(entry, "due"),
        )  # fmt: skip
    except (ValueError, UnicodeDecodeError, InvalidSagaId) as error:
        raise Malformed(Reason.NOT_AN_EVENT, f"no journal entry: {error}") from None
    return subject, fact


_JOURNAL = (
    "id", "kind", "subject", "type", "cause", "participant", "step", "undo", "state", "sagatype", "note",
    "detail", "asks",
)  # fmt: skip


def _words(entry: Mapping[bytes, bytes], name: str) -> str:
    value = entry.get(name.encode(), b"")
    if len(value) > MAX_JOURNAL_BYTES:
        raise ValueError(f"{name} has {len(value)} bytes")
    return value.decode()


def of_malformed(place: str, time: int, malformed: Malformed) -> Fact:
    """The fact that an entry naming a saga was refused. ``place`` is its stream and id, ``time`` is in ms."""
    return Fact(
        id=f"refused:{place}", kind=Kind.REFUSED, time=time,
        note=f"{malformed.reason.value}: {malformed.detail}", detail=malformed.reason.value,
    )  # fmt: skip
