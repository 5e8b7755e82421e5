"""Sets of rows, in SQLite, each under the key of the step that made it; and which of them readers see."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

Rows = list[dict[str, str]]

TABLES = """
    CREATE TABLE IF NOT EXISTS sets (key TEXT PRIMARY KEY, rows TEXT, dropped INTEGER);
    CREATE TABLE IF NOT EXISTS switches (key TEXT PRIMARY KEY, dataset TEXT, version TEXT, undone INTEGER);
"""


class Warehouse:
    """A connection for each call, so that any thread may use it."""

    def __init__(self, path: str) -> None:
        self._path = path
        with self._transaction() as database:
            database.executescript(TABLES)

    def put(self, key: str, rows: Rows) -> None:
        """Keep rows, unless this key has kept some, or dropped them, before."""
        with self._transaction() as database:
            database.execute("INSERT OR IGNORE INTO sets VALUES (?, ?, 0)", (key, json.dumps(rows)))

    def get(self, key: str) -> Rows:
        """The rows of a key.

        Raises:
            KeyError: if there are none, or no more.
        """
        with self._transaction() as database:
            found = database.execute("SELECT rows FROM sets WHERE key = ? AND NOT dropped", (key,)).fetchone()
        if found is None:
            raise KeyError(key)
        rows: Rows = json.loads(found[0])
        return rows

    def drop(self, key: str) -> None:
        """Forget rows. What is not there yet will never be."""
        with self._transaction() as database:
            database.execute(
                "INSERT INTO sets VALUES (?, '[]', 1)"
                " ON CONFLICT (key) DO UPDATE SET rows = '[]', dropped = 1",
                (key,),
            )

    def sets(self) -> int:
        """How many sets of rows there are."""
        with self._transaction() as database:
            (number,) = database.execute("SELECT COUNT(*) FROM sets WHERE NOT dropped").fetchone()
            return int(number)

    def switch(self, key: str, dataset: str, version: str) -> None:
        """Have readers see this version, unless this key has switched, or switched back, before."""
        with self._transaction() as database:
            database.execute("INSERT OR IGNORE INTO switches VALUES (?, ?, ?, 0)", (key, dataset, version))

    def switch_back(self, key: str) -> None:
        """Have readers see what they saw before, unless somebody has switched since then."""
        with self._transaction() as database:
            database.execute(
                "INSERT INTO switches VALUES (?, '', '', 1) ON CONFLICT (key) DO UPDATE SET undone = 1",
                (key,),
            )

    def seen(self, dataset: str) -> Rows:
        """What readers see: the version of the newest switch that stands."""
        with self._transaction() as database:
            found = database.execute(
                "SELECT version FROM switches WHERE dataset = ? AND NOT undone ORDER BY rowid DESC",
                (dataset,),
            ).fetchone()
        return self.get(found[0]) if found else []

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        database = sqlite3.connect(self._path, timeout=10, isolation_level="IMMEDIATE")
        try:
            with database:
                yield database
        finally:
            database.close()


@asynccontextmanager
async def open_warehouse() -> AsyncIterator[Warehouse]:
    """The warehouse in the file that MIRROR_DB names."""
    yield Warehouse(os.environ.get("MIRROR_DB", "mirror.db"))
