"""What must hold whatever goes wrong, tried under every single fault that choreo can think of."""

from pathlib import Path

import pytest
from analyst.book import Book
from analyst.contracts import AnalysisRequested

from choreo.testing import failure_matrix

pytestmark = pytest.mark.anyio

STREAMS = Path(__file__).parents[1] / "streams.yaml"


@pytest.mark.parametrize("case", failure_matrix(STREAMS))
async def test_who_pays_gets_a_result(case, book: Book) -> None:
    """Budget is set aside for what was asked once, stored and told of. For anything else nobody pays."""
    async with case.harness() as analyst:
        analysis = await analyst.start(AnalysisRequested("letter", "ann"))
        await analyst.finish()
        analysis.assert_status("completed", "compensated")
        completed = analysis.status == "completed"
    kinds = [kind for kind, _ in book.held()]
    assert kinds == (["answer", "budget", "notice", "result"] if completed else [])
