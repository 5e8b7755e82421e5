"""Resolving sagas that could not be undone, dropping letters, and retrying at once what waits."""

from __future__ import annotations

import pytest

from choreo import Choreography, Participant
from choreo.errors import ConfigurationError, LetterNotFound, SagaClosed, SagaNotFound
from choreo.model.letters import LetterState, Outcome
from tests.operators.operator_kit import (
    NEVER,
    HandClock,
    Paid,
    Placed,
    Refunded,
    Shop,
    Stage,
    open_letter,
    orders,
    reaction_of,
    until,
    until_view,
    view_when,
)

pytestmark = pytest.mark.anyio


async def test_a_failed_saga_is_resolved(stage: Stage) -> None:
    """It counts as put right by hand: its letters wait no longer, its ledger goes, its trace says who and why."""
    shop = Shop({"refund"}, aborts=True)
    async with stage.playing(*shop.participants()) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        await view_when(choreo, "s1", "failed", open_letters=1)
        assert await choreo.resolve("s1", note="paid back in cash", who="ann") == 1
        view = await view_when(choreo, "s1", "resolved")
        trace = await choreo.trace("s1")
        (letter,) = await choreo.dead_letters(saga_id="s1", state=LetterState.RESOLVED)
        assert await choreo.dead_letters() == []
        settled = await choreo.replay(letter)
    assert (letter.settled_by, letter.state) == ("ann", "resolved")
    assert (settled.outcome, settled.why.partition(" at ")[0]) == (Outcome.CLOSED, "was resolved by ann")
    assert (view.dead_letters, view.undoing, view.completed) == (1, [], view.updated)
    assert orders(trace.incidents) == [("resolve", "", "paid back in cash", "ann")]
    assert not await stage.call("EXISTS", stage.topology.keys.work(0, "s1"))


async def test_resolving_needs_a_note_and_a_saga_that_failed(stage: Stage) -> None:
    """Without a word about what was done, or for a saga that runs or has ended otherwise, it is refused."""
    async with stage.playing(*Shop().participants()) as choreo:
        with pytest.raises(ConfigurationError, match="say in `note`"):
            await choreo.resolve("s1", note=" ")
        with pytest.raises(SagaNotFound, match="'s1'"):
            await choreo.resolve("s1", note="so")
        await choreo.start(Placed(), saga_id="s1")
        await view_when(choreo, "s1", "completed")
        with pytest.raises(SagaClosed, match="completed") as closed:
            await choreo.resolve("s1", note="so")
    assert closed.value.state == "completed"


async def test_a_saga_whose_undo_never_comes(stage: Stage) -> None:
    """A saga that unwinds can be resolved. What was parked goes, and an undo that comes late does not run."""
    clock = HandClock()
    runs: list[int] = []
    payments = Participant("payments")

    @payments.on(Placed)
    async def charge(placed: Placed) -> Paid:
        return Paid()

    @charge.undo(retry=NEVER)
    async def refund(placed: Placed) -> Refunded:
        runs.append(1)
        raise OSError("no")

    async with stage.playing(payments, clock=clock) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        await until_view(choreo, "s1", lambda view: view.done, "the charge")
        await choreo.compensate("s1")
        await until(stage.due, "a parked undo")
        await choreo.resolve("s1", note="by hand")
        assert await stage.due() == []
        keys = stage.topology.keys
        request = ("id", "undo", "type", "choreo.undo", "subject", "s1", "data", await the_entry(stage))
        await stage.call("XADD", keys.inbox(0, "payments"), "*", *request)
        stage.broker.connection.announce_change()
        await until(stage.is_settled, "the late undo")
        await view_when(choreo, "s1", "resolved")
    assert runs == [1]
    assert not await stage.call("EXISTS", keys.work(0, "s1"))


async def the_entry(stage: Stage) -> str:
    """The ledger entry of the charge."""
    (asked,) = [entry["asks"] for entry in await stage.journal("ordered") if "asks" in entry]
    return asked


