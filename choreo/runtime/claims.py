"""Taking in hand what the server has given to some worker already: to a dead one, or to this one."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from choreo.broker.clock import Clock
from choreo.broker.gate import Identity
from choreo.broker.groups import Delivery
from choreo.broker.leases import Held, Leases
from choreo.runtime.slots import Slots

logger = logging.getLogger("choreo.runtime")

#: Takes deliveries in hand.
Dispatch: TypeAlias = Callable[[Sequence[Delivery]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Claims:
    """The claims of one worker."""

    leases: Leases
    identity: Identity
    slots: Slots
    clock: Clock

    async def take_over(self, held: Held, lease: float, dispatch: Dispatch) -> None:
        """Take over deliveries whose lease (seconds) has run out."""
        taken = await self._claim(held, round(lease * 1000), dispatch)
        logger.info("%s: took over %d of %s", self.identity.participant, taken, held.stream)

    async def take_in_hand(self, held: Held, dispatch: Dispatch) -> None:
        """Take in hand what is this worker's already; the answer that said so was lost."""
        taken = await self._claim(held, None, dispatch)
        logger.info("%s: found %d of %s that an answer was lost about",
                    self.identity.participant, taken, held.stream)  # fmt: skip

    async def _claim(self, held: Held, lease: int | None, dispatch: Dispatch) -> int:
        back = self.slots.is_inbox(held.stream)
        with self.slots.booking(len(held.entries), back=back):
            taken, gone = await self.leases.claim(self.identity, held, lease, self.clock())
        for entry in gone:
            logger.error("%s: entry %s of %s was deleted before it was handled; it is a dead letter",
                         self.identity.participant, entry, held.stream)  # fmt: skip
        await dispatch(taken)
        return len(taken)
