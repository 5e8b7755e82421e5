"""Malformed entries: each becomes one dead letter with its reason code, and nothing else is held up by it."""

from __future__ import annotations

from collections import Counter

import fakeredis
import pytest
from tracker_kit import (
    Fields,
    Hand,
    OpenBroker,
    Placed,
    add_entry,
    catch_up,
    letters,
    look,
    participants,
    running,
    topology_of,
    until,
    work_out,
    workers,
)

from choreo import Event, Participant
from choreo.broker.broker import Broker
from choreo.broker.connection import Connection
from choreo.choreography import Choreography
from choreo.model.facts import Kind
from choreo.model.saga import State
from choreo.runtime.worker import Worker
from choreo.tracker.follower import Tracker
from choreo.tracker.queries import Queries
from choreo.wire.envelope import Reason
from choreo.wire.topology import Topology

pytestmark = pytest.mark.anyio


def event(**fields: str | bytes | None) -> Fields:
    """A good event of `orders`, with some fields changed, or left out where ``None``."""
    whole: dict[str, str | bytes | None] = {
        "id": "e1", "type": "Placed", "subject": "bad", "data": b'{"amount":1}', **fields,
    }  # fmt: skip
    return {
        name.encode(): value if isinstance(value, bytes) else value.encode()
        for name, value in whole.items()
        if value is not None
    }


BAD = b"\xff\xfe"
HUGE = b'{"amount":1,"note":"' + b"x" * 5_000_000 + b'"}'
DEEP = b'{"amount":1,"note":' + b"[" * 60_000 + b"]" * 60_000 + b"}"

MALFORMED: list[tuple[str, Fields, Reason]] = [
    ("not ours", {b"hello": b"world"}, Reason.NOT_AN_EVENT),
    ("not ours, no text", {BAD: BAD}, Reason.NOT_AN_EVENT),
    ("not ours, many fields", {str(n).encode(): b"x" for n in range(500)}, Reason.NOT_AN_EVENT),
    ("not ours, large", {b"blob": b"x" * 5_000_000}, Reason.NOT_AN_EVENT),
    ("not ours, long name", {b"x" * 5_000_000: b"y"}, Reason.NOT_AN_EVENT),
    ("no id", event(id=None), Reason.FIELDS_MISSING),
    ("no type", event(type=None), Reason.FIELDS_MISSING),
    ("no saga", event(subject=None), Reason.FIELDS_MISSING),
    ("no data", event(data=None), Reason.FIELDS_MISSING),
    ("only data", {b"data": b"{}"}, Reason.FIELDS_MISSING),
    *((f"no text in {name}", event(**{name: BAD}), Reason.FIELDS_INVALID) for name in (
        "id", "type", "subject", "source", "time", "sagatype", "cause", "ledger", "phase", "began", "state",
        "seq", "asks", "traceparent", "specversion")),
    ("no text in data", event(data=BAD), Reason.DATA_NOT_JSON),
    ("no text within data", event(data=b'{"amount":1,"note":"\xff\xfe"}'), Reason.DATA_NOT_JSON),
    ("empty id", event(id=""), Reason.FIELDS_INVALID),
    ("spaces in id", event(id="a b"), Reason.FIELDS_INVALID),
    ("control in id", event(id="a\x1b[31m"), Reason.FIELDS_INVALID),
    ("long id", event(id="x" * 129), Reason.FIELDS_INVALID),
    ("empty type", event(type=""), Reason.FIELDS_INVALID),
    ("empty saga id", event(subject=""), Reason.FIELDS_INVALID),
    ("saga id with braces", event(subject="{other:1}"), Reason.FIELDS_INVALID),
    ("saga id with newline", event(subject="a\nb"), Reason.FIELDS_INVALID),
    ("long saga id", event(subject="x" * 129), Reason.FIELDS_INVALID),
    ("negative time", event(time="-1"), Reason.FIELDS_INVALID),
    ("huge time", event(time="9" * 40), Reason.FIELDS_INVALID),
    ("time in words", event(time="now"), Reason.FIELDS_INVALID),
    ("negative seq", event(seq="-1"), Reason.FIELDS_INVALID),
    ("huge seq", event(seq="9" * 5_000), Reason.FIELDS_INVALID),
    ("bad state", event(state="half-done"), Reason.FIELDS_INVALID),
    ("version 2", event(specversion="2"), Reason.VERSION_UNKNOWN),
    ("type of another stream", event(type="Paid"), Reason.TYPE_UNKNOWN),
    ("type of nobody", event(type="Unheard"), Reason.TYPE_UNKNOWN),
    ("reserved type", event(type="choreo.undo", data=b"payments/charge:e1"), Reason.TYPE_UNKNOWN),
    ("empty data", event(data=b""), Reason.DATA_NOT_JSON),
    ("broken data", event(data=b'{"amount":'), Reason.DATA_NOT_JSON),
    ("NaN", event(data=b'{"amount":1,"note":NaN}'), Reason.DATA_NOT_JSON),
    ("Infinity", event(data=b'{"amount":1,"note":-Infinity}'), Reason.DATA_NOT_JSON),
    ("no JSON at all", event(data=b"\x81\xa6amount\x01"), Reason.DATA_NOT_JSON),
    ("large data", event(data=HUGE), Reason.DATA_TOO_LARGE),
    ("deep data", event(data=b"[" * 100_000), Reason.DATA_TOO_DEEP),
    ("deep data within good data", event(data=DEEP), Reason.DATA_TOO_DEEP),
]  # fmt: skip


