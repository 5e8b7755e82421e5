"""What is measured, as rows: printed as a table and written as JSON."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Row:
    """One figure: the median of its rounds."""

    case: str
    who: str
    unit: str
    rounds: list[float]
    wanted: str = ""
    """For a ratio: what it should be."""
    beside: dict[str, float] = field(default_factory=dict)
    """Further figures of the same runs."""

    @property
    def value(self) -> float:
        """The median."""
        return median(self.rounds)


def ratio(case: str, who: str, ours: list[float], theirs: list[float], wanted: str) -> Row:
    """A ratio round by round: both sides of a round ran one after the other, on the same machine."""
    return Row(case, who, "x", [mine / other for mine, other in zip(ours, theirs, strict=True)], wanted)


def show(rows: list[Row]) -> None:
    """Print rows as a table."""
    table = Table(title="medians, and the lowest and the highest of the rounds")
    for column in ("case", "who", "figure", "rounds", "wanted", "beside"):
        table.add_column(column, justify="right" if column == "figure" else "left")
    for row in rows:
        spread = f"[{_number(min(row.rounds))}, {_number(max(row.rounds))}]" if len(row.rounds) > 1 else ""
        beside = ", ".join(f"{name} {_number(value)}" for name, value in row.beside.items())
        figure = f"{_number(row.value)} {row.unit}"
        table.add_row(row.case, row.who, figure, spread.replace("[", "\\["), row.wanted, beside)
    Console(width=None if os.isatty(1) else 160).print(table)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def write(path: Path, server: str, rows: list[Row]) -> None:
    """Write rows as JSON, with what they were measured on."""
    path.write_text(json.dumps(
        {"machine": machine(server), "rows": [asdict(row) | {"value": row.value} for row in rows]}, indent=1
    ) + "\n")  # fmt: skip


def machine(server: str) -> dict[str, Any]:
    """What the figures were measured on."""
    names = ("choreo", "redis", "hiredis", "uvloop", "msgspec", "anyio", "faststream", "dramatiq")
    return {
        "server": server, "python": platform.python_version(), "system": platform.platform(),
        "cores": os.cpu_count(), "packages": {name: _version(name) for name in names},
    }  # fmt: skip


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
