"""Replaying dead letters: of steps, of undos, and of what reacts to the way back."""

from __future__ import annotations

import pytest

from choreo import Choreography, Context, Participant
from choreo.errors import EventError, LetterNotFound
from choreo.model.facts import Kind, View
from choreo.model.letters import Outcome
from tests.operators.operator_kit import (
    Paid,
    Placed,
    Shipped,
    Shop,
    Stage,
    open_letter,
    orders,
    quick,
    reaction_of,
    until,
    until_view,
    view_when,
)

pytestmark = pytest.mark.anyio


async def restocked(choreo: Choreography) -> View:
    """The view of a saga when the last step of its way back has been made, and nothing more happens."""
    return await until_view(choreo, "s1", lambda view: "inventory/restock" in view.done, "the last step")


async def test_an_undo_that_failed(stage: Stage) -> None:
    """The saga goes on unwinding, the undo gets fresh attempts, and in the end nothing has failed."""
    shop = Shop({"refund"}, aborts=True)
    async with stage.playing(*shop.participants()) as choreo:
        await choreo.start(Placed(42), saga_id="s1")
        await view_when(choreo, "s1", "failed", open_letters=1)
        letter = await open_letter(choreo, "undo-failed")
        assert (letter.saga, letter.handler) == ("s1", "payments/charge/refund")
        shop.broken.clear()
        settled = await choreo.replay(letter.id, note="the bank is back", who="ann")
        assert settled.outcome is Outcome.REPLAYED
        view = await restocked(choreo)
        trace = await choreo.trace("s1")
    assert shop.runs["refund"] == 3
    assert [ctx.attempt for _, ctx in shop.seen["refund"]] == [1, 2, 1]
    assert (view.dead_letters, view.open_letters, view.undoing) == (1, 0, [])
    assert view.undone == {"payments/charge": 1}
    assert view.reason == "shipping/send: no truck"
    assert orders(trace.incidents) == [("replay", "payments/charge/refund", "the bank is back", "ann")]
    (undo,) = reaction_of(trace.events, "charge").undone_by
    assert (undo.outcome, len(undo.failed)) == (Kind.UNDONE, 2)
    assert await stage.pending() == []
    work = stage.topology.keys.work(0, "s1")
    assert not await stage.call("EXISTS", work)


async def test_an_undo_that_fails_again(stage: Stage) -> None:
    """Its letter is open again, stands once, and can be replayed again."""
    shop = Shop({"refund"}, aborts=True)
    async with stage.playing(*shop.participants()) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        await view_when(choreo, "s1", "failed", open_letters=1)
        first = await open_letter(choreo, "undo-failed")
        await choreo.replay(first)
        await until_view(choreo, "s1", lambda view: view.dead_letters == 2, "a second letter")
        again = await open_letter(choreo, "undo-failed")
        assert (again.id, len(await stage.letters())) == (first.id, 1)
        assert again.place != first.place
        shop.broken.clear()
        assert (await choreo.replay(again)).outcome is Outcome.REPLAYED
        view = await view_when(choreo, "s1", "compensated")
    assert (view.dead_letters, view.retries) == (2, 2)


async def test_a_step_that_reacts_to_the_way_back(stage: Stage) -> None:
    """The saga waits for it again, and is compensated when it has succeeded."""
    shop = Shop({"restock"}, aborts=True)
    async with stage.playing(*shop.participants()) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        await view_when(choreo, "s1", "failed", open_letters=1)
        letter = await open_letter(choreo, "step-failed")
        await choreo.replay(letter)
        await until_view(choreo, "s1", lambda view: view.dead_letters == 2, "a second letter")
        await view_when(choreo, "s1", "failed", open_letters=1)
        shop.broken.clear()
        assert (await choreo.replay(letter.id)).outcome is Outcome.REPLAYED
        await view_when(choreo, "s1", "compensated")
        trace = await choreo.trace("s1")
    assert shop.runs["restock"] == 3
    restock = reaction_of(trace.events, "restock")
    assert (restock.outcome, [each.number for each in restock.failed]) == (Kind.EVENT, [1, 2])
    assert not await stage.call("EXISTS", stage.topology.keys.work(0, "s1"))