async def test_malformed_entries_become_letters_and_hold_nobody_up(
    open_broker: OpenBroker, namespace: str
) -> None:
    """Among every kind of malformed entry good sagas complete, and each bad one becomes one dead letter."""
    topology = topology_of(namespace, 1)
    broker = open_broker(topology)
    choreo = Choreography(topology, broker)
    stream = topology.keys.stream(0, "orders")
    async with running(*workers(topology, broker), Tracker(topology, broker)):
        for number, (_, fields, _) in enumerate(MALFORMED):
            await add_entry(broker, stream, fields)
            if number % 10 == 0:
                await choreo.start(Placed(), saga_id=f"good-{number}")
        for number in range(0, len(MALFORMED), 10):
            view = await choreo.wait(f"good-{number}", timeout=20)
            assert view.status is State.COMPLETED
            assert view.dead_letters == 0
    await catch_up(topology, broker)
    found = await letters(topology, broker)
    assert [each[b"reason"].decode() for each in found] == [reason.value for _, _, reason in MALFORMED]
    assert await look(topology, broker) == await work_out(topology, broker)
    await Tracker(topology, broker).rebuild()
    assert await letters(topology, broker) == found, "a rebuild writes no letter again"


@pytest.mark.parametrize(
    ("fields", "reason"), [pytest.param(fields, reason, id=name) for name, fields, reason in MALFORMED]
)
async def test_no_participant_handles_what_became_a_dead_letter(
    anyio_backend: str, fields: Fields, reason: Reason
) -> None:
    """An entry is either handled or a dead letter, never both."""
    topology = topology_of("t", 1)
    broker = Broker(Connection(fakeredis.FakeAsyncRedis(protocol=2)), topology.keys)
    handled: list[Event] = []
    audit = Participant("audit")

    @audit.on(Placed)
    async def note(placed: Placed) -> None:
        handled.append(placed)

    async with running(Worker(audit, topology, broker), Tracker(topology, broker)):
        await add_entry(broker, topology.keys.stream(0, "orders"), fields)
        await Choreography(topology, broker).start(Placed(7), saga_id="good")
        await until(lambda: one_more(handled, Placed(7)), "the good event to be handled")
        await until(lambda: letters(topology, broker), "the dead letter")
    assert handled == [Placed(7)]
    assert [each[b"reason"].decode() for each in await letters(topology, broker)] == [reason.value]
    await broker.connection.close()


async def one_more(handled: list[Event], event: Event) -> bool:
    return event in handled


async def test_a_letter_says_where_the_entry_stood_and_what_it_held(
    broker: Broker, topology: Topology
) -> None:
    """A dead letter keeps stream, entry, reason, saga and, within bounds, the fields."""
    stream = topology.keys.stream(0, "orders")
    entry = await add_entry(broker, stream, event(type="Unheard", subject="s1", data=HUGE))
    await catch_up(topology, broker)
    (letter,) = await letters(topology, broker)
    assert letter[b"stream"].decode() == stream
    assert letter[b"entry"].decode() == entry
    assert letter[b"time"].decode() == entry.partition("-")[0]
    assert letter[b"reason"] == b"type-unknown"
    assert letter[b"error"] == b"orders does not carry Unheard"
    assert letter[b"subject"] == b"s1"
    assert letter[b"field:type"] == b"Unheard"
    assert HUGE.startswith(letter[b"field:data"])
    assert len(b"".join(letter.values())) < 20_000


async def test_letters_are_bounded_however_large_the_entry(broker: Broker, topology: Topology) -> None:
    """Entries of megabytes, in a value, in a name or in many fields, leave letters of kilobytes."""
    for _, fields, _ in MALFORMED:
        await add_entry(broker, topology.keys.stream(0, "orders"), fields)
    await catch_up(topology, broker)
    found = await letters(topology, broker)
    assert len(found) == len(MALFORMED)
    for letter in found:
        assert sum(len(name) + len(value) for name, value in letter.items()) < 150_000


async def test_a_saga_hears_of_what_was_refused(broker: Broker, topology: Topology) -> None:
    """A malformed entry that names a saga is counted in its view and stands in its timeline."""
    choreo = Choreography(topology, broker)
    await choreo.start(Placed(), saga_id="s1")
    stream = topology.keys.stream(topology.keys.partition("s1"), "orders")
    await add_entry(broker, stream, event(subject="s1", data=b"NaN"))
    await catch_up(topology, broker)
    view = await choreo.view("s1")
    assert view.dead_letters == 1
    assert view.status is State.RUNNING
    assert view.last_error is not None
    assert view.last_error.message.startswith("data-not-json: ")
    kinds = [fact.kind for fact in await Queries(topology, broker).facts("s1")]
    # The event has its time from a client's idea of the server's clock, the refused entry from the clock itself.
    assert sorted(kinds) == [Kind.EVENT, Kind.REFUSED]


