"""Orders that come twice, at once, or against each other: one outcome, told to everybody."""

from __future__ import annotations

from collections import Counter
from typing import Any

import anyio
import pytest

from choreo import Choreography
from choreo.broker.connection import Connection
from choreo.broker.letters import OrderSlip
from choreo.errors import BrokerUnavailable, SagaClosed
from choreo.model.letters import DeadLetter, Outcome, Settlement
from choreo.wire.letters import attempt_of
from tests.operators.operator_kit import Placed, Shop, Stage, open_letter, until, view_when

pytestmark = pytest.mark.anyio

CALLERS = 200
RACES = 20


async def failed_saga(stage: Stage, shop: Shop, *saga_ids: str) -> None:
    """Sagas that have failed, because an undo has; nobody works when this returns."""
    async with stage.playing(*shop.participants()) as choreo:
        for saga_id in saga_ids:
            await choreo.start(Placed(), saga_id=saga_id)
        for saga_id in saga_ids:
            await view_when(choreo, saga_id, "failed", open_letters=1)


async def test_two_hundred_at_once(stage: Stage) -> None:
    """One replays the letter; all others are told that it was replayed, and by whom."""
    shop = Shop({"refund"}, aborts=True)
    await failed_saga(stage, shop, "s1")
    choreo = Choreography(stage.topology, stage.broker)
    letter = await open_letter(choreo, "undo-failed")
    told: list[Settlement] = []

    seats = anyio.CapacityLimiter(50)  # clients of the fake store have no more connections

    async def order(number: int) -> None:
        async with seats:
            told.append(await choreo.replay(letter, who=f"ann {number}"))

    async with anyio.create_task_group() as callers:
        for number in range(CALLERS):
            callers.start_soon(order, number)
    assert Counter(each.outcome for each in told) == {Outcome.REPLAYED: 1, Outcome.CLOSED: CALLERS - 1}
    assert len({each.why for each in told}) == 2
    shop.broken.clear()
    async with stage.playing(*shop.participants()) as choreo:
        await view_when(choreo, "s1", "compensated")
    assert shop.runs["refund"] == 3


async def test_a_replay_against_a_resolution(stage: Stage) -> None:
    """Whichever comes first: a saga that was resolved stays so, and no undo runs in it any more."""
    shop = Shop({"refund"}, aborts=True)
    sagas = [f"s{number}" for number in range(RACES)]
    await failed_saga(stage, shop, *sagas)
    choreo = Choreography(stage.topology, stage.broker)
    runs = shop.runs["refund"]
    outcomes: Counter[str] = Counter()

    async def replay(letter: DeadLetter) -> None:
        outcomes[(await choreo.replay(letter)).outcome] += 1

    async def resolve(letter: DeadLetter) -> None:
        await choreo.resolve(letter.saga, note="by hand")

    for number, letter in enumerate(await choreo.dead_letters(limit=RACES)):
        async with anyio.create_task_group() as operators:
            for order in (replay, resolve) if number % 2 else (resolve, replay):
                operators.start_soon(order, letter)
    shop.broken.clear()
    async with stage.playing(*shop.participants()) as choreo:
        await until(stage.is_settled, "the undos that were asked for")
        for saga_id in sagas:
            await view_when(choreo, saga_id, "resolved")
    assert outcomes.total() == RACES
    assert shop.runs["refund"] == runs
    assert await choreo.dead_letters() == []


async def test_a_letter_that_was_dropped_meanwhile(stage: Stage) -> None:
    """Of a replay and a drop at once one wins, and the other is told so."""
    shop = Shop({"refund"}, aborts=True)
    await failed_saga(stage, shop, "s1")
    choreo = Choreography(stage.topology, stage.broker)
    letter = await open_letter(choreo, "undo-failed")
    told: list[Settlement] = []

    async def order(request: Any) -> None:
        told.append(await request(letter))

    async with anyio.create_task_group() as operators:
        operators.start_soon(order, choreo.replay)
        operators.start_soon(order, choreo.drop)
    won, lost = sorted(told, key=lambda each: each.outcome is Outcome.CLOSED)
    assert won.outcome in (Outcome.REPLAYED, Outcome.DROPPED)
    assert lost.why.startswith(f"was {won.outcome} by")


async def test_a_reply_that_was_lost(stage: Stage) -> None:
    """The same order sent again is carried out once, and answers the same, even if it failed again meanwhile."""
    shop = Shop({"refund"}, aborts=True)
    await failed_saga(stage, shop, "s1")
    choreo = Choreography(stage.topology, stage.broker)
    letters = stage.broker.letters
    letter = await open_letter(choreo, "undo-failed")
    filed = await letters.at(letter.place)
    assert filed is not None
    slip = OrderSlip(choreo.clock(), "token", "ann")
    first = await letters.replay(filed, slip, *attempt_of(filed.fields, None))
    async with stage.playing(*shop.participants()) as choreo:
        await until(lambda: shop.runs["refund"] == 4, "the replay")
        await until(stage.is_settled, "its end")
        before = await stage.dump()
        again = await letters.replay(filed, slip, *attempt_of(filed.fields, None))
    assert (first.word, again.word) == ("replayed", "replayed")
    assert len(before) == len(await stage.dump())
    assert len(await stage.journal("ordered")) == 1
    resolved = OrderSlip(choreo.clock(), "other", "ann", "so")
    answers = [await letters.resolve("s1", resolved) for _ in range(2)]
    assert answers == [("resolved", "1")] * 2
    assert len(await stage.journal("ordered")) == 2


class Forgetful(Connection):
    """A connection that loses the first reply to each script."""

    lost: set[str]

    async def run(self, name: str, keys: Any, arguments: Any) -> Any:
        answer = await super().run(name, keys, arguments)
        if name not in self.lost:
            self.lost.add(name)
            raise BrokerUnavailable(f"the reply to {name} was lost")
        return answer


async def test_every_order_survives_a_lost_reply(stage: Stage) -> None:
    """The client sends an order again until it knows its outcome; each is carried out once."""
    shop = Shop({"refund"}, aborts=True)
    await failed_saga(stage, shop, "s1")
    connection = stage.broker.connection
    connection.__class__ = Forgetful
    connection.lost = set()  # type: ignore[attr-defined]
    choreo = Choreography(stage.topology, stage.broker)
    letter = await open_letter(choreo, "undo-failed")
    assert (await choreo.replay(letter, who="ann")).outcome is Outcome.REPLAYED
    connection.__class__ = Connection
    async with stage.playing(*shop.participants()) as choreo:
        await view_when(choreo, "s1", "failed", open_letters=1)
        await until(lambda: shop.runs["refund"] == 4, "the replay")
        await until(stage.is_settled, "its end")
    connection.__class__ = Forgetful
    choreo = Choreography(stage.topology, stage.broker)
    letter = await open_letter(choreo, "undo-failed")
    assert (await choreo.drop(letter)).outcome is Outcome.DROPPED
    assert await choreo.resolve("s1", note="by hand") == 0
    with pytest.raises(SagaClosed, match="resolved"):
        await choreo.resolve("s1", note="by hand")
    assert connection.lost == {"replay", "drop", "resolve"}  # type: ignore[attr-defined]
    assert [each["order"] for each in await stage.journal("ordered")] == ["replay", "drop", "resolve"]