async def test_a_step_that_was_under_way_when_its_saga_was_resolved(stage: Stage) -> None:
    """It is not entered into a ledger again, and its undo is not asked for."""
    clock = HandClock()
    shop = Shop()
    slow = Participant("slow")
    runs: list[str] = []

    @slow.on(Placed, retry=NEVER)
    async def work(placed: Placed) -> Paid:
        runs.append("work")
        raise OSError("later")

    @work.undo
    async def unwork(placed: Placed) -> None:
        runs.append("unwork")

    async with stage.playing(slow, clock=clock, mover=False) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        await until(stage.due, "a parked step")
    choreo = Choreography(stage.topology, stage.broker, clock)
    await choreo.compensate("s1")
    await stage.move_due(clock.now)
    await choreo.resolve("s1", note="by hand")
    async with stage.playing(slow, clock=clock) as choreo:
        await until(stage.is_settled, "the attempt")
        await view_when(choreo, "s1", "resolved")
    assert (runs, shop.runs) == (["work"], {})
    assert not await stage.call("EXISTS", stage.topology.keys.work(0, "s1"))


async def test_a_replay_of_the_way_back_does_not_outlive_the_saga(stage: Stage) -> None:
    """A step of the way back that was replayed, and had not begun when the saga was resolved, does not run."""
    shop = Shop({"restock"}, aborts=True)
    async with stage.playing(*shop.participants()) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        await view_when(choreo, "s1", "failed", open_letters=1)
    choreo = Choreography(stage.topology, stage.broker)
    await choreo.replay(await open_letter(choreo, "step-failed"))
    await choreo.resolve("s1", note="restocked by hand")
    async with stage.playing(*shop.participants()) as choreo:
        await until(stage.is_settled, "the replay")
        await view_when(choreo, "s1", "resolved")
    assert shop.runs["restock"] == 1


async def test_a_letter_is_dropped(stage: Stage) -> None:
    """It is deleted, its saga stays as it was, and the trace says who did it."""
    shop = Shop({"send"})
    async with stage.playing(*shop.participants()) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        await view_when(choreo, "s1", "compensated", open_letters=1)
        letter = await open_letter(choreo, "step-failed")
        assert (await choreo.drop(letter, note="known", who="ann")).outcome is Outcome.DROPPED
        view = await view_when(choreo, "s1", "compensated")
        trace = await choreo.trace("s1")
        again = await choreo.drop(letter.id)
        with pytest.raises(LetterNotFound, match="was dropped by ann"):
            await choreo.dead_letter(letter.id)
    assert (again.outcome, again.why.partition(" at ")[0]) == (Outcome.CLOSED, "was dropped by ann")
    assert orders(trace.incidents) == [("drop", "shipping/send", "known", "ann")]
    assert (view.dead_letters, await stage.letters()) == (1, [])
    assert reaction_of(trace.events, "send").outcome == "dead"


async def test_what_waits_is_due_at_once(stage: Stage) -> None:
    """An attempt that was to come in an hour comes now; a saga with nothing to retry says so."""
    clock = HandClock()
    payments = Participant("payments")
    runs: list[int] = []

    @payments.on(Placed, retry=NEVER)
    async def charge(placed: Placed) -> None:
        runs.append(1)
        if len(runs) < 3:
            raise OSError("no")

    async with stage.playing(payments, clock=clock) as choreo:
        with pytest.raises(SagaNotFound):
            await choreo.retry("s1")
        await choreo.start(Placed(), saga_id="s1")
        await until(stage.due, "a parked attempt")
        retried = await choreo.retry("s1", note="the bank is back", who="ann")
        assert (retried.due, retried.letters, retried.anything) == (1, [], True)
        await until(lambda: len(runs) == 2, "the second attempt")
        await until(stage.due, "a parked attempt")
        clock.advance(1)
        await choreo.retry("s1", who="bob")
        view = await until_view(choreo, "s1", lambda view: view.done, "the charge")
        assert not (await choreo.retry("s1")).anything
        trace = await choreo.trace("s1")
    assert view.retries == 2
    assert orders(trace.incidents) == [("retry", "", "the bank is back", "ann"), ("retry", "", "", "bob")]


async def test_retrying_replays_what_failed(stage: Stage) -> None:
    """The letters of the saga are replayed in the order in which they were written; other sagas' are not."""
    shop = Shop({"refund", "restock"}, aborts=True)
    async with stage.playing(*shop.participants()) as choreo:
        for saga_id in ("s1", "s2"):
            await choreo.start(Placed(), saga_id=saga_id)
            await view_when(choreo, saga_id, "failed", open_letters=1)
        shop.broken.clear()
        retried = await choreo.retry("s1")
        assert [each.outcome for each in retried.letters] == [Outcome.REPLAYED]
        await view_when(choreo, "s1", "compensated")
        await view_when(choreo, "s2", "failed", open_letters=1)
    assert shop.runs["refund"] == 5
