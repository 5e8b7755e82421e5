"""What was done for workspaces, in SQLite: each entry once per key."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Book:
    """Entries of a kind (workspace, invitation, storage, subscription), by idempotency key."""

    def __init__(self, path: str) -> None:
        self._database = sqlite3.connect(path, isolation_level=None, timeout=10)
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, kind TEXT, what TEXT, held INTEGER)"
        )

    def enter(self, key: str, kind: str, what: str) -> None:
        """Hold something, unless this key holds it or was cancelled already."""
        self._database.execute("INSERT OR IGNORE INTO entries VALUES (?, ?, ?, 1)", (key, kind, what))

    def cancel(self, key: str) -> None:
        """Let it go. What is not there yet will never be."""
        self._database.execute(
            "INSERT INTO entries VALUES (?, '', '', 0) ON CONFLICT (key) DO UPDATE SET held = 0", (key,)
        )

    def held(self) -> list[tuple[str, str]]:
        """(kind, what) of everything that is held."""
        return list(self._database.execute("SELECT kind, what FROM entries WHERE held ORDER BY kind, what"))

    def close(self) -> None:
        self._database.close()


@asynccontextmanager
async def open_book() -> AsyncIterator[Book]:
    """The book in the file that WORKSPACES_BOOK names."""
    book = Book(os.environ.get("WORKSPACES_BOOK", "workspaces.db"))
    try:
        yield book
    finally:
        book.close()
