"""Analyses: a model that is slow, busy or unwilling, and a cap on what it may cost."""

import pytest
from analyst.book import Book
from analyst.contracts import AnalysisRequested
from analyst.documents import SHELF
from analyst.model import RateLimited

pytestmark = pytest.mark.anyio

REQUEST = AnalysisRequested("letter", "ann")


def kinds(book: Book) -> list[str]:
    return [kind for kind, _ in book.held()]


async def test_an_analysis(choreo_harness, book: Book) -> None:
    """Fetched, paid for, asked, stored, told."""
    async with choreo_harness() as analyst:
        analysis = await analyst.start(REQUEST)
        await analyst.settle()
        analysis.assert_status("completed")
    assert kinds(book) == ["answer", "budget", "notice", "result"]
    assert ("result", "Dear Ann, all is") in book.held()


async def test_a_document_that_costs_too_much(choreo_harness, book: Book) -> None:
    """The model is not even asked."""
    async with choreo_harness() as analyst:
        analysis = await analyst.start(AnalysisRequested("novel", "ann"))
        await analyst.settle()
        analysis.assert_status("compensated")
        assert "would cost 90 cents, and may cost 50" in analysis.view.reason
    assert book.held() == []


async def test_a_busy_model(choreo_harness, book: Book) -> None:
    """It is asked again, later each time."""
    async with choreo_harness() as analyst:
        analyst.fail("analysis/ask", times=4, error=RateLimited("too many requests"))
        analysis = await analyst.start(REQUEST)
        began = analyst.now
        await analyst.finish()
        analysis.assert_status("completed")
        assert 40 <= (analyst.now - began) / 1000 <= 80
    assert kinds(book).count("answer") == 1


async def test_a_model_that_hangs(choreo_harness, book: Book) -> None:
    """After a minute it is asked again."""
    async with choreo_harness() as analyst:
        analyst.hang("analysis/ask")
        analysis = await analyst.start(REQUEST)
        await analyst.finish()
        analysis.assert_status("completed")
        assert analysis.view.retries == 1


async def test_a_model_that_refuses(
    choreo_harness, book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is an answer: no second attempt, and the budget is free again."""
    monkeypatch.setitem(SHELF, "secret", "for your eyes only")
    async with choreo_harness() as analyst:
        analysis = await analyst.start(AnalysisRequested("secret", "ann"))
        await analyst.settle()
        analysis.assert_status("compensated")
        assert analysis.view.retries == 0
        analysis.assert_undone("budget/reserve")
    assert book.held() == []


async def test_ten_minutes_for_the_whole(choreo_harness, book: Book) -> None:
    """Whoever waits that long gets nothing, and pays nothing."""
    async with choreo_harness() as analyst:
        for step in ("documents/fetch", "analysis/ask"):
            analyst.hang(step, times=4)
        analyst.delay("AnalysisDone", seconds=240)
        analysis = await analyst.start(REQUEST)
        await analyst.finish()
        analysis.assert_status("compensated")
    assert book.held() == []