async def test_a_step_that_failed_after_the_end(stage: Stage) -> None:
    """A completed saga stays completed; the step runs again, with the data that the operator gives."""
    shop = Shop({"note"})
    async with stage.playing(*shop.participants()) as choreo:
        await choreo.start(Placed(42), saga_id="s1")
        await view_when(choreo, "s1", "completed")
    async with stage.playing(shop.audit()) as choreo:
        await view_when(choreo, "s1", "completed", open_letters=1)
        letter = await open_letter(choreo, "step-failed")
        shop.broken.clear()
        with pytest.raises(EventError, match="data-not-json"):
            await choreo.replay(letter, data=b"{amount: 7}")
        assert (await choreo.replay(letter, data=b'{"amount": 7}')).outcome is Outcome.REPLAYED
        await until(lambda: shop.runs["note"] == 2, "the replay")
        await until(stage.is_settled, "its end")
        view = await view_when(choreo, "s1", "completed")
    (first, before), (second, after) = shop.seen["note"]
    assert (first, second) == (Placed(42), Placed(7))
    assert (before.key, before.event_id) == (after.key, after.event_id)
    assert (view.dead_letters, view.done["audit/note"]) == (1, 1)


async def test_a_second_replay(stage: Stage) -> None:
    """It says that the letter was replayed, when and by whom, and does nothing."""
    shop = Shop({"refund"}, aborts=True)
    async with stage.playing(*shop.participants()) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        await view_when(choreo, "s1", "failed", open_letters=1)
        letter = await open_letter(choreo, "undo-failed")
        shop.broken.clear()
        await choreo.replay(letter, who="ann")
        await restocked(choreo)
        before = await stage.dump()
        again = await choreo.replay(letter.id, who="bob")
        dropped = await choreo.drop(letter, who="bob")
    assert (again.outcome, dropped.outcome) == (Outcome.CLOSED, Outcome.CLOSED)
    assert again.why.startswith("was replayed by ann at 20")
    assert await stage.dump() == before


async def test_a_step_whose_saga_unwound(stage: Stage) -> None:
    """Its saga is over: the step does not run any more, and that is said with what to do instead."""
    shop = Shop({"send"})
    async with stage.playing(*shop.participants()) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        await restocked(choreo)
        letter = await open_letter(choreo, "step-failed")
        shop.broken.clear()
        before = await stage.dump()
        settled = await choreo.replay(letter)
    assert settled.outcome is Outcome.REFUSED
    assert "its saga is compensated" in settled.why
    assert "start a new saga" in settled.why
    assert await stage.dump() == before


async def test_data_of_an_undo(stage: Stage) -> None:
    """An undo gets what its step got and gave; nothing else can be given to it."""
    shop = Shop({"refund"}, aborts=True)
    async with stage.playing(*shop.participants()) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        letter = await open_letter(choreo, "undo-failed")
        settled = await choreo.replay(letter, data=b"{}")
    assert (settled.outcome, settled.why.partition(";")[0]) == (
        Outcome.REFUSED, "an undo gets the event and the result that its step had",
    )  # fmt: skip


async def test_a_rehearsal(stage: Stage) -> None:
    """Nothing is written, and the answer is that of the replay."""
    shop = Shop({"refund"}, aborts=True)
    async with stage.playing(*shop.participants()) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        await view_when(choreo, "s1", "failed", open_letters=1)
        letter = await open_letter(choreo, "undo-failed")
        before = await stage.dump()
        assert (await choreo.replay(letter, rehearse=True)).outcome is Outcome.REPLAYED
        assert (await choreo.drop(letter, rehearse=True)).outcome is Outcome.DROPPED
    assert await stage.dump() == before


async def test_a_letter_that_nobody_knows(stage: Stage) -> None:
    """It is said so, with the namespace in which it was looked for."""
    async with stage.playing() as choreo:
        for request in (choreo.replay, choreo.drop, choreo.dead_letter):
            with pytest.raises(LetterNotFound, match="'nothing'"):
                await request("nothing")


