"""Asking a server everything that the checks need, and letting them judge."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TypeVar

import msgspec

from choreo.broker import rights
from choreo.broker.broker import Broker
from choreo.broker.checkup import Checkup
from choreo.broker.clock import Clock
from choreo.broker.readers import NOTHING, Pending, StreamState, order
from choreo.doctor.namespace import NAMESPACE_CHECKS, OLD_LEASE, PATIENCE, Namespace, Unread, layout
from choreo.doctor.server import SERVER_CHECKS, SETTINGS, Server
from choreo.doctor.verdict import Checked, Said
from choreo.errors import BrokerRefused
from choreo.wire.cards import Card, decode_card
from choreo.wire.keys import TRACKER_GROUP
from choreo.wire.topology import Topology

T = TypeVar("T")

#: Deliveries of one group on one stream that are counted, if their leases have run out.
_HELD = 100
#: Milliseconds for which a timer may be due before it is late.
_LATE = 10_000


async def examine(topology: Topology, broker: Broker, clock: Clock) -> list[Checked]:
    """What every check finds. ``clock`` is this machine's own, to be compared with the server's.

    Reads only, but for what :mod:`choreo.broker.rights` tries. The namespace is looked at if it has the
    layout that ``topology`` wants, and the server has loaded its data.

    Raises:
        BrokerUnavailable: if the server cannot be reached.
    """
    checkup = Checkup(broker.connection, broker.keys)
    server = await _ask_server(checkup, clock)
    found = list(_judge(SERVER_CHECKS, server))
    if server.loading:
        return found
    now = server.skew.server if server.skew else clock()
    space = Namespace(topology, now, meta=await checkup.meta())
    found += _judge({"layout": layout}, space)
    if space.meta.get("partitions") == str(topology.partitions):
        found += _judge(NAMESPACE_CHECKS, await _ask_namespace(topology, broker, checkup, now))
    return found


def _judge(checks: Mapping[str, Callable[[T], Iterator[Said]]], evidence: T) -> Iterator[Checked]:
    for name, check in checks.items():
        for said in check(evidence):
            yield Checked(name, said.verdict, said.what, said.remedy)


async def _ask_server(checkup: Checkup, clock: Clock) -> Server:
    info = await checkup.info()
    if Server(info).loading:
        return Server(info)
    settings = {name: await checkup.setting(name) for name in SETTINGS}
    found = await rights.examine(checkup.connection, checkup.keys)
    return Server(info, settings, await checkup.skew(clock), found)


async def _ask_namespace(topology: Topology, broker: Broker, checkup: Checkup, now: int) -> Namespace:
    keys, cards = topology.keys, _cards(await _or_nothing(broker.meta.contracts))
    places = _places(topology, cards)
    wanted = _types(topology) | dict.fromkeys(places, "stream")
    types = await checkup.types(list(wanted))
    streams = await checkup.readers.streams([key for key in places if types.get(key) == "stream"])
    tracked = _tracked(topology)
    positions = await checkup.positions(tracked)
    return Namespace(
        topology, now, await checkup.meta(), wanted, types, places, streams, cards,
        await _unread(checkup, streams, [key for names in tracked.values() for key in names], positions, now),
        await _held(checkup, streams), positions, await checkup.overdue(keys.timers, now - _LATE),
        await checkup.overdue(keys.deadlines, now - _LATE), await checkup.letters(),
        await _or_nothing(broker.meta.paused),
    )  # fmt: skip


async def _or_nothing(ask: Callable[[], Awaitable[dict[str, T]]]) -> dict[str, T]:
    """What is asked for; nothing if the server refuses, because of rights or a key of the wrong type."""
    try:
        return await ask()
    except BrokerRefused:
        return {}


def _cards(packed: Mapping[str, bytes]) -> dict[str, Card]:
    """The contract cards that can be read; whoever wrote others is not choreo."""
    found = {}
    for name, card in packed.items():
        try:
            found[name] = decode_card(card)
        except msgspec.DecodeError:
            continue
    return found


def _places(topology: Topology, cards: Mapping[str, Card]) -> dict[str, int]:
    """Every stream that may be there -> its partition."""
    keys, partitions = topology.keys, range(topology.partitions)
    names = sorted({*topology.participants, *cards})
    return (
        {keys.stream(each, topic): each for topic in topology.streams for each in partitions}
        | {keys.journal(each): each for each in partitions}
        | {keys.inbox(each, name): each for name in names for each in partitions}
    )


def _types(topology: Topology) -> dict[str, str]:
    """Every other key that may be there -> the type that it must have."""
    keys = topology.keys
    found = {keys.meta: "hash", keys.contracts: "hash", keys.paused: "hash"}
    for partition in range(topology.partitions):
        found[keys.timers(partition)] = found[keys.deadlines(partition)] = "zset"
        found[keys.dead(partition)] = "stream"
        for hashed in (keys.parked, keys.letters, keys.tracker):
            found[hashed(partition)] = "hash"
    return found


def _tracked(topology: Topology) -> dict[int, list[str]]:
    """Partition -> the streams that a tracker projects."""
    keys = topology.keys
    return {
        each: [keys.journal(each), *(keys.stream(each, topic) for topic in topology.streams)]
        for each in range(topology.partitions)
    }


async def _unread(
    checkup: Checkup, streams: Mapping[str, StreamState], tracked: list[str], positions: Mapping[str, str],
    now: int,
) -> tuple[Unread, ...]:  # fmt: skip
    """Which groups have let entries wait for long; the tracker's true position is not that of its group."""
    asked = [
        (key, name, group.delivered)
        for key, stream in streams.items()
        for name, group in stream.groups.items()
        if name != TRACKER_GROUP and order(group.delivered) < order(stream.newest)
    ]
    asked += [(key, TRACKER_GROUP, positions.get(key, NOTHING)) for key in tracked if key in streams]
    first = await checkup.first_behind([(key, position) for key, _, position in asked])
    waiting = [
        Unread(key, name, order(entry)[0])
        for (key, name, _), entry in zip(asked, first, strict=True)
        if entry is not None
    ]
    return tuple(each for each in waiting if now - each.since > PATIENCE)


async def _held(
    checkup: Checkup, streams: Mapping[str, StreamState]
) -> dict[tuple[str, str], tuple[Pending, ...]]:
    asked = [
        (key, name)
        for key, stream in streams.items()
        for name, group in stream.groups.items()
        if group.pending
    ]
    everything = [(key, name, "-", "+") for key, name in asked]
    rows = await checkup.readers.pending(everything, idle=OLD_LEASE, count=_HELD)
    return {place: tuple(found) for place, found in zip(asked, rows, strict=True) if found}
