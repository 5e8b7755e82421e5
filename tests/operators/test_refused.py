"""Replaying what the tracker refused: entries of topics that were malformed."""

from __future__ import annotations

import pytest

from choreo import Choreography
from choreo.model.letters import DeadLetter, LetterState, Outcome
from choreo.tracker.follower import Tracker
from tests.operators.operator_kit import (
    Placed,
    Shop,
    Stage,
    open_letter,
    orders,
    until,
    until_view,
    view_when,
)

pytestmark = pytest.mark.anyio


async def refuse(stage: Stage, choreo: Choreography, reason: str, **fields: str) -> DeadLetter:
    """Write an entry into the topic of orders that is refused. Returns its letter."""
    stream = stage.topology.keys.stream(0, "orders")
    await stage.call("XADD", stream, "*", *(part for pair in fields.items() for part in pair))
    stage.broker.connection.announce_change()
    return await open_letter(choreo, reason)


async def test_it_is_added_once_more_with_what_was_wrong_replaced(stage: Stage) -> None:
    """The mended entry begins its saga; the letter is replayed; the trace tells of both."""
    shop = Shop()
    async with stage.playing(*shop.participants()) as choreo:
        letter = await refuse(
            stage, choreo, "data-not-json", id="e1", type="Placed", subject="s1", data="{amount: 42}"
        )
        assert letter.fields == {"id": "e1", "type": "Placed", "subject": "s1", "data": "{amount: 42}"}
        settled = await choreo.replay(letter, data=b'{"amount": 42}', who="ann", note="quoted")
        assert (settled.outcome, settled.saga) == (Outcome.REPLAYED, "s1")
        view = await view_when(choreo, "s1", "completed")
        trace = await choreo.trace("s1")
        assert (await choreo.replay(letter.id)).outcome is Outcome.CLOSED
    assert (view.dead_letters, view.events) == (1, 3)
    assert shop.seen["charge"][0][0].amount == 42
    assert orders(trace.incidents) == [("replay", "", "quoted (with other data)", "ann")]


async def test_a_field_that_was_missing(stage: Stage) -> None:
    """Fields other than the payload can be given, too."""
    async with stage.playing(*Shop().participants()) as choreo:
        letter = await refuse(stage, choreo, "fields-missing", type="Placed", subject="s1", data="{}")
        assert (await choreo.replay(letter, fields={"id": b"e1"})).outcome is Outcome.REPLAYED
        await view_when(choreo, "s1", "completed")


async def test_what_is_still_wrong_is_refused_beforehand(stage: Stage) -> None:
    """An entry that would be refused again is not added; the letter stays open."""
    async with stage.playing(*Shop().participants()) as choreo:
        letter = await refuse(stage, choreo, "type-unknown", id="e1", type="Plcaed", subject="s1", data="{}")
        settled = await choreo.replay(letter)
        assert settled.outcome is Outcome.REFUSED
        assert "it would be refused again (type-unknown: orders does not carry Plcaed" in settled.why
        assert await choreo.dead_letters() == [letter]
        settled = await choreo.replay(letter, fields={"type": b"Placed"})
        assert settled.outcome is Outcome.REPLAYED


async def test_an_entry_that_was_cut(stage: Stage) -> None:
    """What was too large to be kept cannot be replayed, unless that part is given anew."""
    async with stage.playing(*Shop().participants()) as choreo:
        letter = await refuse(
            stage, choreo, "data-not-json", id="e1", type="Placed", subject="s1", data="x" * 5_000
        )
        assert letter.cut == ["data"]
        settled = await choreo.replay(letter)
        assert (settled.outcome, "of data a part is missing" in settled.why) == (Outcome.REFUSED, True)
        assert (await choreo.replay(letter, data=b"{}")).outcome is Outcome.REPLAYED
        await view_when(choreo, "s1", "completed")


async def test_an_entry_without_a_saga(stage: Stage) -> None:
    """It can be dropped, though no saga's trace tells of it."""
    async with stage.playing(*Shop().participants()) as choreo:
        letter = await refuse(stage, choreo, "not-an-event", hello="world")
        assert (await choreo.drop(letter, who="ann")).outcome is Outcome.DROPPED
        assert (await choreo.drop(letter, who="ann")).outcome is Outcome.CLOSED
        assert await choreo.dead_letters(state=None) == []
    assert await stage.letters() == []
    assert await stage.journal("ordered") == []


async def test_an_entry_that_is_lost(stage: Stage) -> None:
    """Of an entry that was deleted before it was handled nothing is left to replay."""
    choreo = Choreography(stage.topology, stage.broker)
    keys = stage.topology.keys
    await stage.call("HSET", keys.letters(0), "lost:1", "open")
    stream = keys.stream(0, "orders")
    fields = ("letter", "lost:1", "reason", "entry-lost", "participant", "payments", "stream", stream, "entry", "1-1")
    await stage.call("XADD", keys.dead(0), "*", *fields)
    settled = await choreo.replay("lost:1")
    assert (settled.outcome, "nothing is left to replay" in settled.why) == (Outcome.REFUSED, True)
    assert (await choreo.drop("lost:1")).outcome is Outcome.DROPPED


async def test_resolving_a_saga_settles_its_refused_entries(stage: Stage) -> None:
    """All of a saga's letters wait no longer, those of refused entries included."""
    shop = Shop({"refund"}, aborts=True)
    async with stage.playing(*shop.participants()) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        await view_when(choreo, "s1", "failed", open_letters=1)
        await refuse(stage, choreo, "fields-missing", type="Placed", subject="s1", data="{}")
        await until_view(choreo, "s1", lambda view: view.open_letters == 2, "both letters")
        assert await choreo.resolve("s1", note="by hand") == 2
        await view_when(choreo, "s1", "resolved")
        states = [each.state for each in await choreo.dead_letters(saga_id="s1", state=None)]
    assert states == [LetterState.RESOLVED] * 2








async def test_a_rebuild_keeps_what_was_ordered(stage: Stage) -> None:
    """Letters that were dropped or replayed do not come back when the views are made anew."""
    async with stage.playing(*Shop().participants()) as choreo:
        letter = await refuse(stage, choreo, "fields-missing", type="Placed", subject="s1", data="{}")
        await choreo.drop(letter)
        await until_view(choreo, "s1", lambda view: not view.open_letters, "no open letter")
        before = await choreo.trace("s1")


    await Tracker(stage.topology, stage.broker).rebuild()
    choreo = Choreography(stage.topology, stage.broker)
    assert await choreo.trace("s1") == before
    assert await choreo.dead_letters(state=None) == []
    await until(stage.is_settled, "nothing")
