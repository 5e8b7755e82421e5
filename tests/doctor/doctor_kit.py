"""A namespace to be examined, and ways to spoil it."""

from __future__ import annotations

import time

from choreo import Event, Participant
from choreo.broker.broker import Broker
from choreo.broker.clock import wall_clock
from choreo.doctor.examine import examine
from choreo.doctor.verdict import Checked
from choreo.wire.cards import card_of, encode_card
from choreo.wire.topology import SagaType, Topology


class Placed(Event):
    amount: int = 1


class Paid(Event):
    pass


payments = Participant("payments")


@payments.on(Placed)
async def charge(placed: Placed) -> Paid:
    return Paid()


#: Longer ago than anything may wait (ms).
LONG = 3_600_000


def topology_of(namespace: str) -> Topology:
    saga = SagaType("order", frozenset({"Placed"}), frozenset({"Paid"}))
    streams = {"orders": ("Placed",), "money": ("Paid",)}
    return Topology(namespace, 2, streams, {"payments": "shop:payments"}, {"order": saga})


async def found(broker: Broker, topology: Topology) -> dict[str, list[Checked]]:
    """Everything that the doctor says, by check."""
    said: dict[str, list[Checked]] = {}
    for each in await examine(topology, broker, wall_clock):
        said.setdefault(each.check, []).append(each)
    return said


async def verdict(broker: Broker, topology: Topology, check: str) -> Checked:
    """The one thing that a check says."""
    (said,) = (await found(broker, topology))[check]
    return said


async def move_in(broker: Broker, topology: Topology) -> None:
    """Do what a worker does when it joins."""
    await broker.meta.join()
    await broker.meta.publish_contract("payments", encode_card(card_of(payments)))
    keys = topology.keys
    for partition in range(topology.partitions):
        heard = [keys.stream(partition, "orders"), keys.inbox(partition, "payments")]
        await broker.groups.ensure(heard, "payments")


async def add(broker: Broker, stream: str, *, ago: int = LONG) -> str:
    """An entry that was written ``ago`` milliseconds before now. Returns its id."""
    written = f"{time.time_ns() // 1_000_000 - ago}-0"
    await broker.connection.call("XADD", stream, written, "id", "e1", "type", "Placed")
    return written


async def read(broker: Broker, stream: str, *, group: str = "payments", consumer: str = "w1") -> None:
    """Let a worker read what is there."""
    await broker.connection.call("XREADGROUP", "GROUP", group, consumer, "STREAMS", stream, ">")
