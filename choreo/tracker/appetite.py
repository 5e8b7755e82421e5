"""How much the tracker reads at once: many small entries, or few large ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from choreo.broker.projections import Entry

#: Entries of all streams together with which reading begins, before it is known how large they are.
_FIRST = 64
#: Bytes of one read that are too many, so that the next one is for fewer entries; and so few that it may
#: be for more.
_TOO_MUCH = 4 * 1024 * 1024
_LITTLE = _TOO_MUCH // 4


class Appetite:
    """How many entries of each stream are read at once.

    An answer must come within a command's timeout and has to fit into memory. Thousands of entries of a
    hundred bytes do, thousands of the largest do not: the tracker would ask for the same again for ever.
    """

    def __init__(self, most: int, streams: int) -> None:
        self._most = most
        self._first = min(most, max(1, _FIRST // streams))
        self.count = self._first

    def note(self, read: Mapping[str, Sequence[Entry]]) -> None:
        """Learn from what was read."""
        size = sum([sum(map(len, fields.values())) for entries in read.values() for _, fields in entries])
        if size > _TOO_MUCH:
            self.count = max(1, self.count // 2)
        elif size < _LITTLE and any(len(entries) >= self.count for entries in read.values()):
            self.count = min(self._most, self.count * 2)

    def lose(self) -> None:
        """Something went wrong; it may be that too much was asked."""
        self.count = max(1, min(self.count // 2, self._first))
