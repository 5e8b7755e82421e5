"""The events of an analysis. They carry the document's name and not its text, which would be too long."""

from choreo import Event


class AnalysisRequested(Event):
    document: str
    customer: str
    cap_cents: int = 50
    """What the analysis may cost."""


class DocumentFetched(Event):
    document: str
    customer: str
    cap_cents: int
    words: int


class BudgetReserved(Event):
    document: str
    customer: str
    words: int
    cents: int


class AnalysisDone(Event):
    document: str
    customer: str
    summary: str


class ResultStored(Event):
    customer: str


class CustomerNotified(Event):
    customer: str
