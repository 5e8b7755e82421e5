"""What the payment provider keeps: each charge once per key, however often it is asked for."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Till:
    """Charges, by idempotency key. A charge that was refunded can never be captured any more."""

    def __init__(self, path: str) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS charges (key TEXT PRIMARY KEY, cents INTEGER, state TEXT)"
        )

    def capture(self, key: str, cents: int) -> None:
        self._database.execute("INSERT OR IGNORE INTO charges VALUES (?, ?, 'captured')", (key, cents))

    def refund(self, key: str) -> None:
        self._database.execute(
            "INSERT INTO charges VALUES (?, 0, 'refunded')"
            " ON CONFLICT (key) DO UPDATE SET state = 'refunded'",
            (key,),
        )

    def taken(self) -> int:
        """Cents that were captured and not refunded."""
        captured = self._database.execute("SELECT TOTAL(cents) FROM charges WHERE state = 'captured'")
        return int(captured.fetchone()[0])

    def close(self) -> None:
        self._database.close()


@asynccontextmanager
async def open_till() -> AsyncIterator[Till]:
    """The till of this process, in the file that SHOP_TILL names."""
    till = Till(os.environ.get("SHOP_TILL", "till.db"))
    try:
        yield till
    finally:
        till.close()
