"""What is generated from the code is up to date."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from choreo.model.saga import TRANSITIONS
from docs.generate import DIAGRAM_PAGE, diagram, generated, with_diagram


@pytest.mark.parametrize("path", generated(), ids=lambda path: path.name)
def test_generated_files_are_up_to_date(path: Path) -> None:
    """``python docs/generate.py`` would change nothing."""
    assert path.read_text("utf-8") == generated()[path], "run `python docs/generate.py`"


def test_the_diagram_draws_every_transition() -> None:
    """The states' diagram has one arrow for each transition of the table, labelled with its cause."""
    drawn = diagram()
    for state, targets in TRANSITIONS.items():
        for target, cause in targets.items():
            assert f"    {state} --> {target}: {cause}\n" in drawn


def test_a_page_without_markers_is_refused() -> None:
    """The generator says so when it does not know where the diagram belongs."""
    with pytest.raises(ValueError, match=DIAGRAM_PAGE.name):
        with_diagram("# Undo\n")


def test_schemas_describe_objects() -> None:
    """Each schema file is JSON that names a struct with properties."""
    for path, text in generated().items():
        if path.suffix == ".json":
            schema = json.loads(text)
            name = schema["$ref"].rpartition("/")[2]
            assert schema["$defs"][name]["properties"]
