"""What the tracker keeps in memory: the sagas that it saw lately, and no more than fits."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from choreo.broker.projections import Entry
from choreo.tracker.projection import Projector
from choreo.wire.topology import SagaType, Topology

pytestmark = pytest.mark.anyio

#: So many that each one's cache is as small as it may be: 500 facts.
PARTITIONS = 1000


def topology() -> Topology:
    saga = SagaType("s", frozenset({"Begun"}), frozenset({"Ended"}))
    return Topology("shop", PARTITIONS, {"a": ("Begun", "Ended")}, {}, {"s": saga})


def ids_of_partition(projector: Projector, count: int) -> list[str]:
    keys, found, number = topology().keys, list[str](), 0
    while len(found) < count:
        number += 1
        if keys.partition(f"s{number}") == projector.partition:
            found.append(f"s{number}")
    return found


def event(saga_id: str) -> dict[bytes, bytes]:
    return {b"id": b"e-" + saga_id.encode(), b"type": b"Begun", b"subject": saga_id.encode(),
            b"time": b"1", b"data": b"{}"}  # fmt: skip


def failure(saga_id: str) -> dict[bytes, bytes]:
    return {b"id": b"f-" + saga_id.encode(), b"kind": b"retrying", b"subject": saga_id.encode(),
            b"time": b"1", b"type": b"Begun", b"cause": b"e-" + saga_id.encode(), b"participant": b"p",
            b"step": b"s", b"attempt": b"1", b"due": b"2", b"note": b"no", b"detail": b"x" * 4000}  # fmt: skip


async def kept(projector: Projector, stream: str, told: Sequence[dict[bytes, bytes]], ids: list[str]) -> int:
    """How many of the sagas are still in memory after each was told of once, in order; the last are."""
    entries: list[Entry] = [(f"{number + 1}-0", fields) for number, fields in enumerate(told)]
    asked: list[str] = []

    async def load(saga_ids: Sequence[str], new: Sequence[str]) -> list[list[bytes]]:
        asked.extend([*saga_ids, *new])
        return [[] for _ in (*saga_ids, *new)]

    batch = await projector.fold(0, {stream: entries}, load)
    assert not batch.letters
    assert len(batch.updates) == len(ids)
    asked.clear()
    await projector.pending(ids, load)
    assert asked == ids[: len(asked)]
    return len(ids) - len(asked)


async def test_sagas_not_seen_for_longest_are_let_go() -> None:
    """A cache's share of what all partitions may hold, however many sagas there are."""
    projector = Projector(topology(), 7)
    ids = ids_of_partition(projector, 600)
    stream = topology().keys.stream(7, "a")
    assert await kept(projector, stream, [event(each) for each in ids], ids) == 500


async def test_tracebacks_weigh() -> None:
    """A failure with a long traceback counts as several facts."""
    projector = Projector(topology(), 7)
    ids = ids_of_partition(projector, 600)
    assert 50 <= await kept(projector, projector.journal, [failure(each) for each in ids], ids) <= 70
