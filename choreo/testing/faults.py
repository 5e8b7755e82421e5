"""Faults that a test plants, each a small object that is told what happens and interferes at its moment.

========================  ============================================================================
:class:`Fail`             a handler raises an error
:class:`Hang`             a handler does not return
:class:`Crash`            a worker process is gone, at one of four moments
:class:`Duplicate`        a producer sends an event twice
:class:`Delay`            an event reaches its participants late
:class:`Reorder`          of what arrives together, the last comes first
:class:`Disconnect`       a commit's answer is lost, and then the server is away for a while
:class:`Jump`             the clock on the wall jumps ahead
:class:`Unwind`           an operator has a saga unwound, right after a step took effect
========================  ============================================================================
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass, field, fields
from typing import Literal

import anyio

from choreo.broker.gate import Decision, Done
from choreo.broker.groups import Delivery
from choreo.errors import BrokerUnavailable, SagaError
from choreo.runtime.parked import Work
from choreo.testing.process import Process, handler_of, settles
from choreo.testing.stage import Call, Watcher

Moment = Literal["before", "after effect", "before commit", "after commit"]
MOMENTS: tuple[Moment, ...] = ("before", "after effect", "before commit", "after commit")


class PlannedFailure(RuntimeError):
    """What a step raises when a test has it fail and gives no error of its own."""


@dataclass(repr=False)
class Fault(Watcher):
    """Something that goes wrong. It is planted in a harness as a copy, so one may be planted many times."""

    _: KW_ONLY
    times: int = 1
    """How often it happens."""
    happened: int = field(default=0, init=False, repr=False)
    """How often it has happened, in the harness where it is planted."""

    def __repr__(self) -> str:
        """As one would write it, without what need not be said."""
        parts: list[str] = []
        for each in sorted(fields(self), key=lambda each: bool(each.kw_only)):
            value = getattr(self, each.name)
            if each.init and value != each.default:
                shown = getattr(value, "__name__", None) or repr(value)
                parts.append(shown if not parts and not each.kw_only else f"{each.name}={shown}")
        return f"{type(self).__name__}({', '.join(parts)})"

    @property
    def is_through(self) -> bool:
        """Whether it has happened as often as it was to."""
        return self.happened >= self.times

    def _happens(self) -> bool:
        """Whether it is to happen now once more; if so, note that it does."""
        if self.happened >= self.times:
            return False
        self.happened += 1
        return True

    async def arriving(self, process: Process, delivery: Delivery, work: Work) -> None:
        """See :class:`~choreo.testing.stage.Watcher`."""

    async def before(self, call: Call) -> None:
        """See :class:`~choreo.testing.stage.Watcher`."""

    async def after(self, call: Call) -> None:
        """See :class:`~choreo.testing.stage.Watcher`."""

    async def committing(self, process: Process, decisions: Sequence[Decision]) -> None:
        """See :class:`~choreo.testing.stage.Watcher`."""

    async def committed(self, process: Process, decisions: Sequence[Decision]) -> None:
        """See :class:`~choreo.testing.stage.Watcher`."""

    async def on_the_way(self, process: Process) -> None:
        """See :class:`~choreo.testing.stage.Watcher`."""


@dataclass(repr=False)
class Fail(Fault):
    """``handler`` raises ``error``: before it runs, or ``"after effect"``, when it has run."""

    handler: str
    error: Exception | type[Exception] = PlannedFailure
    when: Literal["before", "after effect"] = "before"

    def __post_init__(self) -> None:
        _check_moment(self.when, MOMENTS[:2])

    async def before(self, call: Call) -> None:
        if self.when == "before":
            self._fail(call)

    async def after(self, call: Call) -> None:
        if self.when == "after effect":
            self._fail(call)

    def _fail(self, call: Call) -> None:
        if call.handler == self.handler and self._happens():
            raise self.error if isinstance(self.error, Exception) else self.error("a test had it fail")


@dataclass(repr=False)
class Hang(Fault):
    """``handler`` does not return, before it did anything: until its timeout, or for ever without one."""

    handler: str

    async def before(self, call: Call) -> None:
        if call.handler == self.handler and self._happens():
            await call.process.stage.hang()


@dataclass(repr=False)
class Crash(Fault):
    """The process in which ``handler`` runs is killed; another one takes its place at once.

    ``before``: before the handler runs. ``after effect``: when it has run, and its outcome is known to
    nobody yet. ``before commit``: when its outcome is about to be sent. ``after commit``: when it has been
    committed, and the process has not learnt so.
    """

    handler: str
    when: Moment = "after effect"

    def __post_init__(self) -> None:
        _check_moment(self.when, MOMENTS)

    async def before(self, call: Call) -> None:
        await self._crash_in(call, "before")

    async def after(self, call: Call) -> None:
        await self._crash_in(call, "after effect")

    async def _crash_in(self, call: Call, moment: Moment) -> None:
        if self.when == moment and call.handler == self.handler and self._happens():
            call.process.crash()
            await anyio.sleep_forever()

    async def committing(self, process: Process, decisions: Sequence[Decision]) -> None:
        self._crash_at(process, decisions, "before commit")

    async def committed(self, process: Process, decisions: Sequence[Decision]) -> None:
        self._crash_at(process, decisions, "after commit")

    def _crash_at(self, process: Process, decisions: Sequence[Decision], moment: Moment) -> None:
        if self.when == moment and _settled(self.handler, process, decisions) and self._happens():
            raise process.crash()


@dataclass(repr=False)
class Duplicate(Fault):
    """An event of type ``event`` stands twice in its stream, under the same id."""

    event: str

    async def arriving(self, process: Process, delivery: Delivery, work: Work) -> None:
        if _is_first(delivery, work, self.event) and self._happens():
            flat = [part for pair in (delivery.fields or {}).items() for part in pair]
            process.stage.store.execute(["XADD", delivery.stream, "*", *flat])


@dataclass(repr=False)
class Delay(Fault):
    """An event of type ``event`` reaches each participant ``seconds`` late."""

    event: str
    seconds: float = 1.0
    _delayed: set[str] = field(default_factory=set, init=False, repr=False)

    async def arriving(self, process: Process, delivery: Delivery, work: Work) -> None:
        if not _is_first(delivery, work, self.event):
            return
        known = work.envelope.id in self._delayed
        if known or self._happens():
            self._delayed.add(work.envelope.id)
            await process.stage.hold_back(self.seconds)


@dataclass(repr=False)
class Reorder(Fault):
    """Deliveries that are there together are handled last come, first served."""

    _waiting: list[asyncio.Event] = field(default_factory=list, init=False, repr=False)

    async def arriving(self, process: Process, delivery: Delivery, work: Work) -> None:
        mine = asyncio.Event()
        self._waiting.append(mine)
        process.stage.idle_calls.append(self._release)
        process.stage.held += 1
        try:
            await mine.wait()
        finally:
            process.stage.held -= 1

    def _release(self) -> None:
        """Nothing else moves: let the last that came go on, before those that came earlier."""
        if self._waiting:
            last = self._waiting.pop()
            if self._waiting:
                self.happened += 1
            last.set()


@dataclass(repr=False)
class Disconnect(Fault):
    """A commit is executed, but its answer is lost; then the server cannot be reached for ``seconds``.

    It happens to ``participant``, or to whichever commits first.
    """

    participant: str | None = None
    seconds: float = 2.0

    async def committed(self, process: Process, decisions: Sequence[Decision]) -> None:
        wanted = self.participant in (None, process.name)
        if wanted and any(map(settles, decisions)) and self._happens():
            process.stage.cut(process.line, self.seconds)
            raise BrokerUnavailable("the connection was lost before the answer came")


@dataclass(repr=False)
class Unwind(Fault):
    """A saga is unwound by an operator's order, right after the step ``handler`` is committed in it.

    ``when="after effect"``: when the step has run and is not committed yet, so that it comes too late.
    """

    handler: str
    when: Literal["after effect", "after commit"] = "after commit"

    def __post_init__(self) -> None:
        _check_moment(self.when, ("after effect", "after commit"))

    async def after(self, call: Call) -> None:
        if self.when == "after effect" and call.handler == self.handler:
            await self._unwind(call.process, call.context.saga_id)

    async def committed(self, process: Process, decisions: Sequence[Decision]) -> None:
        for decision in decisions if self.when == "after commit" else ():
            if isinstance(decision, Done) and handler_of(process, decision) == self.handler:
                await self._unwind(process, decision.head.saga_id)

    async def _unwind(self, process: Process, saga_id: str) -> None:
        stage = process.stage
        if self.happened < self.times:
            sagas, token = stage.connect().sagas, f"unwind-{self.happened}"
            with suppress(SagaError):
                await sagas.compensate(saga_id, stage.world.clock(), token, "a test had it unwound", "test")
                self.happened += 1


@dataclass(repr=False)
class Jump(Fault):
    """The clock on the wall, the server's too, jumps ahead by ``seconds``, after so many commits."""

    seconds: float
    commits: int = 1
    _commits: int = field(default=0, init=False, repr=False)

    async def committed(self, process: Process, decisions: Sequence[Decision]) -> None:
        self._commits += sum(map(settles, decisions))
        if self._commits >= self.commits and self._happens():
            process.stage.world.ahead += round(self.seconds * 1000)


