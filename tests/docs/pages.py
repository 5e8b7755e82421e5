"""The documentation as tests read it: pages, their code blocks, tables, headings and links."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_FILE = re.compile(r"# (?P<name>[\w./-]+\.\w+)(?: \((?P<where>.+)\))?$")
#: Cells are split at pipes; none of the pages needs an escaped one.
_ROW = re.compile(r"^\|(.*)\|$")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of code."""

    language: str
    text: str
    line: int

    @property
    def file(self) -> re.Match[str] | None:
        """If its first line is a comment that names a file: ``name``, and ``where`` in the file it goes."""
        return _FILE.match(self.text.partition("\n")[0])


@dataclass(frozen=True)
class Page:
    """One Markdown file."""

    path: Path

    def __str__(self) -> str:
        return str(self.path.relative_to(ROOT))

    @cached_property
    def text(self) -> str:
        return self.path.read_text("utf-8")

    @cached_property
    def blocks(self) -> list[Block]:
        return [
            Block(found[1], found[2], self.text.count("\n", 0, found.start()) + 1)
            for found in _FENCE.finditer(self.text)
        ]

    @cached_property
    def prose(self) -> str:
        """The text without its blocks of code."""
        return _FENCE.sub("", self.text)

    @cached_property
    def headings(self) -> list[str]:
        return [heading.strip() for heading in _HEADING.findall(self.prose)]

    @cached_property
    def anchors(self) -> set[str]:
        """What links may name behind ``#``, as GitHub makes it of headings."""
        return {slug(heading) for heading in self.headings}

    @property
    def links(self) -> list[str]:
        return _LINK.findall(re.sub(r"`[^`]*`", "", self.prose))

    def section(self, heading: str) -> str:
        """The text below a heading, as far as the next one of any level."""
        parts = re.split(r"^#{1,6} (.+)$", self.prose, flags=re.MULTILINE)
        return dict(zip(map(str.strip, parts[1::2]), parts[2::2], strict=True))[heading]

    def rows(self, heading: str) -> list[list[str]]:
        """The cells of the tables below a heading, without their heads."""
        return list(_rows(self.section(heading)))


def _rows(text: str) -> Iterator[list[str]]:
    in_body = False
    for line in text.splitlines():
        found = _ROW.match(line.strip())
        if not found:
            in_body = False
        elif re.fullmatch(r"[|\s:-]+", line):
            in_body = True
        elif in_body:
            yield [cell.strip() for cell in found[1].split("|")]


def slug(heading: str) -> str:
    """The anchor of a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


def code(cell: str) -> str:
    """What stands between backticks in a cell; the cell itself if nothing does."""
    found = re.fullmatch(r"`+ ?(.*?) ?`+", cell)
    return found[1] if found else cell


def codes(text: str) -> list[str]:
    """Everything that stands between backticks."""
    return re.findall(r"`([^`]+)`", text)


def page(name: str) -> Page:
    """A page by its path below the project's folder."""
    return Page(ROOT / name)


def all_pages() -> list[Page]:
    """The README, the changelog, and every page of the documentation."""
    return [page("README.md"), page("CHANGELOG.md"), *map(Page, sorted(DOCS.rglob("*.md")))]
