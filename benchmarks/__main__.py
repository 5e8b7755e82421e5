"""``python -m benchmarks``: everything, or with ``--quick`` a little of it, in under a minute."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from benchmarks import cases, counts, harness, special
from benchmarks.cases import Scale
from benchmarks.report import Row, show, write
from benchmarks.server import Server, running_server

Case: TypeAlias = Callable[[Server, Scale], Iterable[Row]]
CASES: dict[str, Case] = {
    "backlog": cases.backlogs, "latency": cases.latencies, "unwinding": cases.unwinding,
    "tracker": cases.tracking, "minute": cases.minute, **special.CASES,
    "counts": counts.counts, "hundred": harness.hundred_tests,
}  # fmt: skip
QUICK = Scale(rounds=1, sagas=500, seconds=1.0, minute=500, stored=10_000)


def main() -> int:
    """Measure, show, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round of each case: does it work?")
    parser.add_argument("--only", action="append", choices=CASES, help="this case; may be repeated")
    parser.add_argument("--rounds", type=int, help="interleaved rounds of each case")
    parser.add_argument("--sagas", type=int, help="sagas of a backlog")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--profile", action="store_true", help="only say where the time of a hop goes")
    options = parser.parse_args()
    scale = QUICK if options.quick else Scale()
    scale = replace(scale, rounds=options.rounds or scale.rounds, sagas=options.sagas or scale.sagas)
    # Whoever ends this run ends its server and its processes, too.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with running_server() as server:
        if options.profile:
            counts.profile(server, scale)
            return 0
        rows: list[Row] = []
        for name in options.only or CASES:
            print(f"{name} ...", file=sys.stderr, flush=True)
            rows += CASES[name](server, scale)
    show(rows)
    if options.json:
        write(options.json, server.name, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
