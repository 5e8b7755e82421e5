"""The checks of a namespace, each on one that is spoilt in its way."""

from __future__ import annotations

import dataclasses

import pytest
from doctor_kit import LONG, add, found, move_in, read, verdict

from choreo.broker.broker import Broker
from choreo.broker.gate import Identity
from choreo.doctor.namespace import NAMESPACE_CHECKS
from choreo.doctor.verdict import Verdict
from choreo.model.pause import Pause
from choreo.tracker.follower import Tracker
from choreo.wire.topology import Topology

pytestmark = pytest.mark.anyio


async def test_a_namespace_as_it_should_be(broker: Broker, topology: Topology) -> None:
    """Nothing is said against a namespace in which a worker and a tracker have done their work."""
    await move_in(broker, topology)
    await Tracker(topology, broker).catch_up()
    said = await found(broker, topology)
    assert list(said)[-len(NAMESPACE_CHECKS) - 1 :] == ["layout", *NAMESPACE_CHECKS]
    for name in ("layout", *NAMESPACE_CHECKS):
        assert [each.verdict for each in said[name]] == [Verdict.OK], name


async def test_another_layout(broker: Broker, topology: Topology) -> None:
    """Another number of partitions is named; nothing else is looked at then."""
    await move_in(broker, topology)
    other = dataclasses.replace(topology, partitions=4)
    said = await found(broker, other)
    assert list(said)[-1] == "layout"
    assert "has partitions 2, this streams.yaml says 4" in said["layout"][0].what
    assert said["layout"][0].verdict is Verdict.PROBLEM


async def test_a_key_in_the_way(broker: Broker, topology: Topology) -> None:
    """A key of the wrong type is named with both types; the command given moves it away."""
    await move_in(broker, topology)
    for key in (topology.keys.timers(1), topology.keys.contracts, topology.keys.stream(0, "money")):
        await broker.connection.call("DEL", key)
        await broker.connection.call("SET", key, "in the way")
    said = (await found(broker, topology))["keys"]
    assert {each.verdict for each in said} == {Verdict.PROBLEM}
    whats = " ".join(each.what for each in said)
    assert f"{topology.keys.timers(1)} is a string and should be a zset" in whats
    assert f"{topology.keys.contracts} is a string and should be a hash" in whats
    assert f"{topology.keys.stream(0, 'money')} is a string and should be a stream" in whats


async def test_ids_of_the_future(broker: Broker, topology: Topology) -> None:
    """Ids ahead of the server's clock are worth a warning; a stream that can take no more is a problem."""
    await move_in(broker, topology)
    await add(broker, topology.keys.stream(0, "orders"), ago=-LONG)
    greatest = f"{2**64 - 1}-{2**64 - 1}"
    await broker.connection.call("XADD", topology.keys.stream(1, "money"), greatest, "a", "b")
    ahead, full = (await found(broker, topology))["ids"]
    assert (ahead.verdict, full.verdict) == (Verdict.WARNING, Verdict.PROBLEM)
    assert "59 min ahead" in ahead.what or "60 min ahead" in ahead.what
    assert full.what.startswith(topology.keys.stream(1, "money"))


async def test_a_participant_that_never_ran(broker: Broker, topology: Topology) -> None:
    """A participant of streams.yaml of which nothing was ever seen is named, and how to start it."""
    await broker.meta.join()
    said = await verdict(broker, topology, "participants")
    assert said.verdict is Verdict.WARNING
    assert said.remedy == ("choreo run participant payments",)


async def test_nobody_reads(broker: Broker, topology: Topology) -> None:
    """Entries that wait for long, and no worker: that is a problem, and says how many and since when."""
    await move_in(broker, topology)
    for partition in range(2):
        await add(broker, topology.keys.stream(partition, "orders"))
    said = await verdict(broker, topology, "readers")
    assert said.verdict is Verdict.PROBLEM
    assert "payments: 2 entries wait, for up to 60 min, and it has no worker" in said.what


async def test_what_just_came_is_no_problem(broker: Broker, topology: Topology) -> None:
    """An entry that came a moment ago waits for nobody yet."""
    await move_in(broker, topology)
    await add(broker, topology.keys.stream(0, "orders"), ago=1000)
    assert (await verdict(broker, topology, "readers")).verdict is Verdict.OK


