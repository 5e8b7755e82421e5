"""Turns: of many requests at once, only so many are under way; the others wait in line."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from types import TracebackType
from typing import Self

from choreo.errors import BrokerUnavailable


class Turns:
    """Lets ``count`` requests be under way at once. An async context manager, for as long as one is.

    A request's own time begins when it is its turn. Whoever waits in line is served in order, and waits
    for as long as answers come, however many are in front: a long line does not mean that the server is
    away. When there was none for ``patience`` seconds, all who wait give up.
    """

    def __init__(self, count: int, patience: float) -> None:
        self._free = count
        self._patience = patience
        self._line: deque[asyncio.Future[None]] = deque()
        self._answered = 0.0
        self._watch: asyncio.TimerHandle | None = None

    @property
    def free(self) -> bool:
        """Whether nobody has to wait."""
        return self._free > 0

    def note_answer(self) -> None:
        """The server has answered, whatever it said."""
        self._answered = time.monotonic()

    async def __aenter__(self) -> Self:
        """Wait for one's turn.

        Raises:
            BrokerUnavailable: if the server answers nobody.
        """
        if self._free:
            self._free -= 1
            return self
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(turn)
        if self._watch is None:
            self.note_answer()  # nobody has waited for one so far
            self._watch_for(self._patience)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._pass_on()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pass_on()

    def _pass_on(self) -> None:
        while self._line:
            turn = self._line.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    def _watch_for(self, seconds: float) -> None:
        due = time.monotonic() + seconds
        self._watch = asyncio.get_running_loop().call_later(seconds, self._look, due)

    def _look(self, due: float) -> None:
        """Is the server still there? One timer asks for all who wait."""
        now = time.monotonic()
        if now - due > self._patience / 2:
            self._answered = now  # this process was busy or paused: answers may lie there unread
        silent = now - self._answered
        if self._line and silent < self._patience:
            self._watch_for(self._patience - silent)
            return
        self._watch = None
        while self._line:
            turn = self._line.popleft()
            if not turn.done():
                turn.set_exception(BrokerUnavailable(f"no request was answered for {self._patience:g} s"))
