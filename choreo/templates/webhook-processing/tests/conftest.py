from collections.abc import Iterator
from pathlib import Path

import pytest
from hooks.book import Book


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Book]:
    """The book under test: a file of its own for each test."""
    monkeypatch.setenv("HOOKS_BOOK", str(tmp_path / "hooks.db"))
    book = Book(str(tmp_path / "hooks.db"))
    yield book
    book.close()
