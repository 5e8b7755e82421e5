"""Faults that a test plants: each happens as it says, does no harm to a sound saga, and is missed if it did not."""

from __future__ import annotations

import pytest
from bank import Bank, TransferRequested

from choreo import Abort
from choreo.testing import (
    Crash,
    Delay,
    Disconnect,
    Duplicate,
    Fail,
    Fault,
    FaultDidNotHappen,
    Hang,
    Harness,
    PlannedFailure,
    Reorder,
    SagaHandle,
    Unwind,
)
from choreo.testing.faults import MOMENTS

pytestmark = pytest.mark.anyio


async def transfer(town: Harness, **about: str) -> SagaHandle:
    saga = await town.start(TransferRequested(**about), saga_id="t1")  # type: ignore[arg-type]
    await town.finish(within=3600)
    return saga


async def test_fail() -> None:
    """A step fails as often as it is told to, and its retries see to it."""
    bank = Bank()
    async with bank.harness() as town:
        fault = town.fail("debits/debit", times=2)
        saga = await transfer(town)
        saga.assert_status("completed")
        assert saga.view.retries == fault.happened == 2
        assert bank.calls["debit"] == 1
    assert bank.cents == {"ann": 900, "bob": 100}


async def test_fail_after_the_effect() -> None:
    """The step has run, and nobody knows: the next attempt has the same key."""
    bank = Bank()
    async with bank.harness() as town:
        town.fail("credits/credit", error=OSError("line noise"), when="after effect")
        saga = await transfer(town)
        saga.assert_status("completed")
        assert bank.calls["credit"] == 2
        assert "line noise" in saga.tree
    assert bank.cents == {"ann": 900, "bob": 100}


async def test_fail_for_good() -> None:
    """A planted Abort is the business's no."""
    bank = Bank()
    async with bank.harness() as town:
        town.fail("credits/credit", error=Abort("closed on Sundays"))
        saga = await transfer(town)
        saga.assert_status("compensated")
        saga.assert_undone("debits/debit")
    assert bank.cents == {"ann": 1000, "bob": 0}


async def test_fail_an_undo() -> None:
    """An undo is named by its own name or in full, or is the function that stands in its module."""
    for name in ("debits/give_back", "debits/debit/give_back", None):
        bank = Bank()
        async with bank.harness() as town:
            undo = town.cast.participants[0].steps[0].compensation
            assert undo is not None
            town.fail(name or undo.function, times=3)
            saga = await transfer(town, target="nobody")
            saga.assert_status("compensated")
            assert saga.view.retries == 3
        assert bank.cents == {"ann": 1000, "bob": 0}


async def test_an_undo_that_fails_for_good() -> None:
    """The saga is failed, and the dead letter says why."""
    async with Bank().harness() as town:
        town.fail("debits/give_back", times=5)
        saga = await transfer(town, target="nobody")
        saga.assert_status("failed")
        assert [each.reason for each in saga.dead_letters] == ["undo-failed"]


async def test_hang() -> None:
    """A step that hangs runs into its timeout and is tried again."""
    bank = Bank()
    async with bank.harness() as town:
        town.hang("debits/debit")
        saga = await town.start(TransferRequested())
        began = town.now
        await town.settle()
        saga.assert_status("running") if saga.events else None
        assert town.now == began
        await town.finish()
        saga.assert_status("completed")
        assert 10_000 <= town.now - began < 11_000
        assert "took longer than 10 s" in saga.tree


async def test_hang_without_a_timeout() -> None:
    """A step that hangs for ever holds nobody else up, not even the test."""
    bank = Bank()
    async with bank.harness(timeout=None) as town:
        town.hang("debits/debit")
        stuck = await town.start(TransferRequested(), saga_id="t1")
        other = await town.start(TransferRequested(), saga_id="t2")
        await town.finish()
        other.assert_status("completed")
        assert stuck.events == ["TransferRequested"]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("when", MOMENTS)
@pytest.mark.parametrize("handler", ["debits/debit", "credits/credit", "ledger/note"])
async def test_crash(handler: str, when: str, workers: int) -> None:
    """A worker that is killed at any moment of any step: its lease runs out, another one takes over."""
    bank = Bank()
    async with bank.harness(Crash(handler, when), workers=workers) as town:  # type: ignore[arg-type]
        saga = await town.start(TransferRequested(), saga_id="t1")
        began = town.now
        await town.settle()
        if when != "after commit":
            assert "TransferDone" not in saga.events
            assert town.now == began
        await town.finish()
        saga.assert_status("completed")
        saga.assert_events("TransferRequested", "Debited", "Credited", "TransferDone")
        waited = town.now - began
        assert waited < 1000 if when == "after commit" else 10_000 <= waited < 12_000
        ran_again = 2 if when in ("after effect", "before commit") else 1
        assert bank.calls[handler.partition("/")[2]] == ran_again
    assert bank.cents == {"ann": 900, "bob": 100}


