"""Heartbeats: as long as a worker lives, what it has in hand stays its own.

They come from a thread and a connection of their own. So they go on while a handler blocks the event
loop; but not for ever: a loop that does not come back at all is as good as dead.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
from pathlib import Path

import anyio

from choreo.broker.broker import Broker
from choreo.broker.gate import Identity
from choreo.broker.pulse import Pulse
from choreo.errors import BrokerError
from choreo.runtime.slots import Slots
from choreo.wire.limits import MAX_BLOCKED_LEASES

logger = logging.getLogger("choreo.runtime")

#: Heartbeats per lease.
_BEATS = 3
_PACKAGE = str(Path(__file__).parents[1])
_LIBRARIES = ("site-packages", "dist-packages", "/lib/python", "<frozen")


class Heart:
    """Renews the leases of one worker. ``lease`` is in seconds."""

    def __init__(self, broker: Broker, identity: Identity, slots: Slots, lease: float) -> None:
        self._broker = broker
        self._identity = identity
        self._slots = slots
        self._lease = lease
        self._stopped = threading.Event()

    async def run(self) -> None:
        """Beat until cancelled. When this returns, the last beat is over."""
        if not self._broker.connection.blocking:
            await self._beat_in_loop()
            return
        loop = asyncio.get_running_loop()
        watch = _LoopWatch(loop, self._identity.participant, self._lease)
        thread = threading.Thread(target=self._beat, args=[watch], name="choreo heartbeats", daemon=True)
        thread.start()
        try:
            await anyio.sleep_forever()
        finally:
            self._stopped.set()
            with anyio.CancelScope(shield=True):
                while thread.is_alive():  # noqa: ASYNC110 - a thread has no event that a loop can wait for
                    await anyio.sleep(0.001)

    async def _beat_in_loop(self) -> None:
        """For a server that only this event loop can reach (fakeredis)."""
        while True:
            await anyio.sleep(self._lease / _BEATS)
            try:
                await self._broker.leases.renew(self._identity, self._slots.held())
            except BrokerError as error:
                logger.debug("leases were not renewed: %s", error)

    def _beat(self, watch: _LoopWatch) -> None:
        with Pulse(self._broker.connection) as pulse:
            while not self._stopped.wait(self._lease / _BEATS):
                if watch.is_dead():
                    continue
                try:
                    pulse.renew(self._identity, self._slots.held())
                except BrokerError as error:
                    logger.debug("leases were not renewed: %s", error)


class _LoopWatch:
    """Watches an event loop from another thread. ``lease`` is in seconds. Made in the loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, who: str, lease: float) -> None:
        self._loop = loop
        self._thread = threading.get_ident()
        self._who = who
        self._lease = lease
        self._answered = self._looked = time.monotonic()
        self._asked = False
        self._told = 0

    def is_dead(self) -> bool:
        """Whether the loop has not come back for so long that it is given up. Logs when it hangs."""
        now = time.monotonic()
        if now - self._looked > self._lease:
            self._answered = now  # the whole process was paused: that is not the loop's fault
        self._looked = now
        silent = now - self._answered
        dead = silent > MAX_BLOCKED_LEASES * self._lease
        if silent > self._lease and not self._told:
            self._told = 1
            logger.warning("%s: %s has blocked the event loop for %.1f s; every handler waits for it."
                           " Await there, or make the handler a plain function: those run in threads",
                           self._who, self._what_runs(), silent)  # fmt: skip
        if dead and self._told == 1:
            self._told = 2
            logger.error("%s: the event loop is given up after %.1f s: others take over what it holds",
                         self._who, silent)  # fmt: skip
        if not self._asked:
            self._asked = True
            try:
                self._loop.call_soon_threadsafe(self._answer)
            except RuntimeError:  # the loop is closed
                return True
        return dead

    def _answer(self) -> None:
        self._answered = time.monotonic()
        self._asked = False
        self._told = 0

    def _what_runs(self) -> str:
        """Where the loop's thread is: the innermost place in code that is the user's own."""
        frame = innermost = sys._current_frames().get(self._thread)
        while frame is not None:
            file = frame.f_code.co_filename
            if not file.startswith(_PACKAGE) and not any(part in file for part in _LIBRARIES):
                break
            frame = frame.f_back
        frame = frame or innermost
        if frame is None:
            return "something"
        return f"{frame.f_code.co_name} ({frame.f_code.co_filename}:{frame.f_lineno})"
