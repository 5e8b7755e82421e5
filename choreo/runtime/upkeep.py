"""Leases: keeping one's own, and taking over what dead workers left."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import anyio

from choreo.broker.clock import Clock
from choreo.broker.gate import Identity
from choreo.broker.groups import Delivery, Groups, Held
from choreo.errors import BrokerError
from choreo.runtime.slots import Slots
from choreo.wire.limits import MAX_BATCH

logger = logging.getLogger("choreo.runtime")

#: Takes deliveries in hand.
Dispatch = Callable[[Sequence[Delivery]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Upkeep:
    """The leases of one worker. ``lease`` is in seconds."""

    groups: Groups
    identity: Identity
    streams: Mapping[str, int]
    """Stream key -> its partition."""
    slots: Slots
    lease: float
    clock: Clock

    async def renew_leases(self) -> None:
        """Renew the lease of everything in hand, thrice per lease, until cancelled."""
        while True:
            await anyio.sleep(self.lease / 3)
            for held in _chunks(self.slots.held(), MAX_BATCH):
                try:
                    await self.groups.renew(self.identity, held)
                except BrokerError as error:
                    logger.debug("leases were not renewed: %s", error)

    async def recover(self, stopping: anyio.Event, dispatch: Dispatch) -> None:
        """Take over deliveries whose lease has run out, as far as there are free slots, until stopped."""
        while not stopping.is_set():
            try:
                await self._sweep(dispatch)
            except BrokerError as error:
                logger.debug("no sweep for lost deliveries: %s", error)
            with anyio.move_on_after(self.lease / 2 * random.uniform(0.8, 1.0)):
                await stopping.wait()

    async def _sweep(self, dispatch: Dispatch) -> None:
        lease = int(self.lease * 1000)
        overdue = await self.groups.overdue(self.identity, list(self.streams), lease, MAX_BATCH)
        for stream, entries in overdue.items():
            # What this worker runs itself is late, not lost: claiming it would run it twice.
            lost = [entry for entry in entries if not self.slots.holds(stream, entry)][: self.slots.free]
            if lost:
                held = Held(stream, self.streams[stream], lost)
                taken, gone = await self.groups.claim(self.identity, held, lease, self.clock())
                logger.info("%s: took over %d of %s", self.identity.participant, len(taken), stream)
                for entry in gone:
                    logger.error("%s: entry %s of %s was deleted before it was handled; it is a dead letter",
                                 self.identity.participant, entry, stream)  # fmt: skip
                await dispatch(taken)


def _chunks(held: dict[str, list[str]], size: int) -> list[dict[str, list[str]]]:
    return [
        {stream: entries[at : at + size]}
        for stream, entries in held.items()
        for at in range(0, len(entries), size)
    ]
