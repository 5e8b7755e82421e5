"""Trimming: streams keep what `keep` says, and whatever a group has not read or not acknowledged."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tracker_kit import (
    Placed,
    add_entry,
    catch_up,
    keys_of,
    run_to_rest,
    running,
    until,
    workers,
)

from choreo.broker.broker import Broker
from choreo.broker.retention import END, Keeping, Trimmed
from choreo.choreography import Choreography
from choreo.tracker.follower import Tracker
from choreo.wire.topology import Topology

pytestmark = pytest.mark.anyio

GROUP = "slow"
#: Later than every entry of these tests.
EVER = 10**15


@pytest.fixture
def stream(topology: Topology) -> str:
    return topology.keys.stream(0, "orders")


async def trim(broker: Broker, stream: str, since: int = EVER, *, projected: bool = False) -> Trimmed:
    return await broker.retention.trim(0, [Keeping(stream, since, projected)])


async def fill(broker: Broker, stream: str, count: int, first: int = 1) -> list[str]:
    return [
        await add_entry(broker, stream, {b"n": b"%d" % number}, f"{1000 + number}-0")
        for number in range(first, first + count)
    ]


async def take(broker: Broker, stream: str, count: int = 1000, group: str = GROUP) -> list[str]:
    """Read as a worker of the group does; entries stay pending."""
    read = await broker.connection.call(
        "XREADGROUP", "GROUP", group, "worker", "COUNT", count, "STREAMS", stream, ">"
    )
    return [entry.decode() for _, entries in read or () for entry, _ in entries]


async def held(broker: Broker, stream: str) -> list[str]:
    return [entry.decode() for entry, _ in await broker.connection.call("XRANGE", stream, "-", "+")]


async def test_a_group_that_has_read_nothing_keeps_everything(broker: Broker, stream: str) -> None:
    """Nine entries, trimmed after each: the group that comes to them last still gets all nine."""
    await broker.groups.ensure([stream], GROUP)
    await broker.groups.ensure([stream], "quick")
    for number in range(9):
        await fill(broker, stream, 1, number)
        await broker.connection.call("XACK", stream, "quick", *await take(broker, stream, group="quick"))
        assert (await trim(broker, stream)).removed == 0
    assert len(await take(broker, stream)) == 9


async def test_an_old_pending_entry_keeps_itself_and_what_follows(broker: Broker, stream: str) -> None:
    """What was read but not acknowledged stays, however old; what was before it goes."""
    await broker.groups.ensure([stream], GROUP)
    entries = await fill(broker, stream, 9)
    await take(broker, stream)
    await broker.connection.call("XACK", stream, GROUP, *entries[:3], *entries[4:])
    trimmed = await trim(broker, stream)
    assert await held(broker, stream) == entries[3:]
    assert trimmed == Trimmed(3, False, (1004, 0))
    await broker.connection.call("XACK", stream, GROUP, entries[3])
    assert await trim(broker, stream) == Trimmed(6, False, END)
    assert await held(broker, stream) == []


async def test_an_inbox_whose_group_is_gone_keeps_everything(broker: Broker, topology: Topology) -> None:
    """Somebody deleted it; when workers make it anew they find every request that they have not handled."""
    inbox = topology.keys.inbox(0, "payments")
    await fill(broker, inbox, 3)
    assert (await trim(broker, inbox)).removed == 0
    await broker.groups.ensure([inbox], GROUP)
    assert len(await take(broker, inbox)) == 3


async def test_what_is_younger_than_its_keep_stays(broker: Broker, stream: str) -> None:
    """The limit of time is exact to the millisecond: what is exactly as old stays."""
    await broker.groups.ensure([stream], GROUP)
    entries = await fill(broker, stream, 9)
    await broker.connection.call("XACK", stream, GROUP, *await take(broker, stream))
    await trim(broker, stream, since=1005)
    assert await held(broker, stream) == entries[4:]


async def test_the_slowest_of_several_groups_decides(broker: Broker, stream: str) -> None:
    """Three groups at different places: nothing goes that one of them still needs."""
    entries = await fill(broker, stream, 9)
    for group, count in (("a", 9), ("b", 4), ("c", 6)):
        await broker.groups.ensure([stream], group)
        await broker.connection.call("XACK", stream, group, *await take(broker, stream, count, group))
    await trim(broker, stream)
    assert await held(broker, stream) == entries[4:]


async def test_ids_in_the_future_only_keep_more(broker: Broker, stream: str) -> None:
    """A server whose clock was wrong for a while has ids of the year 2286: they stay till then."""
    await broker.groups.ensure([stream], GROUP)
    await fill(broker, stream, 3)
    future = [await add_entry(broker, stream, {b"n": b"0"}, f"9999999999999-{number}") for number in range(3)]
    await broker.connection.call("XACK", stream, GROUP, *await take(broker, stream))
    assert (await trim(broker, stream, since=1_800_000_000_000)).removed == 3
    assert await held(broker, stream) == future


@pytest.mark.parametrize("sequence", ["999999999999999", "18446744073709551615"])
async def test_great_sequence_numbers(broker: Broker, stream: str, sequence: str) -> None:
    """Ids whose numbers Lua cannot count exactly: at worst one entry more is kept."""
    await broker.groups.ensure([stream], GROUP)
    entries = [await add_entry(broker, stream, {b"n": b"0"}, entry) for entry in ("5-1", f"5-{sequence}", "6-0")]
    await broker.connection.call("XACK", stream, GROUP, *await take(broker, stream, 2))
    await trim(broker, stream)
    assert entries[2] in await held(broker, stream)
    assert entries[0] not in await held(broker, stream)


async def test_what_is_not_projected_stays(broker: Broker, topology: Topology, stream: str) -> None:
    """The tracker's own progress counts, not only its group: during a rebuild the group is far ahead."""
    await fill(broker, stream, 3)
    assert (await trim(broker, stream, projected=True)).removed == 0
    await broker.connection.call("HSET", topology.keys.tracker(0), f"at:{stream}", "1002-0")
    assert (await trim(broker, stream, projected=True)).removed == 2
    await broker.connection.call("HSET", topology.keys.tracker(0), "wiping", "1")
    await broker.connection.call("HSET", topology.keys.tracker(0), f"at:{stream}", "1003-0")
    assert await trim(broker, stream, projected=True) == Trimmed(0, False, (0, 0))