@pytest.mark.parametrize("when", MOMENTS)
@pytest.mark.parametrize("handler", ["debits/give_back", "credits/take_back"])
async def test_crash_in_an_undo(handler: str, when: str) -> None:
    """The same on the way back."""
    bank = Bank()
    faults = [Unwind("credits/credit"), Crash(handler, when)]  # type: ignore[arg-type]
    async with bank.harness(*faults) as town:
        saga = await transfer(town)
        saga.assert_status("compensated")
        saga.assert_undone("credits/credit", "debits/debit")
    assert bank.cents == {"ann": 1000, "bob": 0}


async def test_a_process_that_always_crashes() -> None:
    """An event that kills its worker every time is set aside after five deliveries."""
    bank = Bank()
    async with bank.harness() as town:
        town.crash("debits/debit", when="before", times=5)
        saga = await transfer(town)
        saga.assert_status("compensated")
        assert [each.reason for each in saga.dead_letters] == ["poison"]
    assert bank.total == 1000


async def test_other_sagas_go_on_after_a_crash() -> None:
    """Another process takes the place of one that crashed, at once."""
    bank = Bank()
    async with bank.harness() as town:
        town.crash("debits/debit")
        await town.start(TransferRequested(), saga_id="t1")
        await town.settle()
        other = await town.start(TransferRequested(), saga_id="t2")
        await town.settle()
        other.assert_status("completed")


@pytest.mark.parametrize("event", ["TransferRequested", "Debited", "Credited"])
async def test_duplicate(event: str) -> None:
    """Both copies of an event may be handled at once, with one key; only one of them is committed."""
    bank = Bank()
    async with bank.harness(Duplicate(event)) as town:
        saga = await transfer(town)
        saga.assert_events("TransferRequested", "Debited", "Credited", "TransferDone")
    assert bank.cents == {"ann": 900, "bob": 100}


@pytest.mark.parametrize("event", ["TransferRequested", "Debited"])
async def test_duplicate_of_what_is_in_hand(event: str) -> None:
    """The step has an undo, so the copy waits until the lease of its delivery has run out, and is a duplicate then.
    To settle takes no time, and to finish no more than that.
    """
    bank = Bank()
    async with bank.harness(Duplicate(event)) as town:
        began = town.now
        saga = await town.start(TransferRequested())
        await town.settle()
        saga.assert_status("completed")
        assert town.now == began
        await town.finish()
        assert 10_000 <= town.now - began <= 11_000
    assert (bank.calls["debit"], bank.calls["credit"]) == (1, 1)


async def test_duplicate_of_what_died() -> None:
    """The copy comes again as well as the event itself, when their leases have run out."""
    bank = Bank()
    async with bank.harness(Duplicate("Debited"), Crash("credits/credit")) as town:
        saga = await transfer(town)
        saga.assert_status("completed")
    assert bank.cents == {"ann": 900, "bob": 100}


async def test_delay() -> None:
    """An event that comes late is handled late, and not before."""
    bank = Bank()
    async with bank.harness() as town:
        town.delay("Debited", seconds=600)
        saga = await town.start(TransferRequested())
        await town.advance(minutes=9)
        saga.assert_events("TransferRequested", "Debited")
        await town.advance(minutes=1)
        saga.assert_status("completed")
    assert bank.calls["credit"] == 1


async def test_reorder() -> None:
    """Of events that are there together the last comes first."""
    order: list[int] = []
    bank = Bank()
    async with bank.harness() as town:
        town.reorder()
        for cents in (1, 2, 3):
            await town.start(TransferRequested(cents=cents))
        await town.settle()
        assert {each.status for each in town.sagas} == {"completed"}
        order = [cents for account, cents in bank.effects.values() if account == "bob"]
    assert order != [1, 2, 3]
    assert sorted(order) == [1, 2, 3]


async def test_reorder_needs_company() -> None:
    """Where nothing comes together there is nothing to reorder."""
    with pytest.raises(FaultDidNotHappen, match="Reorder"):
        async with Bank().harness(Reorder()) as town:
            await transfer(town)


@pytest.mark.parametrize("participant", [None, "debits", "credits", "ledger"])
async def test_disconnect(participant: str | None) -> None:
    """A commit whose answer is lost is sent again when the server is back, and counts once."""
    bank = Bank()
    async with bank.harness(Disconnect(participant, seconds=3)) as town:
        saga = await town.start(TransferRequested())
        began = town.now
        await town.finish()
        saga.assert_status("completed")
        assert town.now - began >= 3000
        saga.assert_events("TransferRequested", "Debited", "Credited", "TransferDone")
    assert set(bank.calls.values()) == {1}


