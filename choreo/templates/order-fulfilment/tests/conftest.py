from collections.abc import Iterator
from pathlib import Path

import pytest
from warehouse.book import Book


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Book]:
    """The book of the warehouse under test: a file of its own for each test."""
    monkeypatch.setenv("WAREHOUSE_BOOK", str(tmp_path / "warehouse.db"))
    book = Book(str(tmp_path / "warehouse.db"))
    yield book
    book.close()
