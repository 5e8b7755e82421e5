"""The pytest plugin: fixtures for tests of choreographies. Loaded in every test run, so it imports nothing
of choreo before a fixture is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from choreo.testing.harness import Harness


@pytest.fixture
def choreo_harness(request: pytest.FixtureRequest) -> Callable[..., Harness]:
    """Makes a harness: ``async with choreo_harness() as shop:``.

    Arguments are those of :class:`choreo.testing.Harness`. Without a ``source`` and without participants it
    is the ``streams.yaml`` that is nearest to the test: in its folder, or in one above.
    """
    from choreo.testing.harness import Harness

    def make(source: Any = None, **arguments: Any) -> Harness:
        if source is None and not arguments.get("participants"):
            source = _nearest(request.path)
        return Harness(source, **arguments)

    return make


@pytest.fixture(scope="session")
def choreo_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a real server, on a unix socket, that all tests of this process share.

    It is what `choreo dev` would start: a ``valkey-server`` or ``redis-server`` of the PATH, or the one that
    ``choreo[embedded]`` brings. It writes nothing to disk and is stopped in the end.
    """
    from choreo.broker.engine import EngineProcess

    folder = tmp_path_factory.mktemp("choreo-server")
    with EngineProcess(folder, extra={"appendonly": "no"}) as server:
        yield server.url


def _nearest(test: Path) -> Path:
    for folder in test.parents:
        if (folder / "streams.yaml").is_file():
            return folder / "streams.yaml"
    raise pytest.UsageError(
        f"there is no streams.yaml in the folder of {test} or above;"
        " give its path, or the participants: choreo_harness(participants=[...])"
    )
