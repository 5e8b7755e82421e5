"""The accounts of a bank, in SQLite. Each movement is booked once per key, and can be taken back once."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager


class Refused(Exception):
    """The bank says no, and means it: nothing was booked."""


class Accounts:
    """Balances in cents. No balance is ever negative, and movements between accounts keep the total."""

    def __init__(self, path: str) -> None:
        self._database = sqlite3.connect(path, isolation_level=None, timeout=10)
        self._database.execute("CREATE TABLE IF NOT EXISTS accounts (name TEXT PRIMARY KEY, cents INTEGER)")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS movements (key TEXT PRIMARY KEY, account TEXT, cents INTEGER)"
        )

    def open_account(self, name: str, cents: int) -> None:
        self._database.execute("INSERT OR IGNORE INTO accounts VALUES (?, ?)", (name, cents))

    def balances(self) -> dict[str, int]:
        return dict(self._database.execute("SELECT name, cents FROM accounts ORDER BY name"))

    def book(self, key: str, account: str, cents: int) -> None:
        """Move ``cents`` to (or from) an account, unless ``key`` was booked or taken back before."""
        with self._transaction():
            if self._known(key) is None:
                self._change(account, cents)
                self._database.execute("INSERT INTO movements VALUES (?, ?, ?)", (key, account, cents))

    def take_back(self, key: str) -> int:
        """Reverse a movement. One that is not there yet will never be booked. Returns what was moved back."""
        with self._transaction():
            movement = self._known(key)
            if movement is None:
                self._database.execute("INSERT INTO movements VALUES (?, '', 0)", (key,))
                return 0
            account, cents = movement
            if cents:
                self._change(account, -cents)
                self._database.execute("UPDATE movements SET cents = 0 WHERE key = ?", (key,))
            return cents

    def _known(self, key: str) -> tuple[str, int] | None:
        movements = self._database.execute("SELECT account, cents FROM movements WHERE key = ?", (key,))
        found: tuple[str, int] | None = movements.fetchone()
        return found

    def _change(self, account: str, cents: int) -> None:
        known = self._database.execute("SELECT cents FROM accounts WHERE name = ?", (account,)).fetchone()
        if known is None:
            raise Refused(f"there is no account {account}")
        if known[0] + cents < 0:
            raise Refused(f"{account} has insufficient funds")
        self._database.execute("UPDATE accounts SET cents = cents + ? WHERE name = ?", (cents, account))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    def close(self) -> None:
        self._database.close()


@asynccontextmanager
async def open_accounts() -> AsyncIterator[Accounts]:
    """The accounts in the file that BANK_DB names; a new file begins with ann, who has 100.00, and bob."""
    accounts = Accounts(os.environ.get("BANK_DB", "bank.db"))
    accounts.open_account("ann", 10_000)
    accounts.open_account("bob", 0)
    try:
        yield accounts
    finally:
        accounts.close()
