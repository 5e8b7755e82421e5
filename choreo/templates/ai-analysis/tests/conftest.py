from collections.abc import Iterator
from pathlib import Path

import pytest
from analyst.book import Book


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Book]:
    """The book under test: a file of its own for each test."""
    monkeypatch.setenv("ANALYST_BOOK", str(tmp_path / "analyst.db"))
    book = Book(str(tmp_path / "analyst.db"))
    yield book
    book.close()