async def test_malformed_entries_of_the_journal_become_letters(
    open_broker: OpenBroker, namespace: str
) -> None:
    """Whatever somebody writes into the journal: the tracker puts it aside and goes on."""
    topology = topology_of(namespace, 1)
    broker = open_broker(topology)
    journal = topology.keys.journal(0)
    odd: list[Fields] = [
        {b"hello": b"world"},
        {BAD: BAD},
        {b"id": b"x", b"kind": b"nonsense", b"subject": b"s1", b"time": b"1"},
        {b"id": b"x", b"kind": b"done", b"subject": b"{}", b"time": b"1"},
        {b"id": b"x", b"kind": b"done", b"subject": b"s1", b"time": b"9" * 30},
        {b"id": b"x", b"kind": b"done", b"subject": b"s1", b"time": b"-9"},
        {b"id": b"x", b"kind": b"done", b"subject": b"s1", b"time": b"1", b"seq": b"9" * 5_000},
        {b"id": b"x", b"kind": b"done", b"subject": b"s1", b"time": b"1", b"state": b"odd"},
        {b"id": b"x", b"kind": b"done", b"subject": b"s1", b"time": b"1", b"note": BAD},
        {b"id": b"x", b"kind": b"done", b"subject": b"s1", b"time": b"1", b"detail": b"x" * 5_000_000},
    ]
    for fields in odd:
        await add_entry(broker, journal, fields)
    await add_entry(broker, topology.keys.stream(0, "orders"), event(subject="order-2"))
    found = await catch_up(topology, broker)
    assert Counter(each[b"reason"] for each in await letters(topology, broker)) == {b"not-an-event": len(odd)}
    assert found == await work_out(topology, broker)


async def test_an_entry_in_another_partition_than_its_sagas_is_malformed(
    broker: Broker, topology: Topology
) -> None:
    """An event that a program put into the wrong partition would tear its saga in two: it is refused."""
    right = topology.keys.partition("s1")
    wrong = 1 - right
    await add_entry(broker, topology.keys.stream(wrong, "orders"), event(subject="s1"))
    await add_entry(broker, topology.keys.stream(wrong, "orders"), event(subject="s1", data=None))
    await add_entry(broker, topology.keys.stream(wrong, "orders"), event(subject="s1", specversion="9"))
    await add_entry(broker, topology.keys.stream(right, "orders"), event(subject="s1", id="e2"))
    async with running(*workers(topology, broker), Tracker(topology, broker)):
        await Choreography(topology, broker).wait("s1", timeout=20)
        await until(lambda: letters(topology, broker), "the dead letters", seconds=5)
    found = await catch_up(topology, broker)
    reasons = [each[b"reason"] for each in await letters(topology, broker)]
    assert reasons == [b"fields-invalid", b"fields-missing", b"version-unknown"]
    listed = [saga_id for rows in found.listings.values() for saga_id, _ in rows]
    assert listed == ["s1"], "the saga is listed once"


async def test_a_flood_of_malformed_entries_is_worked_off(broker: Broker, topology: Topology) -> None:
    """Thousands of bad entries in front of a good event are put aside within one catching up."""
    stream = topology.keys.stream(topology.keys.partition("s1"), "orders")
    await broker.connection.call_many(
        [("XADD", stream, "*", "hello", str(number)) for number in range(3_000)]
    )
    await add_entry(broker, stream, event(subject="s1"))
    hand = Hand(topology, broker, topology.keys.partition("s1"))
    while await hand.step(500):
        pass
    assert len(await letters(topology, broker)) == 3_000
    assert (await Choreography(topology, broker).view("s1")).events == 1


async def test_a_letter_of_a_participant_and_one_of_the_tracker_stand_side_by_side(
    broker: Broker, topology: Topology
) -> None:
    """Data that is JSON but not of the type is a participant's letter; the tracker writes none of its own."""
    partition = topology.keys.partition("s1")
    await add_entry(
        broker, topology.keys.stream(partition, "orders"), event(subject="s1", data=b'{"amount":"x"}')
    )
    async with running(*workers(topology, broker), Tracker(topology, broker)):
        await Choreography(topology, broker).wait("s1", timeout=20)
    await catch_up(topology, broker)
    found = Counter((each[b"reason"], each.get(b"participant")) for each in await letters(topology, broker))
    hearing = [each.name.encode() for each in participants() if "Placed" in each.reactions]
    assert set(found) == {(b"data-misfit", name) for name in hearing}
    view = await Choreography(topology, broker).view("s1")
    assert view.dead_letters == len(hearing)