async def test_a_reader_that_is_behind(broker: Broker, topology: Topology) -> None:
    """With a worker that was seen just now, old entries mean a backlog: worth a warning."""
    await move_in(broker, topology)
    await add(broker, topology.keys.stream(0, "orders"))
    await add(broker, topology.keys.stream(1, "orders"))
    await read(broker, topology.keys.stream(0, "orders"))
    said = await verdict(broker, topology, "readers")
    assert said.verdict is Verdict.WARNING
    assert "payments is behind: 1 entry waits," in said.what


async def test_a_paused_reader(broker: Broker, topology: Topology) -> None:
    """What waits for a participant that was paused is told with who paused it, and how to go on."""
    await move_in(broker, topology)
    await add(broker, topology.keys.stream(0, "orders"))
    await broker.meta.pause("payments", Pause("ann", 1))
    said = await verdict(broker, topology, "readers")
    assert said.verdict is Verdict.WARNING
    assert "payments was paused by ann" in said.what
    assert said.remedy == ("choreo resume payments",)


async def test_a_group_that_was_destroyed(broker: Broker, topology: Topology) -> None:
    """A stream on which a participant has lost its group is named."""
    await move_in(broker, topology)
    stream = topology.keys.stream(1, "orders")
    await broker.connection.call("XGROUP", "DESTROY", stream, "payments")
    said = await verdict(broker, topology, "readers")
    assert said.verdict is Verdict.PROBLEM
    assert f"payments has no consumer group on {stream}:" in said.what


async def test_a_dead_group(broker: Broker, topology: Topology) -> None:
    """A group of nobody is named with what it pins; the command given removes it everywhere."""
    await move_in(broker, topology)
    for partition in range(2):
        stream = topology.keys.stream(partition, "orders")
        await add(broker, stream)
        await broker.connection.call("XGROUP", "CREATE", stream, "ghost", "0")
    said = await verdict(broker, topology, "groups")
    assert said.verdict is Verdict.PROBLEM
    assert "group ghost on" in said.what
    assert "pins 2 unread and 0 pending entries" in said.what
    wanted = f'redis-cli XGROUP DESTROY "{{{topology.namespace}:$p}}:stream:orders" ghost'
    assert said.remedy == (f"for p in 0 1; do {wanted}; done",)


async def test_a_foreign_group_in_use(broker: Broker, topology: Topology) -> None:
    """A group that is no participant's, but whose consumers were seen lately, is left alone."""
    await move_in(broker, topology)
    stream = topology.keys.stream(0, "orders")
    await broker.connection.call("XGROUP", "CREATE", stream, "audit", "0")
    await add(broker, stream)
    await read(broker, stream, group="audit")
    assert (await verdict(broker, topology, "groups")).verdict is Verdict.OK


async def test_deliveries_of_a_worker_that_is_gone(broker: Broker, topology: Topology) -> None:
    """Deliveries that nobody renews or takes over are told with how many they are, and since when."""
    await move_in(broker, topology)
    stream = topology.keys.stream(0, "orders")
    entry = await add(broker, stream)
    await read(broker, stream)
    assert (await verdict(broker, topology, "pending")).verdict is Verdict.OK
    await broker.connection.call("XCLAIM", stream, "payments", "w1", 0, entry, "IDLE", LONG, "JUSTID")
    said = await verdict(broker, topology, "pending")
    assert said.verdict is Verdict.PROBLEM
    assert "payments: 1 delivery in the hands of workers that have not renewed them for up to 60 min" in said.what


async def test_a_tracker_that_never_ran(broker: Broker, topology: Topology) -> None:
    """Old entries and no tracker at all: that is told, and how to start one."""
    await move_in(broker, topology)
    await add(broker, topology.keys.stream(0, "orders"))
    said = await verdict(broker, topology, "tracker")
    assert said.verdict is Verdict.PROBLEM
    assert "no tracker has ever run here" in said.what
    assert said.remedy == ("choreo run tracker",)


async def test_a_tracker_that_is_behind(broker: Broker, topology: Topology) -> None:
    """A tracker that has stopped is behind as soon as something has waited for long; it catches up."""
    await move_in(broker, topology)
    stream = topology.keys.stream(0, "orders")
    await add(broker, stream, ago=2 * LONG)
    await Tracker(topology, broker).catch_up()
    await add(broker, stream)
    said = await verdict(broker, topology, "tracker")
    assert said.verdict is Verdict.PROBLEM
    assert f"entries of {stream} wait for up to 60 min" in said.what
    await Tracker(topology, broker).catch_up()
    assert (await verdict(broker, topology, "tracker")).verdict is Verdict.OK


