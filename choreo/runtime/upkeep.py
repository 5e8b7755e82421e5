"""What a worker does beside handling: taking over what dead workers left, and tidying up after them."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import anyio

from choreo.broker.leases import START, Held
from choreo.errors import BrokerError
from choreo.runtime.claims import Claims, Dispatch
from choreo.runtime.slots import SUSPECT
from choreo.wire.limits import MAX_BATCH

logger = logging.getLogger("choreo.runtime")

#: Seconds between sweeps at most: what a stopping worker hands over shall not lie for long.
_SWEEP_PAUSE = 1.0
#: Seconds between sweeps while deliveries wait that are taken one at a time, or for a free slot.
_SUSPECT_PAUSE = 0.2
#: Seconds between looks for consumers that are gone, and for which they must have been gone at least.
_TIDY_PAUSE = 30.0
_GONE = 60.0
_GONE_LEASES = 10


@dataclass(frozen=True, slots=True)
class Upkeep:
    """The upkeep of one worker. ``lease`` is in seconds."""

    claims: Claims
    streams: Mapping[str, int]
    """Stream key -> its partition."""
    lease: float
    doubt: Callable[[], None]
    """Called when something may have been claimed and the answer was lost."""
    paused: Callable[[], bool]
    """Says whether nothing is to be taken over now."""

    async def recover(self, stopping: anyio.Event, dispatch: Dispatch) -> None:
        """Take over deliveries whose lease has run out, as far as there are free slots, until stopped."""
        while not stopping.is_set():
            pause = min(self.lease / 2, _SWEEP_PAUSE) * random.uniform(0.8, 1.0)
            try:
                if not self.paused() and await self.sweep(dispatch):
                    pause = min(pause, _SUSPECT_PAUSE)
            except BrokerError as error:
                logger.debug("no sweep for lost deliveries: %s", error)
            with anyio.move_on_after(pause):
                await stopping.wait()

    async def sweep(self, dispatch: Dispatch) -> bool:
        """Take over once. Returns whether some are left: because no slot was free, or because they are
        suspects, deliveries that have outlived several workers.

        One of them may be what kills workers, and the others just happened to be in the same hands. So
        they are taken one at a time: the innocent ones are finished, and the culprit dies alone.
        """
        slots = self.claims.slots
        suspects: list[tuple[str, str]] = []
        left: Counter[bool] = Counter()
        after = dict.fromkeys(self.streams, START)
        while after:
            page = await self.claims.leases.overdue(
                self.claims.identity, after, round(self.lease * 1000), MAX_BATCH
            )
            for stream, entries in page.items():
                # What this worker runs itself is late, not lost: claiming it would run it twice.
                lost = [(entry, count) for entry, count in entries if not slots.holds(stream, entry)]
                suspects += [(stream, entry) for entry, count in lost if count >= SUSPECT]
                fresh = [entry for entry, count in lost if count < SUSPECT]
                left[slots.is_inbox(stream)] += await self._take_over(stream, fresh, dispatch)
            after = {stream: entries[-1][0] for stream, entries in page.items() if len(entries) == MAX_BATCH}
            if not slots.free(back=True, lost=True) and not slots.free(back=False, lost=True):
                break
        if suspects and not slots.suspects:
            stream, entry = suspects[0]
            left[slots.is_inbox(stream)] += await self._take_over(stream, [entry], dispatch)
        slots.keep_for_lost(left)
        return bool(suspects or slots.suspects or left.total())

    async def _take_over(self, stream: str, lost: list[str], dispatch: Dispatch) -> int:
        """Take over as many as there are free slots. Returns how many are left."""
        slots = self.claims.slots
        async with slots.claiming:
            entries = lost[: slots.free(back=slots.is_inbox(stream), lost=True)]
            try:
                if entries:
                    held = Held(stream, self.streams[stream], entries)
                    await self.claims.take_over(held, self.lease, dispatch)
            except BrokerError:
                self.doubt()
                raise
        return len(lost) - len(entries)

    async def tidy(self) -> None:
        """Remove consumers of workers that are gone, now and then, until cancelled."""
        gone = max(_GONE, _GONE_LEASES * self.lease)
        while True:
            await anyio.sleep(_TIDY_PAUSE * random.uniform(0.8, 1.2))
            try:
                removed = await self.claims.leases.tidy(
                    self.claims.identity, list(self.streams), round(gone * 1000)
                )
            except BrokerError as error:
                logger.debug("no look for consumers that are gone: %s", error)
            else:
                if removed:
                    logger.info("%s: removed %d consumers that are gone",
                                self.claims.identity.participant, removed)  # fmt: skip
