"""The life of one delivery, on one page: understand it, ask the gate, run the handler, commit.

Whatever happens to a delivery is decided by the gate. This module only finds out what to ask it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from choreo.broker.clock import Clock
from choreo.broker.gate import (
    Answer,
    Begin,
    BeginUndo,
    Decision,
    Head,
    Look,
    RetryUndo,
    Stuck,
    Undone,
    Verdict,
)
from choreo.broker.groups import Delivery
from choreo.errors import Abort, UnroutableEvent
from choreo.model.context import Context
from choreo.model.event import Event
from choreo.runtime.committer import Committer
from choreo.runtime.drafts import Drafts, trigger_of
from choreo.runtime.handlers import Bench, describe, text_of
from choreo.runtime.parked import NoWork, Work
from choreo.wire.envelope import Envelope, Malformed, Reason, parse
from choreo.wire.facts import Place, judge
from choreo.wire.inbox import Parked, unpack
from choreo.wire.limits import MAX_DELIVERIES
from choreo.wire.topology import Topology

logger = logging.getLogger("choreo.runtime")

_POISONOUS = f"begun {MAX_DELIVERIES} times without an outcome; it seems to kill the worker that handles it"


@dataclass(slots=True)
class Handling:
    """How one worker handles deliveries of its participant."""

    participant: str
    topology: Topology
    benches: dict[str, Bench]
    """Event type -> the step that reacts to it."""
    committer: Committer
    clock: Clock
    resources: Any = None
    draft: Drafts = field(init=False)
    _steps: dict[str, Bench] = field(init=False)

    def __post_init__(self) -> None:
        self.draft = Drafts(self.participant, self.topology, self.clock)
        self._steps = {bench.step.name: bench for bench in self.benches.values()}

    def understand(self, delivery: Delivery, place: Place) -> Work | None:
        """What is to be done about an entry of a topic; ``None`` if nothing is.

        What is malformed for everybody is left to the tracker: it routes it to the dead letters once,
        and not once per participant.
        """
        fields = delivery.fields or {}
        if fields.get(b"type", b"").decode(errors="replace") not in self.benches:
            return None
        try:
            return Work(judge(self.topology, place, fields))
        except Malformed:
            return None

    def understand_request(self, delivery: Delivery, partition: int) -> Work | None:
        """What is to be done about an entry of the inbox; ``None`` if it makes no sense."""
        try:
            entry = parse(delivery.fields or {})
            if self.topology.keys.partition(entry.subject) != partition:
                raise NoWork(f"saga {entry.subject!r} belongs into another partition")
            work = Work.of_inbox(entry)
            if work.undo and not work.undo.startswith(f"{self.participant}/"):
                raise NoWork(f"it asks to undo {work.undo!r:.100}")
        except (Malformed, NoWork) as error:
            logger.error("%s: entry %s of the inbox: %s", self.participant, delivery.entry, error)
            return None
        return work

    async def handle(self, delivery: Delivery, work: Work) -> None:
        """Do what is to be done."""
        if work.undo:
            await self._undo(delivery, work)
        elif work.planned:
            await self._publish(delivery, work)
        else:
            await self._step(delivery, work)

    # -- forward -----------------------------------------------------------------------------------

    async def _step(self, delivery: Delivery, work: Work) -> None:
        envelope = work.envelope
        bench = self.benches.get(envelope.type)
        if bench is None:
            note = f"participant {self.participant} has no step {work.step} for {envelope.type} any more"
            logger.error("saga %r: %s", envelope.subject, note)
            head = self.draft.head(delivery, envelope, work.step, work.attempt)
            await self.committer.decide(self.draft.orphaned(head, envelope, note))
            return
        head = self.draft.head(delivery, envelope, bench.step.name, work.attempt)
        try:
            event = bench.decode(envelope)
        except msgspec.DecodeError as error:
            await self._refuse(head, bench, [envelope], error)
            return
        answer = await self._begin(head, bench, envelope)
        if answer.verdict not in (Verdict.RUN, Verdict.DOUBT, Verdict.POISON):
            return
        head = msgspec.structs.replace(head, saga_type=answer.rest[0].decode(), began=self.clock())
        envelopes, events = [envelope], [event]
        if bench.joins and len(answer.rest) > 1:
            envelopes = [Envelope.unpack(packed) for packed in answer.rest[1:]]
            try:
                events = [bench.decode(each) for each in envelopes]
            except msgspec.DecodeError as error:
                await self._refuse(head, bench, envelopes, error)
                return
        if answer.verdict is Verdict.DOUBT:
            decision: Decision = self.draft.doubtful(head, bench, envelopes)
        elif answer.verdict is Verdict.POISON:
            logger.error("%s/%s, saga %r: %s", self.participant, head.step, head.saga_id, _POISONOUS)
            decision = self.draft.dead(head, bench, envelopes, Reason.POISON, _POISONOUS)
        else:
            decision = await self._run(head, bench, envelopes, events)
        await self.committer.decide(decision)

    async def _begin(self, head: Head, bench: Bench, envelope: Envelope) -> Answer:
        """May the step run? That costs but a look if beginning it leaves no trace anyway."""
        undoable = bench.step.compensation is not None
        if not (undoable or bench.joins or head.attempt > 1 or head.deliveries > 1):
            answer = await self.committer.decide(Look(head))
            if answer.verdict is not Verdict.ASK:
                return answer
        part = envelope.pack() if bench.joins else b""
        return await self.committer.decide(
            Begin(head, ledger=envelope.ledger, undoable=undoable, joins=bench.joins, part=part)
        )

    async def _run(
        self, head: Head, bench: Bench, envelopes: Sequence[Envelope], events: Sequence[Event]
    ) -> Decision:
        """Run the step, and say what came of it."""
        context = self._context(head, key=self.draft.key(head)) if bench.step.takes_context else None
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

    async def _refuse(
        self, head: Head, bench: Bench, envelopes: Sequence[Envelope], error: msgspec.DecodeError
    ) -> None:
        """Data that is JSON, but not of the event as this participant knows it: at once a dead letter."""
        note = f"{Reason.DATA_MISFIT}: {text_of(error)}"
        logger.error("%s/%s cannot decode %s: %s", self.participant, head.step, head.type, error)
        await self.committer.decide(self.draft.dead(head, bench, envelopes, Reason.DATA_MISFIT, note))

    async def _publish(self, delivery: Delivery, work: Work) -> None:
        """Publish an event that was planned."""
        head = self.draft.head(delivery, work.envelope, work.step, work.attempt)
        head = msgspec.structs.replace(head, began=work.envelope.began)
        try:
            decision: Decision = self.draft.publish(head, work.envelope)
        except UnroutableEvent as error:
            logger.error("saga %r: %s", head.saga_id, error)
            decision = self.draft.orphaned(head, work.envelope, str(error))
        await self.committer.decide(decision)

    # -- back --------------------------------------------------------------------------------------

    async def _undo(self, delivery: Delivery, work: Work) -> None:
        step, _, event = work.undo.partition("/")[2].partition(":")
        bench = self._steps.get(step)
        undo = bench.step.compensation if bench else None
        name = undo.name if undo else "undo"
        head = self.draft.head(delivery, work.envelope, step, work.attempt)
        head = msgspec.structs.replace(head, event=event, type="", back=True)
        answer = await self.committer.decide(BeginUndo(head, name))
        if answer.verdict not in (Verdict.RUN, Verdict.POISON):
            return
        envelopes = unpack(answer.rest[1])
        saga_type, event_type = answer.rest[0].decode(), trigger_of(head, envelopes).type
        head = msgspec.structs.replace(head, saga_type=saga_type, type=event_type, began=self.clock())
        if answer.verdict is Verdict.POISON:
            decision: Decision = self._stuck(head, name, envelopes, Reason.POISON, _POISONOUS)
        else:
            decision = await self._run_undo(head, bench, name, envelopes, answer.rest[2])
        await self.committer.decide(decision)

    async def _run_undo(
        self, head: Head, bench: Bench | None, name: str, envelopes: Sequence[Envelope], result: bytes
    ) -> Decision:
        """Run the undo, and say what came of it."""
        context = self._context(head, key=self.draft.key(head, name), undoes=self.draft.key(head))
        if bench is None or bench.step.compensation is None:
            note = f"participant {self.participant} has no step {head.step} with an undo any more"
            return self._stuck(head, name, envelopes, Reason.UNDO_FAILED, note)
        try:
            events = [bench.decode(each) for each in envelopes]
            emitted = await bench.run_undo(events, bench.restore(result), context)
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

    def _context(self, head: Head, *, key: str, undoes: str | None = None) -> Context:
        return Context(
            saga_id=head.saga_id, saga_type=head.saga_type, participant=self.participant, step=head.step,
            event_id=head.event, key=key, undoes=undoes, attempt=head.attempt, resources=self.resources,
        )  # fmt: skip

    def _log_failure(self, head: Head, name: str, note: str, *, again: bool) -> None:
        level = logging.WARNING if again else logging.ERROR
        then = "it will be tried again" if again else "there will be no other"
        logger.log(level, "%s/%s, saga %r: attempt %d failed, %s: %s",
                   self.participant, name, head.saga_id, head.attempt, then, note)  # fmt: skip


def _reason_of(abort: Abort) -> str:
    try:
        return text_of(abort.reason) or "aborted"
    except Exception:  # subclasses may make anything of it
        return "aborted (its reason cannot be read)"
