from collections.abc import Iterator
from pathlib import Path

import pytest
from shop.till import Till


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def till(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Till]:
    """The till of the shop under test: a file of its own for each test."""
    monkeypatch.setenv("SHOP_TILL", str(tmp_path / "till.db"))
    till = Till(str(tmp_path / "till.db"))
    yield till
    till.close()
