"""How streams and journal tell facts: from entries to :class:`~choreo.model.facts.Fact`."""

from __future__ import annotations

from collections.abc import Mapping

from choreo.errors import InvalidSagaId
from choreo.model.facts import Fact, Kind
from choreo.model.saga import State
from choreo.wire.envelope import BACK, Envelope, Malformed, Reason, check_data, parse
from choreo.wire.keys import check_saga_id
from choreo.wire.topology import Topology

_STATES = frozenset(State) | {""}


def of_event(topology: Topology, stream: str, entry: Mapping[bytes, bytes]) -> tuple[str, Fact]:
    """The saga id and the fact of an entry of the topic ``stream``.

    Raises:
        Malformed: if no participant could make sense of the entry, whatever its contract.
    """
    envelope = parse(entry)
    if topology.routes.get(envelope.type) != stream:
        raise Malformed(Reason.TYPE_UNKNOWN, f"{stream} does not carry {envelope.type}", envelope.subject)
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
        text = {name.decode(): value.decode() for name, value in entry.items()}
        subject = check_saga_id(text.get("subject", ""))
        if text.get("state", "") not in _STATES:
            raise ValueError(f"state {text['state']!r} is none")
        saga_type = text.get("sagatype", "")
        fact = Fact(
            id=text["id"],
            kind=Kind(text["kind"]),
            time=int(text["time"]),
            type=text.get("type", ""),
            cause=text.get("cause", ""),
            participant=text.get("participant", ""),
            step=text.get("step", ""),
            undo=text.get("undo", ""),
            began=int(text.get("began", "0")),
            state=text.get("state", ""),
            seq=int(text.get("seq", "0")),
            saga_type=saga_type if saga_type in topology.sagas else "",
            note=text.get("note", ""),
            detail=text.get("detail", ""),
            asks=tuple(text.get("asks", "").split()),
        )
    except (KeyError, ValueError, UnicodeDecodeError, InvalidSagaId) as error:
        raise Malformed(Reason.NOT_AN_EVENT, f"no journal entry: {error}") from None
    return subject, fact


def of_malformed(place: str, time: int, malformed: Malformed) -> Fact:
    """The fact that an entry naming a saga was refused. ``place`` is its stream and id, ``time`` is in ms."""
    return Fact(
        id=f"refused:{place}", kind=Kind.REFUSED, time=time,
        note=f"{malformed.reason.value}: {malformed.detail}", detail=malformed.reason.value,
    )  # fmt: skip
