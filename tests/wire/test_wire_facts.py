"""Facts on the wire: what topics and journal tell, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stories import Story, entry_of, stories

from choreo.model.facts import Fact, Kind, encode_fact, encode_view, project
from choreo.wire.envelope import Malformed, Reason
from choreo.wire.facts import Place, of_event, of_journal, of_malformed
from choreo.wire.limits import MAX_JOURNAL_BYTES
from choreo.wire.topology import SagaType, Topology

ORDER = SagaType("order", frozenset({"Placed"}), frozenset({"Shipped"}), False, frozenset({"Declined"}))
TOPOLOGY = Topology(
    "shop", 1,
    {"orders": ("Placed", "Shipped"), "money": ("Paid", "Declined", "Refunded", "Reserved")}, {},
    {"order": ORDER},
)  # fmt: skip
ORDERS, MONEY = Place("orders", 0), Place("money", 0)


def told(fact: Fact) -> tuple[str, Fact]:
    """The fact that comes of the entry which tells ``fact``."""
    entry = entry_of(fact, "s1")
    if fact.kind is Kind.EVENT:
        return of_event(TOPOLOGY, Place(TOPOLOGY.routes[fact.type], 0), entry)
    return of_journal(TOPOLOGY, 0, entry)


def event(**fields: str | bytes) -> dict[bytes, bytes]:
    whole: dict[str, str | bytes] = {"id": "e1", "type": "Placed", "subject": "s1", "data": b"{}", **fields}
    return {
        name.encode(): value.encode() if isinstance(value, str) else value for name, value in whole.items()
    }


def journal(**fields: str | bytes) -> dict[bytes, bytes]:
    whole: dict[str, str | bytes] = {"id": "done:x", "kind": "done", "subject": "s1", "time": "5", **fields}
    return {
        name.encode(): value.encode() if isinstance(value, str) else value for name, value in whole.items()
    }


# -- what is told ------------------------------------------------------------------------------------


@given(stories())
def test_facts_survive_the_wire(story: Story) -> None:
    """What streams and journal tell is what happened, attribute by attribute."""
    for fact in story.facts:
        if fact.kind is not Kind.REFUSED:
            assert told(fact) == ("s1", fact)


def test_an_event_of_any_program_is_a_fact() -> None:
    """Four fields suffice: the saga's type follows from the event that starts it."""
    assert of_event(TOPOLOGY, ORDERS, event()) == (
        "s1",
        Fact("e1", Kind.EVENT, 0, "Placed", saga_type="order"),
    )
    assert of_event(TOPOLOGY, MONEY, event(type="Paid"))[1].saga_type == ""
    assert of_event(TOPOLOGY, MONEY, event(type="Paid", sagatype="order"))[1].saga_type == "order"
    assert of_event(TOPOLOGY, ORDERS, event(sagatype="nonsense"))[1].saga_type == "order"


def test_a_timeout_says_which_deadline_passed() -> None:
    """It stands in the fact's note; what another program calls by that name says nothing."""
    place = Place("choreo", 0)
    data = b'{"saga_type": "order", "deadline": "Paid after Placed", "due": 1800000000000}'
    _, fact = of_event(TOPOLOGY, place, event(type="SagaTimedOut", source="choreo", data=data))
    assert (fact.type, fact.note) == ("SagaTimedOut", "no Paid after Placed by 2027-01-15T08:00:00.000Z")
    assert of_event(TOPOLOGY, place, event(type="SagaTimedOut", data=b'{"due": []}'))[1].note == ""


def test_the_source_of_an_event_is_taken_apart() -> None:
    """A source is a producer's name, a step, or a step and its undo."""
    _, fact = of_event(TOPOLOGY, MONEY, event(type="Refunded", source="payments/charge/refund", phase="back"))
    assert (fact.participant, fact.step, fact.undo, fact.back) == ("payments", "charge", "refund", True)
    _, fact = of_event(TOPOLOGY, ORDERS, event(source="a script"))
    assert (fact.participant, fact.step, fact.undo, fact.back) == ("a script", "", "", False)


