"""Trackers side by side: what one is at work on, the others leave alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from choreo.broker.projections import Standing
from choreo.broker.retention import order_of


@dataclass(slots=True)
class _Left:
    """A partition that was left to another tracker, and how it stood when it was looked at last."""

    looks: int = 0
    last: Standing | None = None


class Sharing:
    """The partitions of which this tracker was told that another one is at work there.

    Trackers need not agree about who does what: of two writes the second is refused. Whoever was refused
    leaves the partition to the other, and looks from time to time how it fares. It goes on there when nothing
    was written since the last look, for the other may be gone; and when the other has not come since then to
    where the streams ended, for it has too much to do, and this one has not. Each such help makes it wait
    longer before the next: what is too much for every tracker must not change hands all the time.
    """

    def __init__(self) -> None:
        self._left: dict[int, _Left] = {}
        #: How the other partitions stood at the last look.
        self._own: Mapping[int, Standing] = {}
        #: Partition -> how many looks must show that it is late before this tracker helps again.
        self._reluctance: dict[int, int] = {}
        self._due = 0.0

    def leave(self, partition: int) -> None:
        """Another tracker has written first."""
        self._left[partition] = _Left()

    def left(self, partition: int) -> bool:
        """Whether another tracker is at work on a partition, as far as is known."""
        return partition in self._left

    def is_due(self, now: float) -> bool:
        """Whether to look how others fare."""
        return bool(self._left) and now >= self._due

    @property
    def settled(self) -> bool:
        """Whether the others were seen to keep up with all that was left to them."""
        return all(each.looks > 1 for each in self._left.values())

    def look(self, standings: Mapping[int, Standing], due: float) -> None:
        """See how all partitions stand, and stop leaving to others what they do not do. Of what they do too
        slowly, this tracker takes over one partition at a time. ``due`` says when to look once more."""
        own = {partition: each for partition, each in standings.items() if partition not in self._left}
        idle = not any(_is_late(each, self._own.get(partition)) for partition, each in own.items())
        self._own, self._due = own, due
        for partition, left in list(self._left.items()):
            if self._goes_on(partition, left, standings[partition], idle=idle):
                del self._left[partition]
                idle = False

    def _goes_on(self, partition: int, left: _Left, standing: Standing, *, idle: bool) -> bool:
        last, left.last = left.last, standing
        left.looks += 1
        if last is not None and standing.version == last.version:
            return True
        reluctance = self._reluctance.get(partition, 1)
        helps = idle and _is_late(standing, last) and left.looks > reluctance
        if helps:
            self._reluctance[partition] = 2 * reluctance
        return helps


def _is_late(standing: Standing, last: Standing | None) -> bool:
    """Whether something is not projected yet that was there at the last look."""
    return last is not None and any(
        order_of(standing.positions.get(stream, "0-0")) < order_of(end) for stream, end in last.ends.items()
    )
