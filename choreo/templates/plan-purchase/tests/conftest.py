from collections.abc import Iterator
from pathlib import Path

import pytest
from telco.book import Book


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Book]:
    """The book of the company under test: a file of its own for each test."""
    monkeypatch.setenv("TELCO_BOOK", str(tmp_path / "telco.db"))
    book = Book(str(tmp_path / "telco.db"))
    yield book
    book.close()
