from pathlib import Path

import pytest
from signup.directory import Directory


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Directory:
    """The directory under test: a file of its own for each test."""
    monkeypatch.setenv("SIGNUP_DB", str(tmp_path / "signup.db"))
    return Directory(str(tmp_path / "signup.db"))
