"""What a worker has in hand, and how much more it may take."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager

import anyio

from choreo.broker.groups import Delivery

#: A delivery that has outlived so many workers may be what kills them.
SUSPECT = 3


class Slots:
    """Counts deliveries in hand: never more than ``limit``, booked ones included.

    Whoever asks the server for deliveries books slots for them first, and so never holds more than it
    can run. A quarter of the slots, at least one if there are two, is never given to topics: undos and
    retries, which come through ``inboxes``, do not wait behind a backlog of events. As many are never
    given to inboxes: events do not wait behind thousands of retries.
    """

    def __init__(self, limit: int, inboxes: Collection[str] = ()) -> None:
        self._limit = limit
        self._reserve = max(1, limit // 4) if limit > 1 else 0
        self._inboxes = frozenset(inboxes)
        self._held: dict[tuple[str, str], Delivery] = {}
        self._taken = {True: 0, False: 0}
        self._booked = {True: 0, False: 0}
        self._kept = {True: 0, False: 0}
        self._released = asyncio.Event()
        self._closed = False
        #: Held by whoever puts in hand what is this worker's by the server's account already.
        self.claiming = anyio.Lock()

    def free(self, *, back: bool, lost: bool = False) -> int:
        """How many more deliveries may be booked: of the way back, from inboxes, or from topics.

        ``lost``: for deliveries that are taken over from dead workers, which slots may be kept for.
        """
        free = self._limit - len(self._held) - sum(self._booked.values())
        mine = self._limit - self._reserve - self._taken[back] - self._booked[back]
        if not lost:
            free -= sum(self._kept.values())
            mine -= self._kept[back]
        return max(0, min(free, mine))

    def keep_for_lost(self, wanted: Mapping[bool, int]) -> None:
        """Keep slots, as soon as they are free, for so many deliveries of dead workers from inboxes and from
        topics; a quarter at most. What is read takes every slot otherwise, for as long as there is a backlog.
        """
        most = max(1, self._limit // 4)
        self._kept = {back: min(wanted.get(back, 0), most) for back in (True, False)}
        self._pulse()

    def idle_share(self, *, back: bool) -> int:
        """How many slots may stay booked while there is nothing to read."""
        return self._reserve if back else self._limit // 2

    @contextmanager
    def booking(self, count: int, *, back: bool) -> Iterator[None]:
        """Keep so many slots for what a block of code asks for. It must :meth:`hold` that right after."""
        self._booked[back] += count
        try:
            yield
        finally:
            self._booked[back] -= count
            self._pulse()

    def is_inbox(self, stream: str) -> bool:
        """Whether what this stream delivers is of the way back."""
        return stream in self._inboxes

    @property
    def in_hand(self) -> int:
        """How many deliveries are in hand."""
        return len(self._held)

    @property
    def closed(self) -> bool:
        """Whether nothing more is to be taken."""
        return self._closed

    @property
    def suspects(self) -> int:
        """How many deliveries are in hand that have outlived several workers."""
        return sum(each.deliveries > SUSPECT for each in self._held.values())

    def holds(self, stream: str, entry: str) -> bool:
        """Whether this delivery is in hand."""
        return (stream, entry) in self._held

    def held(self) -> dict[str, list[str]]:
        """Everything in hand: stream key -> entry ids. May be called from any thread."""
        found: dict[str, list[str]] = {}
        for stream, entry in list(self._held):
            found.setdefault(stream, []).append(entry)
        return found

    def hold(self, delivery: Delivery) -> None:
        """Note that a delivery is in hand."""
        key = (delivery.stream, delivery.entry)
        if key not in self._held:
            self._taken[self.is_inbox(delivery.stream)] += 1
        self._held[key] = delivery

    def release(self, delivery: Delivery) -> None:
        """Note that a delivery is not in hand any more."""
        # Its lease may have run out and this same worker have claimed it again meanwhile.
        if self._held.get((delivery.stream, delivery.entry)) is delivery:
            del self._held[delivery.stream, delivery.entry]
            self._taken[self.is_inbox(delivery.stream)] -= 1
        self._pulse()

    def close(self) -> None:
        """Nothing more is to be taken: whoever waits for a free slot need not."""
        self._closed = True
        self._pulse()

    def _pulse(self) -> None:
        # A batch of deliveries is released at once, and wakes whoever waits once.
        if not self._released.is_set():
            self._released.set()

    async def _wait_for_release(self) -> None:
        self._released.clear()
        await self._released.wait()

    async def wait_for_free(self, gather: float, *, back: bool) -> int:
        """Wait until a delivery may be taken; if few may, up to ``gather`` seconds more for others.

        Returns how many may be taken: at least one, unless :meth:`close` was called.
        """
        while not self.free(back=back) and not self._closed:
            await self._wait_for_release()
        if gather and self._are_few(back):
            with anyio.move_on_after(gather):
                while self._are_few(back):
                    await self._wait_for_release()
        return self.free(back=back)

    def _are_few(self, back: bool) -> bool:
        return self.free(back=back) < self._enough(back) and not self._closed

    def _enough(self, back: bool) -> int:
        """Half of what may be had while the other side holds what it does."""
        others = self._taken[not back] + self._booked[not back]
        return max(1, min(self._limit - self._reserve, self._limit - others) // 2)

    async def wait_until_idle(self) -> None:
        """Wait until nothing is in hand."""
        while self._held:
            await self._wait_for_release()
