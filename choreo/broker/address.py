"""Which server a process talks to: the order in which that is decided stands here alone."""

from __future__ import annotations

import os
from pathlib import Path

from choreo.wire.topology import Topology

#: Environment variable with the server's URL.
URL_VARIABLE = "CHOREO_REDIS_URL"
#: Folder of the embedded engine, beside streams.yaml.
ENGINE_FOLDER = ".choreo"
#: Where a server is looked for when nothing says where it is.
DEFAULT_URL = "redis://localhost:6379/0"


def engine_folder(topology: Topology) -> Path:
    """Where `choreo dev` keeps its engine for this choreography."""
    return (topology.source.parent if topology.source else Path.cwd()) / ENGINE_FOLDER


def given_url(topology: Topology, flag: str | None = None) -> str | None:
    """The URL that was given: by the flag, else by ``CHOREO_REDIS_URL``, else by streams.yaml."""
    return flag or os.environ.get(URL_VARIABLE) or topology.redis


def server_url(topology: Topology, flag: str | None = None) -> str:
    """The URL that was given, else the engine of `choreo dev` if one runs here, else the default."""
    given = given_url(topology, flag)
    if given:
        return given
    # Only then: most processes are told their server and need not know how engines are run.
    from choreo.broker.engine_folder import discover

    return discover(engine_folder(topology)) or DEFAULT_URL
