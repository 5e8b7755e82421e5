"""Documents: fetched, and only looked at. That changes nothing, so there is nothing to undo."""

from __future__ import annotations

from choreo import Abort, Participant, Retry

from .contracts import AnalysisRequested, DocumentFetched

documents = Participant("documents")

#: In your project: a store of documents, somewhere on the network.
SHELF = {"letter": "Dear Ann, all is well. Yours, Bob", "novel": "word " * 90_000}


@documents.on(AnalysisRequested, timeout=20, retry=Retry(attempts=5, first=1, on=(OSError, TimeoutError)))
async def fetch(request: AnalysisRequested) -> DocumentFetched:
    if request.document not in SHELF:
        raise Abort(f"there is no document {request.document}")
    words = len(SHELF[request.document].split())
    return DocumentFetched(request.document, request.customer, request.cap_cents, words)
