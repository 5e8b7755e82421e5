"""The model, played: in your project it is a client of the provider's API."""

from __future__ import annotations

from .book import Book
from .documents import SHELF


class RateLimited(Exception):
    """Too many requests; later ones may succeed."""


class Refused(Exception):
    """The model will not say anything about this, however often it is asked."""


class Model:
    """Answers are kept by key: the same key again gets the same answer, and costs nothing."""

    def __init__(self, book: Book) -> None:
        self.book = book

    async def summarise(self, key: str, document: str) -> str:
        """Raises:
        RateLimited: if it is asked too often.
        Refused: if it does not like the document.
        """
        if document == "secret":
            raise Refused("I cannot help with that")
        self.book.enter(key, "answer", document)
        return " ".join(SHELF[document].split()[:4])