async def test_unwind() -> None:
    """An operator unwinds a saga right after a step: what was done is undone, exactly backwards."""
    bank = Bank()
    async with bank.harness(Unwind("credits/credit")) as town:
        saga = await transfer(town)
        saga.assert_status("compensated")
        saga.assert_undone("credits/credit", "debits/debit")
    assert bank.cents == {"ann": 1000, "bob": 0}


async def test_unwind_while_a_step_runs() -> None:
    """The step comes too late: its event is withheld, and it is undone at once."""
    bank = Bank()
    async with bank.harness(Unwind("credits/credit", "after effect")) as town:
        saga = await transfer(town)
        saga.assert_status("compensated")
        saga.assert_not_emitted("Credited")
        saga.assert_undone("credits/credit", "debits/debit")
    assert bank.cents == {"ann": 1000, "bob": 0}


async def test_unwind_while_a_step_runs_and_crashes() -> None:
    """Nobody knows whether the step took effect; its undo is told so."""
    bank = Bank(one_eyed=True)
    faults = [Unwind("credits/credit", "after effect"), Crash("credits/credit", "after effect")]
    async with bank.harness(*faults) as town:
        saga = await transfer(town)
        saga.assert_status("compensated")
        saga.assert_undone("credits/credit", "debits/debit")
    assert bank.total == 1100


async def test_faults_together() -> None:
    """Faults may be combined."""
    bank = Bank()
    faults = [
        Duplicate("TransferRequested"), Fail("debits/debit"), Crash("credits/credit"), Disconnect("ledger"),
        Delay("Credited"), Hang("ledger/note"),
    ]  # fmt: skip
    async with bank.harness(*faults) as town:
        saga = await transfer(town)
        saga.assert_status("completed")
    assert bank.cents == {"ann": 900, "bob": 100}


@pytest.mark.parametrize(
    "fault",
    [Fail("debits/give_back"), Fail("debits/debit", times=2), Hang("credits/take_back"), Crash("debits/give_back"),
     Duplicate("Refused"), Delay("Returned"), Disconnect("ledger"), Unwind("debits/give_back")],
    ids=lambda fault: type(fault).__name__,
)  # fmt: skip
async def test_a_fault_that_did_not_happen(fault: Fault) -> None:
    """A test that did not test what it says is a failure, and says which fault is missing."""
    with pytest.raises(FaultDidNotHappen) as caught:
        async with Bank().harness(fault) as town:
            await town.start(TransferRequested(cents=5000))
            await town.settle()
    assert type(fault).__name__ in str(caught.value)


async def test_the_tests_own_failure_comes_first() -> None:
    """A test that fails by itself is not told of faults besides."""
    with pytest.raises(ZeroDivisionError):
        async with Bank().harness(Fail("debits/debit")):
            raise ZeroDivisionError


async def test_one_fault_planted_twice() -> None:
    """A fault that was planted in one harness is as new in the next."""
    fault = Fail("debits/debit")
    for _ in range(2):
        async with Bank().harness(fault) as town:
            saga = await transfer(town)
            assert saga.view.retries == 1
    assert fault.happened == 0


async def test_steps_themselves_are_names() -> None:
    """A step may be given instead of its name."""
    bank = Bank()
    participants = bank.participants()
    (debit,) = participants[0].steps
    async with Harness(participants=participants) as town:
        fault = town.fail(debit, error=PlannedFailure)
        await transfer(town)
        assert fault.happened == 1


def test_wrong_names() -> None:
    """A name that is none is refused at once, with one that may have been meant."""
    with pytest.raises(ValueError, match=r"'debits/debits'.*debits/debit"):
        Bank().harness(Fail("debits/debits"))
    with pytest.raises(ValueError, match=r"'Debitted'.*Debited"):
        Bank().harness(Duplicate("Debitted"))
    with pytest.raises(ValueError, match=r"'depits'.*debits"):
        Bank().harness(Disconnect("depits"))
    with pytest.raises(ValueError, match="after commit"):
        Crash("debits/debit", when="whenever")  # type: ignore[arg-type]


def test_faults_show_as_they_are_written() -> None:
    """So a message can be copied into a test."""
    assert repr(Crash("a/b", "before")) == "Crash('a/b', when='before')"
    assert repr(Fail("a/b", times=2)) == "Fail('a/b', times=2)"
    assert repr(Fail("a/b", OSError)) == "Fail('a/b', error=OSError)"
    assert repr(Disconnect()) == "Disconnect()"
    assert repr(Delay("A", 5)) == "Delay('A', seconds=5)"