@dataclass
class Faults(Watcher):
    """The faults that are planted, as one."""

    planted: list[Fault] = field(default_factory=list)

    async def arriving(self, process: Process, delivery: Delivery, work: Work) -> None:
        for fault in self.planted:
            await fault.arriving(process, delivery, work)

    async def before(self, call: Call) -> None:
        for fault in self.planted:
            await fault.before(call)

    async def after(self, call: Call) -> None:
        for fault in self.planted:
            await fault.after(call)

    async def committing(self, process: Process, decisions: Sequence[Decision]) -> None:
        for fault in self.planted:
            await fault.committing(process, decisions)

    async def committed(self, process: Process, decisions: Sequence[Decision]) -> None:
        for fault in self.planted:
            await fault.committed(process, decisions)

    async def on_the_way(self, process: Process) -> None:
        for fault in self.planted:
            await fault.on_the_way(process)


def _settled(handler: str, process: Process, decisions: Sequence[Decision]) -> bool:
    return any(settles(each) and handler_of(process, each) == handler for each in decisions)


def _is_first(delivery: Delivery, work: Work, event: str) -> bool:
    """Whether a delivery is an event of this type, delivered by its stream and not for a later attempt."""
    fields = delivery.fields or {}
    return not work.undo and fields.get(b"type") == event.encode()


def _check_moment(when: str, moments: Sequence[str]) -> None:
    if when not in moments:
        raise ValueError(f"when is {when!r}; it may be {', '.join(map(repr, moments))}")
