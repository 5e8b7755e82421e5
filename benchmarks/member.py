"""One process of a contestant: ``python -m benchmarks.member CONTESTANT ROLES URL``.

It says ``ready`` when everything is imported, begins when it is told ``go``, and ends when its standard
input does, so that none outlives the run.
"""

from __future__ import annotations

import os
import sys
import threading
from importlib import import_module
from importlib.util import find_spec

import anyio


def main() -> None:
    """Be what the arguments say."""
    name, roles, url = sys.argv[1:4]
    contestant = import_module(f"benchmarks.contestants.{name}")
    print("ready", flush=True)
    sys.stdin.readline()
    threading.Thread(target=_end_with_input, daemon=True).start()
    if hasattr(contestant, "serve_threads"):
        contestant.serve_threads(url, roles.split(","))
    else:
        options = {"use_uvloop": find_spec("uvloop") is not None}
        anyio.run(contestant.serve, url, roles.split(","), backend_options=options)


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(0)


if __name__ == "__main__":
    main()
