"""One worker process of a world: the real worker, whose handlers, deliveries and commits are watched."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import anyio
from anyio.abc import TaskStatus

from choreo.broker.answers import Answer
from choreo.broker.connection import Connection
from choreo.broker.gate import Begin, BeginUndo, Decision, Gate, Identity, Look, RetryUndo, Stuck, Undone
from choreo.broker.groups import Delivery
from choreo.errors import BrokerUnavailable
from choreo.model.participant import Participant, Step, Undo, wrapped
from choreo.runtime.delivery import Handling
from choreo.runtime.lives import apart
from choreo.runtime.parked import Work
from choreo.runtime.worker import Worker
from choreo.testing.stage import Call, Line, Stage, wake
from choreo.testing.world import without_loop


@dataclass(eq=False)
class Process:
    """One worker of one participant. It lives until it is stopped, or crashes."""

    stage: Stage
    participant: Participant
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    crashed: bool = False

    def __post_init__(self) -> None:
        self.name = self.participant.name
        self.line = Line(self.stage.world)
        self.broker = self.stage.connect(self.line)
        self.broker.gate = _StagedGate(self.broker.connection, self.stage.topology.keys, self)
        self._worker = _StagedWorker(self)

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Work until stopped, or until the process crashes."""
        self.line.process = self
        with self.scope:
            await self._worker.run(task_status=task_status)
        await self.broker.connection.close()

    def stop(self) -> None:
        """Let the worker finish what it has in hand, and end."""
        self._worker.stop()
        wake(self.broker)

    def crash(self) -> BrokerUnavailable:
        """The process is gone: it finishes nothing, and says goodbye to nobody.

        Returns what to raise where the caller cannot be cancelled.
        """
        if not self.crashed:
            self.crashed = self.line.dead = self.stage.shaken = True
            self.scope.cancel()
            self.stage.crash(self)
        return BrokerUnavailable("this process has crashed")

    def wrap(self, step: Step[Any], handler: Step[Any] | Undo) -> Callable[..., Any]:
        """The handler as it runs here: faults come before and after it, and no thread is needed."""
        label = f"{step.participant}/{step.name}"
        if isinstance(handler, Undo):
            label += f"/{handler.name}"
        function, takes_context = handler.function, handler.takes_context

        @functools.wraps(function)
        async def run(*arguments: Any) -> Any:
            call = Call(label, arguments[-1], self)
            await self.stage.watcher.before(call)
            result = await self._run(function, arguments if takes_context else arguments[:-1])
            await self.stage.watcher.after(call)
            return result

        return run

    async def _run(self, function: Callable[..., Any], arguments: Sequence[Any]) -> Any:
        self.stage.running += 1
        try:
            if inspect.iscoroutinefunction(function):
                return await function(*arguments)
            with without_loop():
                return function(*arguments)
        finally:
            self.stage.running -= 1


class _StagedWorker(Worker):
    """A worker whose handlers and deliveries are watched."""

    def __init__(self, process: Process) -> None:
        stage = process.stage
        super().__init__(
            wrapped(process.participant, process.wrap), stage.topology, process.broker,
            options=stage.options, clock=stage.world.clock,
        )  # fmt: skip
        self._process = process
        self.stopwatch = stage.world.loop.time

    def _make_handling(self, resources: Any) -> Handling:
        handling = super()._make_handling(resources)
        handling.fresh = -1  # no time passes between a step and the next: everything would seem fresh
        handling.draft = dataclasses.replace(handling.draft, make_token=self._process.stage.make_token)
        return handling

    async def _leave(self) -> None:
        if not self._process.stage.closing:  # else nobody is left to take over what is handed over
            await super()._leave()

    async def _handle(self, handling: Handling, delivery: Delivery, work: Work, asked: bool) -> None:
        stage = self._process.stage
        stage.in_hand += 1
        try:
            await apart(lambda: stage.watcher.arriving(self._process, delivery, work))
            await super()._handle(handling, delivery, work, asked)
        finally:
            stage.in_hand -= 1


class _StagedGate(Gate):
    """Tells of decisions before and after they are committed."""

    def __init__(self, connection: Connection, keys: Any, process: Process) -> None:
        super().__init__(connection, keys)
        self._process = process

    async def decide(
        self, identity: Identity, now: int, batches: Sequence[tuple[int, Sequence[Decision]]]
    ) -> list[list[Answer] | Exception]:
        decisions = [decision for _, batch in batches for decision in batch]
        watcher = self._process.stage.watcher
        await watcher.committing(self._process, decisions)
        answers = await super().decide(identity, now, batches)
        await watcher.committed(self._process, decisions)
        return answers


def handler_of(process: Process, decision: Decision) -> str:
    """The handler that a decision is about, as :attr:`Call.handler` names it."""
    step = f"{process.name}/{decision.head.step}"
    return f"{step}/{decision.undo}" if isinstance(decision, BeginUndo | RetryUndo | Undone | Stuck) else step


def settles(decision: Decision) -> bool:
    """Whether a decision says what came of a handler, and not only asks whether it may run."""
    return not isinstance(decision, Look | Begin | BeginUndo)
