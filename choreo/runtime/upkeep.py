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
from choreo.runtime.slots import SUSPECT, Slots
from choreo.wire.limits import MAX_BATCH

logger = logging.getLogger("choreo.runtime")

#: Seconds between sweeps at most: what a stopping worker hands over shall not lie for long.
_SWEEP_PAUSE = 1.0
#: Seconds between sweeps while deliveries wait that are taken one at a time.
_SUSPECT_PAUSE = 0.2
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
            pause = min(self.lease / 2, _SWEEP_PAUSE) * random.uniform(0.8, 1.0)
            try:
                if await self._sweep(dispatch):
                    pause = min(pause, _SUSPECT_PAUSE)
            except BrokerError as error:
                logger.debug("no sweep for lost deliveries: %s", error)
            with anyio.move_on_after(pause):
                await stopping.wait()

    async def _sweep(self, dispatch: Dispatch) -> bool:
        """Returns whether suspects are left: deliveries that have outlived several workers.

        One of them may be what kills workers, and the others just happened to be in the same hands. So
        they are taken one at a time: the innocent ones are finished, and the culprit dies alone.
        """
        lease = int(self.lease * 1000)
        overdue = await self.groups.overdue(self.identity, list(self.streams), lease, MAX_BATCH)
        suspects = []
        for stream, entries in overdue.items():
            # What this worker runs itself is late, not lost: claiming it would run it twice.
            lost = [(entry, count) for entry, count in entries if not self.slots.holds(stream, entry)]
            suspects += [(stream, entry) for entry, count in lost if count >= SUSPECT]
            fresh = [entry for entry, count in lost if count < SUSPECT][: self.slots.free]
            if fresh:
                await self._take_over(Held(stream, self.streams[stream], fresh), dispatch)
        if suspects and not self.slots.suspects and self.slots.free:
            stream, entry = suspects.pop(0)
            await self._take_over(Held(stream, self.streams[stream], [entry]), dispatch)
        return bool(suspects or self.slots.suspects)

    async def _take_over(self, held: Held, dispatch: Dispatch) -> None:
        taken, gone = await self.groups.claim(self.identity, held, int(self.lease * 1000), self.clock())
        logger.info("%s: took over %d of %s", self.identity.participant, len(taken), held.stream)
        for entry in gone:
            logger.error("%s: entry %s of %s was deleted before it was handled; it is a dead letter",
                         self.identity.participant, entry, held.stream)  # fmt: skip
        await dispatch(taken)


def _chunks(held: dict[str, list[str]], size: int) -> list[dict[str, list[str]]]:
    return [
        {stream: entries[at : at + size]}
        for stream, entries in held.items()
        for at in range(0, len(entries), size)
    ]
