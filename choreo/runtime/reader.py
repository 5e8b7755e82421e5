"""Reading what is delivered to a worker, as far as it has free slots."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Mapping, Sequence

import anyio

from choreo.broker.broker import Broker
from choreo.broker.groups import Taken
from choreo.broker.leases import Held
from choreo.broker.patience import Patience
from choreo.errors import BrokerRefused
from choreo.runtime.claims import Claims, Dispatch
from choreo.wire.limits import MAX_BATCH

logger = logging.getLogger("choreo.runtime")

#: Seconds between looks at a server that cannot hold a read (fakeredis), if nothing wakes the reader.
_POLL = 0.05
#: Seconds that a reader lets slots gather before it reads for a few of them.
_GATHER = 0.005
#: Seconds for which streams are read by the script that passes by what is no stream.
_APART = 5.0


class Reader:
    """Reads the inboxes of a worker, or its topics, over a connection of its own.

    ``streams``: key -> partition. ``back``: whether these are inboxes; see :class:`Slots` for what that
    means.
    """

    def __init__(self, broker: Broker, claims: Claims, streams: Mapping[str, int], *, back: bool) -> None:
        self._broker = broker
        self._claims = claims
        self._slots = claims.slots
        self._streams = streams
        self._order = deque(streams)
        self._back = back
        self._more = True
        #: Streams that had enough when they were read last: those to be read in this round, and in the next.
        self._full: deque[str] = deque()
        self._next_round: deque[str] = deque()
        self._doubtful = False
        self._apart_until = 0.0
        self._obstacles = Patience(logger, f"{claims.identity.participant}: reading a stream")

    def doubt(self) -> None:
        """Something may have been delivered without this worker learning of it: look for that first."""
        self._doubtful = True

    async def read(self, dispatch: Dispatch) -> None:
        """Wait for free slots, read once, and hand out what came. Waits about a second for it.

        Raises:
            NoGroup: if a group is gone.
            BrokerError: if the server cannot serve now, or refuses.
        """
        # Without a backlog there is nothing to gather for.
        free = await self._slots.wait_for_free(_GATHER if self._more else 0.0, back=self._back)
        if self._slots.closed:
            return
        done = False
        try:
            if self._doubtful and not await self._look_back(free, dispatch):
                free = 0
            # Also then: it is a read that shows whether the server serves.
            free = min(free, self._slots.free(back=self._back))
            if free and self._more:
                await self._read_now(free, dispatch)
            elif free:
                await self._wait(free, dispatch)
            done = True
        finally:
            if not done:
                self.doubt()

    async def _read_now(self, free: int, dispatch: Dispatch) -> None:
        """Read as much as there are free slots, and do not wait for it.

        What is read together is committed together, in one call per partition. So streams that had
        enough are read few at a time, each once and not for more than a call may hold, before the others are
        looked at again.
        """
        count = 0 if self._is_apart() else free // len(self._streams)
        if not count:
            self._more = bool((await self._take(free, dispatch)).deliveries)
            return
        if not self._full:
            self._full, self._next_round = self._next_round, self._full
            others = [key for key in self._next_order() if key not in self._full]
            if others:
                self._full.extend(await self._read(count, dispatch, others, wait=False))
                self._more = bool(self._full)
                return
        keys = [self._full.popleft() for _ in range(min(len(self._full), max(1, round(free / MAX_BATCH))))]
        count = min(MAX_BATCH, free // len(keys))
        self._next_round.extend(await self._read(count, dispatch, keys, wait=False))

    async def _wait(self, free: int, dispatch: Dispatch) -> None:
        """Wait for something to come. That books but few slots: the other reader may need them."""
        count = min(free, self._slots.idle_share(back=self._back)) // len(self._streams)
        if count and not self._is_apart():
            self._full = deque(await self._read(count, dispatch, self._next_order(), wait=True))
            self._more = bool(self._full)
            return
        taken = await self._take(free, dispatch)
        if taken.deliveries:
            self._more = True
        elif not self._broker.connection.blocking:
            await self._broker.connection.wait_for_change(_POLL)
        elif taken.ends:
            self._more = await self._broker.groups.wait_behind(taken.ends)
        else:
            await anyio.sleep(_APART)

    async def _read(
        self, count: int, dispatch: Dispatch, keys: Sequence[str], *, wait: bool
    ) -> Sequence[str]:
        """Read up to ``count`` entries of each of ``keys``. Returns those that may have more."""
        try:
            with self._slots.booking(count * len(keys), back=self._back):
                found = await self._broker.groups.read(self._claims.identity, keys, count, wait=wait)
        except BrokerRefused:
            # A key may be no stream. The script passes it by; if it is refused as well, that is to be told.
            self._apart_until = anyio.current_time() + _APART
            return keys
        await dispatch(found)
        if wait and not found and not self._broker.connection.blocking:
            await self._broker.connection.wait_for_change(_POLL)
        read = Counter([each.stream for each in found])
        return [key for key in keys if read[key] == count]

    async def _take(self, count: int, dispatch: Dispatch) -> Taken:
        """Take up to ``count`` entries of all streams together."""
        count = min(count, MAX_BATCH)
        with self._slots.booking(count, back=self._back):
            taken = await self._broker.groups.take(self._claims.identity, self._next_order(), count)
        await dispatch(taken.deliveries)
        if taken.obstacle:
            self._apart_until = anyio.current_time() + _APART
            self._obstacles.failed(f"{taken.obstacle} is no stream; delete or rename it")
        else:
            self._obstacles.succeeded()
        return taken

    def _is_apart(self) -> bool:
        return anyio.current_time() < self._apart_until

    def _next_order(self) -> Sequence[str]:
        """The streams, another one first each time: others would starve while it has enough for all slots."""
        self._order.rotate(-1)
        return list(self._order)

    async def _look_back(self, free: int, dispatch: Dispatch) -> bool:
        """Take in hand what is this worker's by the server's account, and that it knows nothing of.

        Returns whether that was all of it.
        """
        async with self._slots.claiming:
            most = self._slots.in_hand + free + 1
            own = await self._broker.leases.own(self._claims.identity, list(self._streams), most)
            for stream, entries in own.items():
                unknown = [entry for entry, _ in entries if not self._slots.holds(stream, entry)]
                mine = unknown[: min(free, MAX_BATCH)]
                if mine:
                    await self._claims.take_in_hand(Held(stream, self._streams[stream], mine), dispatch)
                    free -= len(mine)
                if len(unknown) > len(mine):
                    return False
        self._doubtful = False
        return True
