"""Several worker processes as one: they start, stop and fail together."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Mapping, Sequence

import anyio
from anyio.abc import Process

from choreo.cli import failures, serving

logger = logging.getLogger("choreo.supervisor")


class Supervisor:
    """Runs ``count`` processes of one command, until a signal comes or one of them ends by itself."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], count: int) -> None:
        self._command = command
        self._environment = environment
        self._count = count
        self._processes: list[Process] = []
        self._stopping = False
        self._failed = False

    async def run(self) -> int:
        """Returns the exit code: 0, or 1 if a process ended without being told to."""
        lifeline, ours = os.pipe()
        try:
            orders = serving.Orders(self._stop, self._end_at_once)
            async with serving.obeying(orders), anyio.create_task_group() as waiting:
                for number in range(1, self._count + 1):
                    if not self._stopping:
                        waiting.start_soon(self._wait, number, await self._start(lifeline))
        finally:
            self._kill()
            os.close(lifeline)
            os.close(ours)
        return failures.BAD_NEWS if self._failed else failures.FINE

    async def _start(self, lifeline: int) -> Process:
        # In a session of its own: Ctrl-C is for us, and we pass it on.
        process = await anyio.open_process(
            [*self._command, "--lifeline", str(lifeline)],
            stdin=None, stdout=None, stderr=None, env=self._environment,
            pass_fds=[lifeline], start_new_session=True,
        )  # fmt: skip
        self._processes.append(process)
        if self._stopping:
            process.terminate()
        return process

    async def _wait(self, number: int, process: Process) -> None:
        code = await process.wait()
        if not self._stopping:
            self._failed = True
            logger.error("worker %d (process %d) %s; stopping the others", number, process.pid, _how(code))
            self._stop()

    def _stop(self) -> None:
        self._stopping = True
        for process in self._running():
            process.terminate()

    def _kill(self) -> None:
        for process in self._running():
            process.kill()

    def _end_at_once(self, number: int) -> None:
        self._kill()
        serving.end_at_once(number)

    def _running(self) -> list[Process]:
        return [process for process in self._processes if process.returncode is None]


async def supervise(command: Sequence[str], environment: Mapping[str, str], count: int) -> int:
    """Run ``count`` processes of ``command`` until told to stop; see :class:`Supervisor`."""
    return await Supervisor(command, environment, count).run()


def _how(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