async def test_timers_that_nobody_moves(broker: Broker, topology: Topology) -> None:
    """Timers that were due long ago are told with their number."""
    await move_in(broker, topology)
    for partition in range(2):
        await broker.connection.call("ZADD", topology.keys.timers(partition), 1, "payments/charge:e1 s1")
    said = await verdict(broker, topology, "timers")
    assert said.verdict is Verdict.PROBLEM
    assert said.what.startswith("2 timers")


async def test_deadlines_that_nobody_watches(broker: Broker, topology: Topology) -> None:
    """Sagas whose deadline has passed long ago are told with their number."""
    await move_in(broker, topology)
    assert (await verdict(broker, topology, "deadlines")).verdict is Verdict.OK
    await broker.connection.call("ZADD", topology.keys.deadlines(1), 1, "s1")
    said = await verdict(broker, topology, "deadlines")
    assert said.verdict is Verdict.PROBLEM
    assert said.what.startswith("the deadlines of 1 sagas passed up to ")
    assert said.remedy == ("choreo run tracker",)


@pytest.mark.parametrize("handled", [True, False])
async def test_a_stream_beyond_its_retention(broker: Broker, topology: Topology, handled: bool) -> None:
    """It is told by how much, and whether a group pins it or nobody trims it."""
    await move_in(broker, topology)
    brief = dataclasses.replace(topology, stream_keeps={"orders": 60.0})
    stream = topology.keys.stream(0, "orders")
    entry = await add(broker, stream)
    assert (await verdict(broker, topology, "retention")).verdict is Verdict.OK
    if handled:
        await read(broker, stream)
        await broker.connection.call("XACK", stream, "payments", entry)
    said = await verdict(broker, brief, "retention")
    assert said.verdict is Verdict.WARNING
    assert said.what.startswith(f"{stream} holds entries of 60 min ago, and is to keep 60 s")
    why, remedy = ("no tracker trims it", "tracker") if handled else (
        "group payments has not handled them", "participant payments"
    )  # fmt: skip
    assert said.what.endswith(f": {why}")
    assert said.remedy == (f"choreo run {remedy}",)


async def test_letters_that_wait(broker: Broker, topology: Topology) -> None:
    """Open dead letters are counted by reason, each once; those that are settled are not."""
    await move_in(broker, topology)
    dead, states = topology.keys.dead(0), topology.keys.letters(0)
    for letter, reason, state in (
        ("a", "poison", "open"),
        ("b", "step-failed", "open"),
        ("b", "step-failed", "open"),
        ("c", "poison", "dropped 1 ann"),
    ):
        await broker.connection.call("XADD", dead, "*", "letter", letter, "reason", reason)
        await broker.connection.call("HSET", states, letter, state)
    said = await verdict(broker, topology, "letters")
    assert said.verdict is Verdict.PROBLEM
    assert said.what == "2 wait for an operator: 1 poison, 1 step-failed"


async def test_entries_deleted_by_hand(real_broker: Broker, topology: Topology) -> None:
    """An entry that somebody deleted is told; a saga may wait for it for ever. Servers before 7.0 forget."""
    await move_in(real_broker, topology)
    stream = topology.keys.stream(0, "orders")
    await real_broker.connection.call("XDEL", stream, await add(real_broker, stream))
    said = await verdict(real_broker, topology, "deleted")
    assert said.verdict is Verdict.WARNING
    assert said.what.startswith(f"an entry of {stream}, written 60 min ago, was deleted by hand")


async def test_nothing_is_changed(real_broker: Broker, topology: Topology) -> None:
    """An examination leaves every key as it was."""
    await move_in(real_broker, topology)
    stream = topology.keys.stream(0, "orders")
    await add(real_broker, stream)
    await real_broker.groups.read(Identity("payments", "w1"), [stream], 10, wait=False)

    async def dump() -> dict[bytes, bytes]:
        keys = [
            key
            for start in ("{", "")
            for key in await real_broker.connection.call("KEYS", f"{start}{topology.namespace}:*")
        ]
        return {key: await real_broker.connection.call("DUMP", key) for key in keys}

    before = await dump()
    await found(real_broker, topology)
    assert await dump() == before
