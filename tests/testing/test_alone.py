"""One participant alone: given, when, then."""

from __future__ import annotations

import pytest
from bank import Bank, Credited, Debited, Refused, Returned, TransferDone, TransferRequested

from choreo import Abort, Context, Event, Participant
from choreo.testing import given

pytestmark = pytest.mark.anyio


async def test_three_lines() -> None:
    """An event arrives, and these are emitted."""
    debits, credits, ledger = Bank().participants()
    await given(debits).when(TransferRequested()).then(Debited("ann", "bob", 100))
    debits, *_ = Bank().participants()
    await given(debits).when(TransferRequested(cents=5000)).then(Refused("not enough money"))
    await given(ledger, Credited("x")).when(Credited("bob")).then(TransferDone())
    await given(credits).when(Debited("ann", "nobody", 1)).then_aborts("no account nobody")


async def test_undos() -> None:
    """A saga that unwinds: what the undo emits."""
    debits, *_ = Bank().participants()
    await (
        given(debits)
        .when(TransferRequested())
        .then(Debited("ann", "bob", 100))
        .when_unwound()
        .then(Returned("ann"))
    )


async def test_what_is_not_as_it_was_said() -> None:
    """A failure tells what was emitted, and shows the trace."""
    debits, credits, _ = Bank().participants()
    with pytest.raises(AssertionError, match=r"debits: it emitted Debited\(.*, not nothing") as caught:
        await given(debits).when(TransferRequested()).then()
    assert "✓ debits/debit" in str(caught.value)
    with pytest.raises(AssertionError, match="it emitted nothing, not TransferDone"):
        await given(credits).when(Debited("ann", "nobody", 1)).then(TransferDone())
    with pytest.raises(AssertionError, match="it did not abort with 'sold out'; it said 'no account nobody'"):
        await given(credits).when(Debited("ann", "nobody", 1)).then_aborts("sold out")
    with pytest.raises(AssertionError, match="it said nothing"):
        await given(debits).when(TransferRequested()).then_aborts()


async def test_joins() -> None:
    """What was given before counts for a join; `then` is about what came last."""
    both = Participant("both")

    @both.on_all(Debited, Credited)
    def match(debited: Debited, credited: Credited) -> TransferDone:
        return TransferDone()

    await given(both, Debited("a", "b", 1)).when(Credited("b")).then(TransferDone())
    await given(both).when(Debited("a", "b", 1)).then().when(Credited("b")).then(TransferDone())


async def test_several_events_and_later() -> None:
    """Events of one handler come in its order; what is tried again is tried later."""

    class Counted(Event):
        number: int

    counting = Participant("counting")

    @counting.on(TransferRequested)
    def count(event: TransferRequested, ctx: Context) -> list[Counted]:
        if ctx.attempt == 1:
            raise OSError("not now")
        return [Counted(3), Counted(1), Counted(2)]

    await (
        given(counting)
        .when(TransferRequested())
        .then()
        .later(5)
        .then(Counted(3), Counted(1), Counted(2))
    )


async def test_a_participant_that_emits_nothing() -> None:
    """There is nothing to emit, and nothing is."""
    mute = Participant("mute")

    @mute.on(TransferRequested)
    def listen(event: TransferRequested) -> None:
        if event.cents < 0:
            raise Abort("less than nothing")

    await given(mute).when(TransferRequested()).then()
    await given(mute).when(TransferRequested(cents=-1)).then_aborts("less")
