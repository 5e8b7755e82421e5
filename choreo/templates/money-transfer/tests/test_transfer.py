"""Transfers, and everything that can come in between. Whatever happens, no cent is made or lost."""

from collections.abc import Iterator

import pytest
from bank.accounts import Accounts
from bank.contracts import TransferRequested

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def no_cent_is_made_or_lost(accounts: Accounts) -> Iterator[None]:
    before = sum(accounts.balances().values())
    yield
    assert sum(accounts.balances().values()) == before


async def test_a_transfer(choreo_harness, accounts: Accounts) -> None:
    """Ann pays Bob."""
    async with choreo_harness() as bank:
        transfer = await bank.start(TransferRequested("ann", "bob", 2500))
        await bank.settle()
        transfer.assert_status("completed")
    assert accounts.balances() == {"ann": 7500, "bob": 2500}


async def test_insufficient_funds(choreo_harness, accounts: Accounts) -> None:
    """The debit is refused. Nothing has happened, so there is nothing to undo."""
    async with choreo_harness() as bank:
        transfer = await bank.start(TransferRequested("bob", "ann", 1))
        await bank.settle()
        transfer.assert_status("compensated")
        transfer.assert_undone()
        assert "insufficient funds" in transfer.view.reason
    assert accounts.balances() == {"ann": 10_000, "bob": 0}


async def test_the_account_is_not_found_after_the_debit(choreo_harness, accounts: Accounts) -> None:
    """The money has left one account and cannot arrive: it is credited back."""
    async with choreo_harness() as bank:
        transfer = await bank.start(TransferRequested("ann", "nobody", 2500))
        await bank.settle()
        transfer.assert_status("compensated")
        transfer.assert_undone("debits/debit")
        assert "no account nobody" in transfer.view.reason
    assert accounts.balances() == {"ann": 10_000, "bob": 0}


@pytest.mark.parametrize("when", ["before", "after effect", "before commit", "after commit"])
@pytest.mark.parametrize("step", ["debits/debit", "credits/credit"])
async def test_a_process_dies(choreo_harness, accounts: Accounts, step: str, when: str) -> None:
    """Another one goes on where it was, and books nothing twice."""
    async with choreo_harness() as bank:
        bank.crash(step, when=when)
        transfer = await bank.start(TransferRequested("ann", "bob", 2500))
        await bank.finish()
        transfer.assert_status("completed")
    assert accounts.balances() == {"ann": 7500, "bob": 2500}
