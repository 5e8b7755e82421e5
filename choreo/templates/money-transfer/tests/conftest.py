from collections.abc import Iterator
from pathlib import Path

import pytest
from bank.accounts import Accounts


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def accounts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Accounts]:
    """The bank under test: a file of its own for each test. ann has 100.00, bob has nothing."""
    monkeypatch.setenv("BANK_DB", str(tmp_path / "bank.db"))
    accounts = Accounts(str(tmp_path / "bank.db"))
    accounts.open_account("ann", 10_000)
    accounts.open_account("bob", 0)
    yield accounts
    accounts.close()
