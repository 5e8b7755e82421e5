"""Entries that a participant listens to the stream of, and has no step for: nobody decides about them."""

from __future__ import annotations

import logging

import anyio

from choreo.broker.groups import Groups
from choreo.broker.patience import Outage, Patience
from choreo.errors import BrokerError

logger = logging.getLogger("choreo.runtime")


class Unwanted:
    """Acknowledges such entries beside the reading, many at a time: what comes after does not wait for it.

    One that a process does not come to acknowledge is delivered again, and found unwanted again.
    """

    def __init__(self, groups: Groups, participant: str, outage: Outage) -> None:
        self._groups = groups
        self._participant = participant
        self._patience = Patience(logger, "acknowledging", outage)
        self._entries: dict[str, list[str]] = {}
        self._arrived = anyio.Event()

    def add(self, stream: str, entry: str) -> None:
        """Have an entry acknowledged soon."""
        self._entries.setdefault(stream, []).append(entry)
        self._arrived.set()

    async def run(self) -> None:
        """Acknowledge until cancelled. Waits for a server that cannot serve."""
        while True:
            await self._arrived.wait()
            try:
                await self.flush()
            except BrokerError as error:
                await self._patience.pause(error)
            else:
                self._patience.succeeded()

    async def flush(self) -> None:
        """Acknowledge what there is.

        Raises:
            BrokerError: if the server cannot serve now; then nothing is forgotten.
        """
        entries, self._entries, self._arrived = self._entries, {}, anyio.Event()
        if not entries:
            return
        try:
            await self._groups.acknowledge(self._participant, entries)
        except BrokerError:
            for stream, ids in entries.items():
                self._entries.setdefault(stream, []).extend(ids)
            self._arrived.set()
            raise
