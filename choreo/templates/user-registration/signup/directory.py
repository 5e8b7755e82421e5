"""Users and mails, in SQLite. A user has an id, which is never used again; a mail is sent once per key."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

TABLES = """
    CREATE TABLE IF NOT EXISTS users (id TEXT PRIMARY KEY, email TEXT, name TEXT, state TEXT);
    CREATE TABLE IF NOT EXISTS mails (
        key TEXT PRIMARY KEY, user TEXT, email TEXT, subject TEXT, void INTEGER
    );
"""


class EmailTaken(Exception):
    """Somebody else has registered with this address."""


class Directory:
    """A connection for each call, so that any thread may use it."""

    def __init__(self, path: str) -> None:
        self._path = path
        with self._transaction() as database:
            database.executescript(TABLES)

    def register(self, user: str, email: str, name: str) -> None:
        """Register a user, unless the id was registered, or removed, before.

        Raises:
            EmailTaken: if another user has this address.
        """
        with self._transaction() as database:
            if database.execute("SELECT 1 FROM users WHERE id = ?", (user,)).fetchone():
                return
            others = database.execute("SELECT 1 FROM users WHERE email = ? AND state != 'removed'", (email,))
            if others.fetchone():
                raise EmailTaken(f"{email} is registered already")
            database.execute("INSERT INTO users VALUES (?, ?, ?, 'registered')", (user, email, name))

    def activate(self, user: str) -> None:
        with self._transaction() as database:
            database.execute(
                "UPDATE users SET state = 'active' WHERE id = ? AND state = 'registered'", (user,)
            )

    def remove(self, user: str) -> None:
        """Remove a user. One who is not there yet will never be."""
        with self._transaction() as database:
            database.execute(
                "INSERT INTO users VALUES (?, '', '', 'removed')"
                " ON CONFLICT (id) DO UPDATE SET state = 'removed'",
                (user,),
            )

    def users(self) -> list[tuple[str, str]]:
        """(address, state) of everybody who is not removed."""
        with self._transaction() as database:
            found = database.execute("SELECT email, state FROM users WHERE state != 'removed' ORDER BY email")
            return list(found)

    def send(self, key: str, user: str, email: str, subject: str) -> None:
        """Send a mail, unless this key has sent it, or made it void, before."""
        with self._transaction() as database:
            mail = (key, user, email, subject)
            database.execute("INSERT OR IGNORE INTO mails VALUES (?, ?, ?, ?, 0)", mail)

    def make_void(self, key: str) -> None:
        """The link in this mail leads nowhere any more. A mail that is not sent yet will never be."""
        with self._transaction() as database:
            database.execute(
                "INSERT INTO mails VALUES (?, '', '', '', 1) ON CONFLICT (key) DO UPDATE SET void = 1", (key,)
            )

    def address_of(self, user: str) -> str | None:
        """Where mails to a user went."""
        with self._transaction() as database:
            found = database.execute("SELECT email FROM mails WHERE user = ?", (user,)).fetchone()
        return found[0] if found else None

    def mails(self) -> list[tuple[str, str, bool]]:
        """(address, subject, whether it is void) of all mails in their order."""
        with self._transaction() as database:
            found = database.execute(
                "SELECT email, subject, void FROM mails WHERE email != '' ORDER BY rowid"
            )
            return [(email, subject, bool(void)) for email, subject, void in found]

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        database = sqlite3.connect(self._path, timeout=10, isolation_level="IMMEDIATE")
        try:
            with database:
                yield database
        finally:
            database.close()


@asynccontextmanager
async def open_directory() -> AsyncIterator[Directory]:
    """The directory in the file that SIGNUP_DB names."""
    yield Directory(os.environ.get("SIGNUP_DB", "signup.db"))
