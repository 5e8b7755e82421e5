"""Listing dead letters: page by page, of all partitions in one order, and no further than asked for."""

from __future__ import annotations

import pytest
import redis.asyncio

from choreo import Choreography
from choreo.broker.broker import Broker
from choreo.broker.connection import Connection
from choreo.errors import ConfigurationError
from tests.operators.operator_kit import topology_of

pytestmark = pytest.mark.anyio

LETTERS = 450
PARTITIONS = 3


@pytest.fixture
async def choreo(anyio_backend: str, redis_client: redis.asyncio.Redis, namespace: str) -> Choreography:
    """A client of a namespace with more letters than one page holds, every fifth of them replayed."""
    topology = topology_of(namespace, PARTITIONS)
    broker = Broker(Connection(redis_client), topology.keys)
    commands: list[tuple[str, ...]] = []
    for number in range(LETTERS):
        partition, letter = number % PARTITIONS, f"L{number}"
        state = "open" if number % 5 else "replayed 1700000000000 token ann of accounts"
        reason, participant = ("poison", "payments") if number % 2 else ("step-failed", "shipping")
        commands.append(("HSET", topology.keys.letters(partition), letter, state))
        commands.append((
            "XADD", topology.keys.dead(partition), f"{1_700_000_000_000 + number}-0", "letter", letter,
            "reason", reason, "participant", participant, "subject", f"s{number % 10}",
        ))  # fmt: skip
    await broker.connection.call_many(commands)
    return Choreography(topology, broker)


async def test_the_newest_of_all_partitions(choreo: Choreography) -> None:
    """As many as asked for, in the order in which they were written, whichever partition they stand in."""
    everything = [f"L{number}" for number in reversed(range(LETTERS)) if number % 5]
    newest = await choreo.dead_letters(limit=100)
    assert [each.id for each in newest] == everything[:100]
    assert [each.id for each in await choreo.dead_letters(limit=10_000)] == everything
    oldest = await choreo.dead_letters(limit=100, oldest_first=True)
    assert [each.id for each in oldest] == everything[::-1][:100]


async def test_filters(choreo: Choreography) -> None:
    """Letters are found by participant, reason, state and saga, beyond the first page, too."""
    poison = await choreo.dead_letters(participant="payments", reason="poison", limit=LETTERS)
    assert {each.participant for each in poison} == {"payments"}
    assert len(poison) == sum(number % 2 == 1 and number % 5 > 0 for number in range(LETTERS))
    assert await choreo.dead_letters(participant="payments", reason="step-failed") == []
    replayed = await choreo.dead_letters(state="replayed", limit=LETTERS)
    assert len(replayed) == LETTERS / 5
    assert {(each.settled, each.settled_by) for each in replayed} == {(1_700_000_000_000, "ann of accounts")}
    with pytest.raises(ConfigurationError, match="reasons are not-an-event"):
        await choreo.dead_letters(reason="bad luck")


async def test_a_letter_far_down(choreo: Choreography) -> None:
    """A letter is found by its id wherever it stands."""
    letter = await choreo.dead_letter("L1")
    assert (letter.id, letter.place, letter.saga) == ("L1", "1:1700000000001-0", "s1")
