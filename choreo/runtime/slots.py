"""What a worker has in hand, and how much more it may take."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from choreo.broker.groups import Delivery

#: A delivery that has outlived so many workers may be what kills them.
SUSPECT = 3


class Slots:
    """Counts deliveries in hand. No more than ``limit`` handlers run at once."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._semaphore = anyio.Semaphore(limit)
        self._held: dict[tuple[str, str], Delivery] = {}
        self._released = anyio.Event()
        self._closed = False

    @property
    def free(self) -> int:
        """How many more deliveries may be taken."""
        return max(0, self._limit - len(self._held))

    @property
    def suspects(self) -> int:
        """How many deliveries are in hand that have outlived several workers."""
        return sum(each.deliveries > SUSPECT for each in self._held.values())

    def holds(self, stream: str, entry: str) -> bool:
        """Whether this delivery is in hand."""
        return (stream, entry) in self._held

    def held(self) -> dict[str, list[str]]:
        """Everything in hand: stream key -> entry ids."""
        found: dict[str, list[str]] = {}
        for stream, entry in self._held:
            found.setdefault(stream, []).append(entry)
        return found

    def hold(self, delivery: Delivery) -> None:
        """Note that a delivery is in hand, running or waiting for a slot."""
        self._held[delivery.stream, delivery.entry] = delivery

    def release(self, delivery: Delivery) -> None:
        """Note that a delivery is not in hand any more."""
        # Its lease may have run out and this same worker have claimed it again meanwhile.
        if self._held.get((delivery.stream, delivery.entry)) is delivery:
            del self._held[delivery.stream, delivery.entry]
        self._pulse()

    def close(self) -> None:
        """Nothing more is to be taken: whoever waits for a free slot need not."""
        self._closed = True
        self._pulse()

    def _pulse(self) -> None:
        self._released.set()
        self._released = anyio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Wait for a slot, and occupy it."""
        async with self._semaphore:
            yield

    async def wait_for_free(self, gather: float) -> int:
        """Wait until a delivery may be taken; if few may, up to ``gather`` seconds more for others.

        Returns how many may be taken: at least one, unless :meth:`close` was called.
        """
        while not self.free and not self._closed:
            await self._released.wait()
        enough = max(1, self._limit // 4)
        with anyio.move_on_after(gather):
            while self.free < enough and not self._closed:
                await self._released.wait()
        return self.free

    async def wait_until_idle(self) -> None:
        """Wait until nothing is in hand."""
        while self._held:
            await self._released.wait()
