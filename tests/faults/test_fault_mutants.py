"""The mistakes of scripts/mutants can still be made. That they are noticed, the script itself shows."""

from __future__ import annotations

import runpy
from typing import Any

import pytest

from tests.processes.process_kit import ROOT

MUTANTS = runpy.run_path(str(ROOT / "scripts" / "mutants"))["MUTANTS"]


def test_there_are_ten() -> None:
    """Ten mistakes, each with a name of its own."""
    assert len({mutant.name for mutant in MUTANTS}) == 10


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_it_still_applies(mutant: Any) -> None:
    """What a mutant replaces stands once in the file; if this fails, change the mutant with the code."""
    for edit in mutant.edits:
        assert (ROOT / edit.file).read_text().count(edit.old) == 1, edit