async def test_a_join(stage: Stage) -> None:
    """A join that failed gets all of its events again."""
    seen: list[tuple[Placed, Paid]] = []
    broken = [True]
    audit = Participant("audit")

    @audit.on_all(Placed, Paid, retry=quick(1))
    async def match(placed: Placed, paid: Paid) -> None:
        seen.append((placed, paid))
        if broken:
            raise OSError("broken")

    async with stage.playing(*Shop().participants()) as choreo:
        await choreo.start(Placed(42), saga_id="s1")
        await view_when(choreo, "s1", "completed")
    async with stage.playing(audit) as choreo:
        await view_when(choreo, "s1", "completed", open_letters=1)
        broken.clear()
        await choreo.replay(await open_letter(choreo, "step-failed"))
        await until(stage.is_settled, "its end")
        view = await view_when(choreo, "s1", "completed")
        await until_view(choreo, "s1", lambda view: "audit/match" in view.done, "the match")
    assert seen == [(Placed(42), Paid(42))] * 2
    assert view.open_letters == 0
    assert not await stage.call("EXISTS", stage.topology.keys.work(0, "s1"))


def parking(broken: set[str]) -> tuple[Participant, list[str]]:
    """Payments that leave their saga to an operator when a charge fails; and what they did."""
    runs: list[str] = []
    payments = Participant("payments")

    @payments.on(Placed, retry=quick(2), on_failure="park")
    async def charge(placed: Placed, ctx: Context) -> Shipped:
        runs.append(f"charge {placed.amount} #{ctx.attempt}")
        if "charge" in broken:
            raise OSError("no line")
        return Shipped()

    @charge.undo
    async def refund(placed: Placed) -> None:
        runs.append("refund")

    return payments, runs


async def test_a_step_that_was_left_to_an_operator(stage: Stage) -> None:
    """It runs again with fresh attempts and with the data that is given, and its saga goes on to its end."""
    broken = {"charge"}
    payments, runs = parking(broken)
    async with stage.playing(payments) as choreo:
        await choreo.start(Placed(1), saga_id="s1")
        view = await view_when(choreo, "s1", "running", open_letters=1)
        assert view.parked == ["payments/charge"]
        await choreo.replay(await open_letter(choreo, "step-failed"))
        await until_view(choreo, "s1", lambda view: view.dead_letters == 2, "a second letter")
        broken.clear()
        retried = await choreo.retry("s1", who="ann")
        assert [each.outcome for each in retried.letters] == [Outcome.REPLAYED]
        view = await view_when(choreo, "s1", "completed")
        trace = await choreo.trace("s1")
    assert runs == ["charge 1 #1", "charge 1 #2"] * 2 + ["charge 1 #1"]
    assert (view.parked, view.dead_letters, view.retries) == ([], 2, 2)
    charge = reaction_of(trace.events, "charge")
    assert (charge.outcome, [each.note for each in charge.failed]) == (Kind.EVENT, ["OSError: no line"] * 4)
    assert not await stage.call("EXISTS", stage.topology.keys.work(0, "s1"))


async def test_a_replay_that_its_saga_overtakes(stage: Stage) -> None:
    """A saga that is compensated while a replayed step waits to run again does not run it, but undoes it."""
    payments, runs = parking({"charge"})
    async with stage.playing(payments) as choreo:
        await choreo.start(Placed(1), saga_id="s1")
        await view_when(choreo, "s1", "running", open_letters=1)
    choreo = Choreography(stage.topology, stage.broker)
    await choreo.replay(await open_letter(choreo, "step-failed"))
    await choreo.compensate("s1")
    async with stage.playing(payments) as choreo:
        view = await view_when(choreo, "s1", "compensated")
        await until(stage.is_settled, "everything")
    assert runs == ["charge 1 #1", "charge 1 #2", "refund"]
    assert view.undone == {"payments/charge": 1}
    assert not await stage.call("EXISTS", stage.topology.keys.work(0, "s1"))
