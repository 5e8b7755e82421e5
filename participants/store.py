"""Where a participant keeps its own data: one SQLite file, shared by all its worker processes."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path

#: The environment variable that says in which folder the shop keeps its data.
FOLDER_VARIABLE = "CHOREO_SHOP_DATA"
DEFAULT_FOLDER = ".choreo/shop"

BUSY_SECONDS = 30.0


class Store:
    """One participant's database, made on first use. Safe to share between threads and processes.

    Args:
        name: the file is ``<folder>/<name>.sqlite3``.
        schema: SQL that can run again at each start (``CREATE ... IF NOT EXISTS``).
        folder: by default ``CHOREO_SHOP_DATA``, else ``.choreo/shop`` in the current directory.
    """

    def __init__(self, name: str, schema: str, folder: Path | None = None) -> None:
        folder = folder or Path(os.environ.get(FOLDER_VARIABLE) or DEFAULT_FOLDER)
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{name}.sqlite3"
        db = self._connect()
        self._idle = [db]
        db.executescript(f"BEGIN IMMEDIATE; {schema}; COMMIT")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of the block or nothing of it. One at a time over all processes, so keep it short.

        Raises:
            sqlite3.OperationalError: if others kept the database busy for 30 seconds.
        """
        try:
            db = self._idle.pop()
        except IndexError:
            db = self._connect()
        try:
            # IMMEDIATE: what the block reads must still be true when it writes.
            db.execute("BEGIN IMMEDIATE")
            with db:
                yield db
        finally:
            self._idle.append(db)

    def close(self) -> None:
        """Close every connection; no transaction may be under way."""
        while self._idle:
            self._idle.pop().close()

    def _connect(self) -> sqlite3.Connection:
        # Handlers run in worker threads; a connection serves one of them at a time.
        db = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        _write_ahead(db)
        # Outlives the crash of any process; FULL would also outlive a loss of power.
        db.execute("PRAGMA synchronous = NORMAL")
        return db


def lifespan(open_store: Callable[[], Store]) -> Callable[[], AbstractAsyncContextManager[Store]]:
    """For ``Participant(lifespan=...)``: a store that is ``ctx.resources`` as long as the worker lives."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[Store]:
        store = open_store()
        try:
            yield store
        finally:
            store.close()

    return opened


def by_order(rows: Iterable[tuple[str, int]]) -> dict[str, tuple[int, ...]]:
    """Rows of (order id, number) as order id -> its numbers."""
    found: dict[str, tuple[int, ...]] = {}
    for order_id, number in rows:
        found[order_id] = (*found.get(order_id, ()), number)
    return found


def total(numbers: dict[str, tuple[int, ...]]) -> int:
    """The sum of all numbers of all orders."""
    return sum(map(sum, numbers.values()))


def _write_ahead(db: sqlite3.Connection) -> None:
    """Let readers and the writer work side by side.

    SQLite does not wait when several processes change a new file's journal at once, so this does.
    """
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
