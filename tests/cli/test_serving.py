"""What processes that serve do about themselves."""

from __future__ import annotations

import gc
import weakref

from choreo.cli.serving import sparing_the_collector


class Loop:
    """Refers to itself, so that only the collector frees it."""

    def __init__(self) -> None:
        self.me = self


def test_garbage_is_looked_for_rarely_but_found() -> None:
    """For a block of code the collector runs less often; cycles are freed all the same, and then all is as before."""
    before = gc.get_threshold()
    with sparing_the_collector():
        rare = gc.get_threshold()[0]
        assert rare > before[0]
        lost = weakref.ref(Loop())
        kept = [[] for _ in range(2 * rare)]
        assert lost() is None
        assert len(kept) == 2 * rare
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0
