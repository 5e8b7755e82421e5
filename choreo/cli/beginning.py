"""`choreo init`."""

from __future__ import annotations

from pathlib import Path

from rich.text import Text

from choreo.cli.output import show
from choreo.drawing.text import clean
from choreo.projects import DEFAULT, templates, write_project


def init(folder: str, template: str | None) -> int:
    """Write a project, and say what to do next."""
    path = Path(folder)
    written = write_project(template or DEFAULT, path)
    show(Text(f"{clean(str(path.resolve()))} holds now:"), fold=False)
    for each in written:
        show(Text(f"  {each}"), fold=False)
    show(Text("\nWhat next:", style="bold"))
    if path.resolve() != Path.cwd():
        show(Text(f"  cd {clean(folder)}"), fold=False)
    show(Text("  python -m pytest   the whole choreography, in milliseconds"))
    show(Text("  choreo dev         a server, all participants and the tracker, here"))
    show(Text("  README.md          what to try then"))
    return 0


def list_templates() -> int:
    """Show every template with its headline."""
    found = templates()
    width = max(map(len, found))
    for name, headline in found.items():
        show(Text.assemble((name.ljust(width), "bold"), f"  {headline}"), fold=False)
    return 0
