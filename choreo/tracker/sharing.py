"""Trackers side by side: what one is at work on, the others leave alone."""

from __future__ import annotations

from dataclasses import dataclass

from choreo.broker.projections import Standing
from choreo.broker.retention import order_of


@dataclass(slots=True)
class _Left:
    """A partition that was left to another tracker."""

    due: float
    """When to look at it again, by the event loop's clock."""
    looks: int = 0
    last: Standing | None = None
    """How it stood when it was looked at last."""


class Sharing:
    """The partitions of which this tracker was told that another one is at work there.

    Trackers need not agree about who does what: of two writes the second is refused. Whoever was refused
    leaves the partition to the other, and looks from time to time how it fares. It goes on there when nothing
    was written since the last look, for the other may be gone; and when the other has not come since then to
    where the streams ended, for it has too much to do. Each such help makes it wait longer before the next:
    what is too much for every tracker must not change hands all the time.
    """

    def __init__(self) -> None:
        self._left: dict[int, _Left] = {}
        #: Partition -> how many looks must show that it is late before this tracker helps again.
        self._reluctance: dict[int, int] = {}

    def leave(self, partition: int, now: float) -> None:
        """Another tracker has written first. How it stands is to be looked at now."""
        self._left[partition] = _Left(due=now)

    def left(self, partition: int) -> bool:
        """Whether another tracker is at work on a partition, as far as is known."""
        return partition in self._left

    def is_due(self, partition: int, now: float) -> bool:
        """Whether to look how another tracker fares with a partition."""
        left = self._left.get(partition)
        return left is not None and now >= left.due

    @property
    def settled(self) -> bool:
        """Whether the others were seen to keep up with all that was left to them."""
        return all(each.looks > 1 for each in self._left.values())

    def look(self, partition: int, standing: Standing, due: float, *, idle: bool) -> bool:
        """See how a partition stands that was left. Returns whether to go on with it.

        ``due`` says when to look once more if not, ``idle`` whether this tracker has time to help.
        """
        left = self._left[partition]
        last, left.last = left.last, standing
        left.looks, left.due = left.looks + 1, due
        if last is None:
            return False
        gone = standing.version == last.version
        helps = idle and _is_late(standing, last) and left.looks > self._reluctance.get(partition, 1)
        if helps and not gone:
            self._reluctance[partition] = 2 * self._reluctance.get(partition, 1)
        if gone or helps:
            del self._left[partition]
        return gone or helps


def _is_late(standing: Standing, last: Standing) -> bool:
    """Whether something is not projected yet that was there at the last look."""
    return any(
        order_of(standing.positions.get(stream, "0-0")) < order_of(end) for stream, end in last.ends.items()
    )
