"""Trackers side by side: what one is at work on, the others leave alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from choreo.broker.projections import Progress
from choreo.broker.retention import order_of


@dataclass(slots=True)
class _Left:
    """A partition that was left to another tracker, and how it stood when it was looked at last."""

    again: float
    """When to look again, by the event loop's clock."""
    version: int = -1
    ends: Mapping[str, str] = field(default_factory=dict)
    """Stream -> the id that it had given last."""


class Sharing:
    """The partitions of which this tracker was told that another one is at work there.

    Trackers need not agree about who does what: of two writes the second is refused. Whoever was refused
    leaves the partition to the other, and looks from time to time how it fares. It is taken back when nothing
    was written since the last look, for the other may be gone; and when the other has not come since then to
    where the streams ended, for it has too much to do.
    """

    def __init__(self) -> None:
        self._left: dict[int, _Left] = {}

    def leave(self, partition: int, now: float) -> None:
        """Another tracker has written first."""
        self._left[partition] = _Left(again=now)

    def left(self, partition: int) -> bool:
        """Whether another tracker is at work on a partition, as far as is known."""
        return partition in self._left

    def rests(self, partition: int, now: float) -> bool:
        """Whether it is too soon to look at it again."""
        left = self._left.get(partition)
        return left is not None and now < left.again

    def take_back(
        self, partition: int, progress: Progress, ends: Mapping[str, str], again: float, *, idle: bool
    ) -> bool:
        """Whether this tracker should work on a partition that it has left.

        ``progress`` and ``ends`` (stream -> the id that it gave last) say how it stands now, ``again`` when
        to look once more if it is left alone, ``idle`` whether this tracker has time to help.
        """
        left = self._left.get(partition)
        if left is None:
            return True
        at = progress.positions
        late = any(order_of(at[stream]) < order_of(end) for stream, end in left.ends.items())
        if progress.version == left.version or (late and idle):
            del self._left[partition]
            return True
        self._left[partition] = _Left(again, progress.version, ends)
        return False

    def forget(self) -> bool:
        """Take everything back. Returns whether there was anything."""
        any_left = bool(self._left)
        self._left.clear()
        return any_left
