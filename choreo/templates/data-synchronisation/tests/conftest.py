from pathlib import Path

import pytest
from mirror.warehouse import Warehouse


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def warehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    """The warehouse under test: a file of its own for each test. Readers see Zoe in it."""
    monkeypatch.setenv("MIRROR_DB", str(tmp_path / "mirror.db"))
    warehouse = Warehouse(str(tmp_path / "mirror.db"))
    for dataset in ("people", "broken", "twins"):
        warehouse.put(f"first {dataset}", [{"name": "Zoe", "born": "1970"}])
        warehouse.switch(f"first switch of {dataset}", dataset, f"first {dataset}")
    return warehouse
