"""Writes the parts of these pages that follow from the code: ``python docs/generate.py``.

=============================  ================================================================
``reference/schema/*.json``    JSON schemas of what ``--json`` prints and the client returns
``explanation/undo.md``        the diagram of a saga's states, between its two markers
=============================  ================================================================
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec

DOCS = Path(__file__).resolve().parent
sys.path.insert(0, str(DOCS.parent))

from choreo.model.facts import View  # noqa: E402 - the project need not be installed
from choreo.model.letters import DeadLetter  # noqa: E402
from choreo.model.saga import TRANSITIONS, State  # noqa: E402
from choreo.model.trace import Trace  # noqa: E402
from choreo.model.waits import Stuck  # noqa: E402

SCHEMAS = {"view": View, "trace": Trace, "letter": DeadLetter, "stuck": Stuck}
DIAGRAM_PAGE = DOCS / "explanation" / "undo.md"
DIAGRAM_BEGIN = "<!-- states: written by docs/generate.py -->"
DIAGRAM_END = "<!-- end of states -->"


def schema(struct: type[Any]) -> str:
    """The JSON schema of a struct, as the text of a file."""
    return json.dumps(msgspec.json.schema(struct), indent=2) + "\n"


def diagram() -> str:
    """The table of transitions as a Mermaid state diagram."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {State.RUNNING}"]
    for state, targets in TRANSITIONS.items():
        lines += [f"    {state} --> {target}: {cause}" for target, cause in targets.items()]
        if not targets:
            lines.append(f"    {state} --> [*]")
    return "\n".join([*lines, "```"])


def with_diagram(page: str) -> str:
    """The text of the page that shows the diagram, brought up to date.

    Raises:
        ValueError: if the page has no markers.
    """
    head, begin, rest = page.partition(DIAGRAM_BEGIN)
    _, end, tail = rest.partition(DIAGRAM_END)
    if not begin or not end:
        raise ValueError(f"{DIAGRAM_PAGE} needs the lines {DIAGRAM_BEGIN!r} and {DIAGRAM_END!r}")
    return f"{head}{begin}\n{diagram()}\n{end}{tail}"


def generated() -> dict[Path, str]:
    """Every file that is written, with the text that it should have."""
    folder = DOCS / "reference" / "schema"
    files = {folder / f"{name}.json": schema(struct) for name, struct in SCHEMAS.items()}
    files[DIAGRAM_PAGE] = with_diagram(DIAGRAM_PAGE.read_text("utf-8"))
    return files


def main() -> None:
    """Write what is not up to date, and say what was written."""
    for path, text in generated().items():
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")
            print(f"wrote {path.relative_to(DOCS.parent)}")


if __name__ == "__main__":
    main()
