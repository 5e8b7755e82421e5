"""What must hold whatever goes wrong, tried under every single fault that choreo can think of."""

from pathlib import Path

import pytest
from bank.accounts import Accounts
from bank.contracts import TransferRequested

from choreo.testing import failure_matrix

pytestmark = pytest.mark.anyio

STREAMS = Path(__file__).parents[1] / "streams.yaml"


@pytest.mark.parametrize("case", failure_matrix(STREAMS))
async def test_money_out_is_money_in(case, accounts: Accounts) -> None:
    """What Ann has paid, Bob has got: all of it or nothing."""
    async with case.harness() as bank:
        transfer = await bank.start(TransferRequested("ann", "bob", 2500))
        await bank.finish()
        transfer.assert_status("completed", "compensated")
        moved = 2500 if transfer.status == "completed" else 0
    assert accounts.balances() == {"ann": 10_000 - moved, "bob": moved}