def test_a_refused_entry_is_a_fact_of_its_saga() -> None:
    """A saga that a malformed entry names hears of it: with the place, the code and the detail."""
    fact = of_malformed("orders", "7-1", Malformed(Reason.DATA_NOT_JSON, "trailing comma", "s1"))
    assert fact.kind is Kind.REFUSED
    assert fact.id == "refused:orders:7-1"
    assert fact.time == 7
    assert fact.detail == "data-not-json"
    assert fact.note == "data-not-json: trailing comma"


# -- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "fields", "reason"),
    [
        (ORDERS, event(type="Paid"), Reason.TYPE_UNKNOWN),
        (ORDERS, event(type="Unheard"), Reason.TYPE_UNKNOWN),
        (ORDERS, event(type="choreo.undo"), Reason.TYPE_UNKNOWN),
        (ORDERS, event(specversion="9"), Reason.VERSION_UNKNOWN),
        (ORDERS, event(state="half-done"), Reason.FIELDS_INVALID),
        (ORDERS, event(state="completed "), Reason.FIELDS_INVALID),
        (ORDERS, event(data=b"{"), Reason.DATA_NOT_JSON),
        (ORDERS, event(data=b"NaN"), Reason.DATA_NOT_JSON),
        (ORDERS, event(data=b"[" * 100_000), Reason.DATA_TOO_DEEP),
        (ORDERS, event(data=b" " * 5_000_000), Reason.DATA_TOO_LARGE),
    ],
)
def test_an_event_that_nobody_could_handle_is_refused(
    place: Place, fields: dict[bytes, bytes], reason: Reason
) -> None:
    """Each fault has its code, and the saga is named so that its view can tell."""
    with pytest.raises(Malformed) as caught:
        of_event(TOPOLOGY, place, fields)
    assert caught.value.reason is reason
    assert caught.value.subject == "s1"


@pytest.mark.parametrize(
    "fields",
    [
        {}, {b"hello": b"world"}, event(), journal(kind="nonsense"), journal(kind=""), journal(id=""),
        journal(subject="a{b}"), journal(subject=""), journal(state="half-done"), journal(time="now"),
        journal(time="-5"), journal(time="1_000"), journal(time="9" * 400), journal(time="9" * 5_000),
        journal(began="x"), journal(seq="1.5"), journal(note=b"\xff\xfe"), journal(id=b"\xff\xfe"),
        journal(detail="x" * (MAX_JOURNAL_BYTES + 1)),
    ],
    ids=lambda fields: repr(list(fields.values())[-1][:16]) if fields else "empty",
)  # fmt: skip
def test_what_is_no_fact_is_refused(fields: dict[bytes, bytes]) -> None:
    """Somebody else may have written into the journal: that is malformed, and nothing worse."""
    with pytest.raises(Malformed) as caught:
        of_journal(TOPOLOGY, 0, fields)
    assert caught.value.reason is Reason.NOT_AN_EVENT
    assert len(caught.value.detail) < 1_000


NAMES = [
    "id", "kind", "type", "subject", "data", "time", "began", "seq", "state", "source", "asks", "note",
    "step", "undo", "cause", "participant", "sagatype", "ledger", "phase", "specversion", "attempt",
    "due", "x",
]  # fmt: skip
VALUES = st.one_of(
    st.binary(max_size=12),
    st.sampled_from([b"e1", b"Placed", b"Paid", b"s1", b"{}", b"done", b"event", b"1", b"-1", b"9" * 15,
                     b"9" * 30, b"completed", b"failed", b"order", b"a/b/c", b"back", b"a/b:e1 a/b:e2",
                     b"\xff\xfe", b""]),
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(NAMES).map(str.encode), VALUES), st.booleans())
def test_whatever_is_not_refused_makes_a_view(fields: dict[bytes, bytes], well_formed: bool) -> None:
    """Any entry at all is refused as malformed, or is a fact that can be kept and makes a view."""
    for base, read in ((event(), lambda entry: of_event(TOPOLOGY, ORDERS, entry)),
                       (journal(), lambda entry: of_journal(TOPOLOGY, 0, entry))):  # fmt: skip
        try:
            saga_id, fact = read(base | fields if well_formed else fields)
        except Malformed:
            continue
        encode_fact(fact)
        encode_view(project(saga_id, {fact.id: fact}))
