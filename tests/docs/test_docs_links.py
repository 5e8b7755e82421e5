"""Links between the pages, and their style."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import DOCS, Page, all_pages

PAGES = all_pages()


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_relative_link_resolves(page: Page) -> None:
    """A link leads to a file or folder that is there and, behind ``#``, to a heading of that page."""
    broken = []
    for link in page.links:
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.path.parent / path).resolve() if path else page.path
        if not target.exists() or (anchor and anchor not in Page(target).anchors):
            broken.append(link)
    assert not broken


def test_every_page_is_reached_from_the_index() -> None:
    """Whoever begins at the index finds every page of the documentation, and the README leads there."""
    found = {PAGES[0].path}
    waiting = [PAGES[0]]
    while waiting:
        page = waiting.pop()
        targets = {(page.path.parent / link.partition("#")[0]).resolve() for link in page.links}
        new = {target for target in targets if target.suffix == ".md" and target.is_file()} - found
        found |= new
        waiting += map(Page, new)
    assert set(DOCS.rglob("*.md")) <= found
    index = Page(DOCS / "index.md")
    listed = {(DOCS / link.partition("#")[0]).resolve() for link in index.links}
    assert set(DOCS.rglob("*.md")) - {index.path} <= listed


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_each_heading_of_a_page_has_an_anchor_of_its_own(page: Page) -> None:
    """Two headings of one page never make the same anchor."""
    if page.path.name == "CHANGELOG.md":
        pytest.skip("each version has the same headings")
    assert len(page.anchors) == len(page.headings)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_block_of_code_is_of_a_kind_that_is_tested(page: Page) -> None:
    """No block is of a language that these tests would pass over."""
    known = {"python", "console", "yaml", "ini", "conf", "sh", "text", "mermaid", ""}
    assert {block.language for block in page.blocks} <= known
