"""The life of one delivery, on one page: understand it, ask the gate, run the handler, commit.

Whatever happens to a delivery is decided by the gate. This module only finds out what to ask it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import msgspec

from choreo.broker.answers import Answer, Verdict, go_ahead
from choreo.broker.clock import Clock
from choreo.broker.gate import Begin, BeginUndo, Decision, Head, Look, RetryUndo, Stuck, Undone
from choreo.broker.groups import Delivery
from choreo.errors import Abort, UnroutableEvent
from choreo.model.context import Context
from choreo.model.event import Event
from choreo.runtime.drafts import Drafts, trigger_of
from choreo.runtime.handlers import Bench, describe, text_of
from choreo.runtime.lives import ask, turn
from choreo.runtime.parked import NoWork, Work
from choreo.wire.envelope import Envelope, Malformed, Reason, parse
from choreo.wire.facts import Place, judge, time_of
from choreo.wire.inbox import Parked, unpack
from choreo.wire.limits import MAX_DELIVERIES
from choreo.wire.topology import Topology

logger = logging.getLogger("choreo.runtime")

#: For so many milliseconds an event that the gate has published is as good as its answer that the saga runs.
#: An answer, too, can be that old before the handler has its turn.
FRESH = 10

_POISONOUS = f"begun {MAX_DELIVERIES} times without an outcome; it seems to kill the worker that handles it"


class Known(NamedTuple):
    """What the gate would answer, and until when (by the worker's clock) it need not be asked."""

    answer: Answer
    until: int


class Opening(NamedTuple):
    """How the life of a delivery begins, if a handler is to run."""

    question: Decision
    """May it?"""
    outcome: Callable[[Answer], Coroutine[Any, Any, Decision]]
    """Given an answer that lets the life go on: runs the handler, and returns what came of it."""
    known: Known | None = None
    """If the event itself gives the answer."""


#: Answers with which a life goes on. With all others the delivery is settled, or not this worker's now.
_GOES_ON = frozenset({Verdict.RUN, Verdict.DOUBT, Verdict.POISON})


@dataclass(slots=True)
class Handling:
    """How one worker handles deliveries of its participant."""

    participant: str
    topology: Topology
    benches: dict[str, Bench]
    """Event type -> the step that reacts to it."""
    clock: Clock
    resources: Any = None
    hindered: Callable[[], bool] = bool
    """Whether the gate cannot be asked just now."""
    fresh: int = FRESH
    """See :data:`FRESH`; -1: always ask."""
    draft: Drafts = field(init=False)
    _steps: dict[str, Bench] = field(init=False)
    _heard: frozenset[bytes | None] = field(init=False)

    def __post_init__(self) -> None:
        self.draft = Drafts(self.participant, self.topology, self.clock)
        self._heard = frozenset(name.encode() for name in self.benches)
        self._steps = {bench.step.name: bench for bench in self.benches.values()}

    def understand(self, delivery: Delivery, place: Place) -> Work | None:
        """What is to be done about an entry of a topic; ``None`` if nothing is.

        What is malformed for everybody is left to the tracker: it routes it to the dead letters once,
        and not once per participant.
        """
        fields = delivery.fields or {}
        if fields.get(b"type") not in self._heard:
            return None
        try:
            return Work(judge(self.topology, place, fields), place.partition)
        except Malformed:
            return None

    def understand_request(self, delivery: Delivery, partition: int) -> Work | None:
        """What is to be done about an entry of the inbox; ``None`` if it makes no sense."""
        try:
            entry = parse(delivery.fields or {})
            if self.topology.keys.partition(entry.subject) != partition:
                raise NoWork(f"saga {entry.subject!r} belongs into another partition")
            work = Work.of_inbox(entry, partition)
            if work.undo and not work.undo.startswith(f"{self.participant}/"):
                raise NoWork(f"it asks to undo {work.undo!r:.100}")
        except (Malformed, NoWork) as error:
            logger.error("%s: entry %s of the inbox: %s", self.participant, delivery.entry, error)
            return None
        return work

    # -- a life ------------------------------------------------------------------------------------

    async def handle(self, delivery: Delivery, work: Work, *, asked: bool = False) -> None:
        """Do what is to be done. ``asked``: whether the gate was asked about it before."""
        opening = self.open(delivery, work)
        if isinstance(opening, Decision):
            await ask(opening)
            return
        answer = None if asked else await self.known_answer(opening.known)
        answer = answer or await ask(opening.question)
        if answer.verdict is Verdict.ASK:
            answer = await ask(Begin(opening.question.head, ledger=work.envelope.ledger))
        if answer.verdict in _GOES_ON:
            await ask(await opening.outcome(answer))

    async def known_answer(self, known: Known | None) -> Answer | None:
        """The answer, if it is known, and still good when the life that asks has its turn."""
        if known is None:
            return None
        await turn()
        return known.answer if self.clock() <= known.until and not self.hindered() else None

    def open(self, delivery: Delivery, work: Work) -> Opening | Decision:
        """What to ask the gate first, and what to do then; or at once what becomes of the delivery."""
        if work.undo:
            return self._open_undo(delivery, work)
        if work.planned:
            return self._publish(delivery, work)
        return self._open_step(delivery, work)

    def is_quick(self, delivery: Delivery, work: Work) -> bool:
        """Whether this is the first attempt of a handler that never waits."""
        if delivery.deliveries > 1 or work.attempt > 1 or work.planned:
            return False
        if work.undo:
            bench = self._steps.get(_step_of(work.undo))
            return bench is not None and bench.undo_at_once
        bench = self.benches.get(work.envelope.type)
        return bench is not None and bench.at_once

    # -- forward -----------------------------------------------------------------------------------

    def _open_step(self, delivery: Delivery, work: Work) -> Opening | Decision:
        envelope = work.envelope
        bench = self.benches.get(envelope.type)
        if bench is None:
            note = f"participant {self.participant} has no step {work.step} for {envelope.type} any more"
            logger.error("saga %r: %s", envelope.subject, note)
            head = self.draft.head(delivery, work, work.step)
            return self.draft.orphaned(head, envelope, note)
        head = self.draft.head(delivery, work, bench.step.name)
        try:
            event = bench.decode(envelope)
        except msgspec.DecodeError as error:
            return self._refuse(head, bench, [envelope], error)
        question = self._question(head, bench, envelope)
        known = self._known(head, envelope) if type(question) is Look else None
        return Opening(question, partial(self._step, head, bench, envelope, event), known)

    def _question(self, head: Head, bench: Bench, envelope: Envelope) -> Decision:
        """May the step run? That costs but a look if beginning it leaves no trace anyway."""
        undoable = bench.step.compensation is not None
        if not (undoable or bench.joins or head.attempt > 1 or head.deliveries > 1):
            return Look(head)
        part = envelope.pack() if bench.joins else b""
        return Begin(head, ledger=envelope.ledger, undoable=undoable, joins=bench.joins, part=part)

    def _known(self, head: Head, envelope: Envelope) -> Known | None:
        """The answer to a look, if the event itself gives it: the gate publishes what leads forward while the
        saga lets steps run (if it is not so any more after that very commit, it says so), and each event
        once. So it need not be asked just afterwards.

        Only the gate says what caused an event, and when its handler began. What was published again, copied
        or restored bears another time than its entry. While clocks differ, the gate is mostly asked.
        """
        if not (envelope.cause and envelope.began) or head.back or envelope.unwinds:
            return None
        entered, told = time_of(head.entry), envelope.time
        until = min(entered, told) + self.fresh
        if head.began > until or max(entered, told) > head.began + self.fresh:
            return None
        return Known(go_ahead(envelope.sagatype or head.saga_type), until)

    async def _step(
        self, head: Head, bench: Bench, envelope: Envelope, event: Event, answer: Answer
    ) -> Decision:
        head.saga_type, head.began = answer.rest[0].decode(), self.clock()
        envelopes, events = [envelope], [event]
        if bench.joins and len(answer.rest) > 1:
            envelopes = [Envelope.unpack(packed) for packed in answer.rest[1:]]
            try:
                events = [bench.decode(each) for each in envelopes]
            except msgspec.DecodeError as error:
                return self._refuse(head, bench, envelopes, error)
        if answer.verdict is Verdict.DOUBT:
            return self.draft.doubtful(head, bench, envelopes)
        if answer.verdict is Verdict.POISON:
            logger.error("%s/%s, saga %r: %s", self.participant, head.step, head.saga_id, _POISONOUS)
            return self.draft.dead(head, bench, envelopes, Reason.POISON, _POISONOUS)
        context = self._context(head) if bench.step.takes_context else None
        try:
            returned, emitted = await bench.run(events, context)
            return self.draft.done(head, bench, envelopes, returned, emitted)
        except Abort as abort:
            return self.draft.aborted(head, bench, envelopes, _reason_of(abort))
        except Exception as error:
            note, detail = describe(error)
            retry = self.draft.retry(head, bench, envelopes, error)
            self._log_failure(head, head.step, note, again=retry is not None)
            return retry or self.draft.dead(head, bench, envelopes, Reason.STEP_FAILED, note, detail)

    def _refuse(
        self, head: Head, bench: Bench, envelopes: Sequence[Envelope], error: msgspec.DecodeError
    ) -> Decision:
        """Data that is JSON, but not of the event as this participant knows it: at once a dead letter."""
        note = f"{Reason.DATA_MISFIT}: {text_of(error)}"
        logger.error("%s/%s cannot decode %s: %s", self.participant, head.step, head.type, error)
        return self.draft.dead(head, bench, envelopes, Reason.DATA_MISFIT, note)

    def _publish(self, delivery: Delivery, work: Work) -> Decision:
        """Publish an event that was planned."""
        head = self.draft.head(delivery, work, work.step)
        head.began = work.envelope.began
        try:
            return self.draft.publish(head, work.envelope)
        except UnroutableEvent as error:
            logger.error("saga %r: %s", head.saga_id, error)
            return self.draft.orphaned(head, work.envelope, str(error))

    # -- back --------------------------------------------------------------------------------------

    def _open_undo(self, delivery: Delivery, work: Work) -> Opening:
        step, event = _step_of(work.undo), work.undo.partition("/")[2].partition(":")[2]
        bench = self._steps.get(step)
        undo = bench.step.compensation if bench else None
        name = undo.name if undo else "undo"
        head = self.draft.head(delivery, work, step)
        head.event, head.type, head.back = event, "", True
        return Opening(BeginUndo(head, name), partial(self._undo, head, bench, name))

    async def _undo(self, head: Head, bench: Bench | None, name: str, answer: Answer) -> Decision:
        envelopes = unpack(answer.rest[1])
        head.saga_type, head.type = answer.rest[0].decode(), trigger_of(head, envelopes).type
        head.began = self.clock()
        if answer.verdict is Verdict.POISON:
            return self._stuck(head, name, envelopes, Reason.POISON, _POISONOUS)
        return await self._run_undo(head, bench, name, envelopes, answer.rest[2])

    async def _run_undo(
        self, head: Head, bench: Bench | None, name: str, envelopes: Sequence[Envelope], result: bytes
    ) -> Decision:
        """Run the undo, and say what came of it."""
        undo = bench.step.compensation if bench else None
        if bench is None or undo is None:
            note = f"participant {self.participant} has no step {head.step} with an undo any more"
            return self._stuck(head, name, envelopes, Reason.UNDO_FAILED, note)
        context = self._context(head, name) if undo.takes_context else None
        try:
            events = [bench.decode(each) for each in envelopes]
            emitted = await bench.run_undo(events, result, context)
            traceparent = envelopes[-1].traceparent
            emissions = self.draft.emissions(head, emitted, f"{head.step}/{name}", "", traceparent)
            return Undone(head, name, emissions, traceparent)
        except Exception as error:
            note, detail = describe(error)
            policy = bench.undo_policy.retry
            again = policy is not None and policy.again(head.attempt, error)
            self._log_failure(head, name, note, again=again)
            if policy is None or not again:
                return self._stuck(head, name, envelopes, Reason.UNDO_FAILED, note, detail)
            parked = Parked(head.attempt + 1, undo=self.draft.entry(head))
            return RetryUndo(head, name, self.draft.parking(head, policy, error, parked))

    def _stuck(
        self, head: Head, name: str, envelopes: Sequence[Envelope], reason: Reason, note: str,
        detail: str = "",
    ) -> Stuck:  # fmt: skip
        letter = self.draft.letter(head, reason, note, detail, envelopes, name)
        return Stuck(head, name, note, detail, letter)

    # -- both --------------------------------------------------------------------------------------

    def _context(self, head: Head, undo: str = "") -> Context:
        key, undoes = self.draft.key(head, undo), self.draft.key(head) if undo else None
        return Context(
            saga_id=head.saga_id, saga_type=head.saga_type, participant=self.participant, step=head.step,
            event_id=head.event, key=key, undoes=undoes, attempt=head.attempt, resources=self.resources,
        )  # fmt: skip

    def _log_failure(self, head: Head, name: str, note: str, *, again: bool) -> None:
        level = logging.WARNING if again else logging.ERROR
        then = "it will be tried again" if again else "there will be no other"
        logger.log(level, "%s/%s, saga %r: attempt %d failed, %s: %s",
                   self.participant, name, head.saga_id, head.attempt, then, note)  # fmt: skip


def _step_of(entry: str) -> str:
    """The name of the step of a ledger entry."""
    return entry.partition("/")[2].partition(":")[0]


def _reason_of(abort: Abort) -> str:
    try:
        return text_of(abort.reason) or "aborted"
    except Exception:  # subclasses may make anything of it
        return "aborted (its reason cannot be read)"