async def test_a_long_stream_is_trimmed_in_bounded_pieces(
    broker: Broker, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One call removes a bounded number of entries and says that there is more."""
    monkeypatch.setattr("choreo.broker.retention.MAX_TRIMMED", 300)
    await broker.groups.ensure([stream], GROUP)
    await broker.connection.call_many(
        [("XADD", stream, f"{number + 1}-0", "n", number) for number in range(1050)]
    )
    await broker.connection.call("XACK", stream, GROUP, *await take(broker, stream, 2000))
    removed = []
    while True:
        trimmed = await trim(broker, stream)
        removed.append(trimmed.removed)
        if not trimmed.more:
            break
    assert sum(removed) == 1050
    assert len(removed) > 2 and max(removed) <= 600


async def test_other_keys_in_place_of_streams(broker: Broker, topology: Topology, stream: str) -> None:
    """A key of the wrong type or a stream that is not there stops nothing; the former lets nothing be forgotten."""
    entries, other = await fill(broker, stream, 2), topology.keys.stream(0, "money")
    await broker.groups.ensure([stream], GROUP)
    await broker.connection.call("XACK", stream, GROUP, *await take(broker, stream))
    assert await held(broker, stream) == entries
    both = [Keeping(other, EVER, False), Keeping(stream, EVER, False)]
    assert await broker.retention.trim(0, both) == Trimmed(2, False, END)
    await broker.connection.call("SET", other, "x")
    assert await broker.retention.trim(0, both) == Trimmed(0, False, (0, 0))


async def test_a_trimmed_stream_is_still_followed(broker: Broker, topology: Topology) -> None:
    """A tracker whose streams were trimmed to nothing does not take them for deleted."""
    keep = replace(topology, keep=0.001)
    await run_to_rest(topology, broker, [1, 1])
    seen = await catch_up(topology, broker)
    tracker = Tracker(keep, broker)
    async with running(tracker, *workers(keep, broker)):
        await until(lambda: is_empty(broker, topology), "every stream to be empty")
        choreo = Choreography(topology, broker)
        await choreo.start(Placed(), saga_id="later")
        await until(lambda: is_empty(broker, topology), "every stream to be empty")
    assert seen.views


async def is_empty(broker: Broker, topology: Topology) -> bool:
    streams = [key for kind in ("stream", "inbox") for key in await keys_of(broker, f"{{{topology.namespace}:*:{kind}:*")]
    streams += await keys_of(broker, f"{{{topology.namespace}:*:journal")
    assert streams
    return not any(await broker.connection.call_many([("XLEN", each) for each in streams]))
