"""Waiting for what a test expects."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

#: Seconds after which a test that waits has failed.
PATIENCE = 15.0


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait until something is the case."""
    with anyio.fail_after(PATIENCE):
        while True:
            met = condition()
            if met if isinstance(met, bool) else await met:
                return
            await anyio.sleep(0.003)
