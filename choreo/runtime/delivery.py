"""The life of one delivery, on one page: understand it, ask the gate, run the handler, commit.

Whatever happens to a delivery is decided by the gate. This module only finds out what to ask it.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from choreo.broker.clock import Clock
from choreo.broker.gate import Begin, BeginUndo, Decision, Head, RetryUndo, Stuck, Undone, Verdict
from choreo.broker.groups import Delivery
from choreo.errors import Abort
from choreo.model.context import Context
from choreo.model.event import Event
from choreo.runtime.committer import Committer
from choreo.runtime.drafts import Drafts, trigger_of, unpack
from choreo.runtime.handlers import Bench, describe, sendable
from choreo.runtime.parked import NoWork, Parked, Work
from choreo.wire.envelope import Envelope, Malformed, Reason, check_data, parse
from choreo.wire.limits import MAX_DELIVERIES, MAX_ERROR_CHARACTERS
from choreo.wire.topology import Topology

logger = logging.getLogger("choreo.runtime")


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

    def understand(self, delivery: Delivery, topic: str | None) -> Work | None:
        """What is to be done about an entry of a topic, or of the inbox; ``None`` if nothing is.

        What is malformed for everybody is left to the tracker: it routes it to the dead letters once,
        and not once per participant.
        """
        try:
            envelope = parse(delivery.fields or {})
            if topic is None:
                return self._inbox_work(envelope)
        except (Malformed, NoWork) as error:
            if topic is None:
                logger.error("%s: entry %s of the inbox: %s", self.participant, delivery.entry, error)
            return None
        if envelope.type not in self.benches or self.topology.routes.get(envelope.type) != topic:
            return None
        return Work(envelope)

    def _inbox_work(self, entry: Envelope) -> Work:
        work = Work.of_inbox(entry)
        if work.undo and not work.undo.startswith(f"{self.participant}/"):
            raise NoWork(f"it asks to undo {work.undo!r:.100}")
        if not work.undo and work.envelope.type not in self.benches:
            raise NoWork(f"no step reacts to {work.envelope.type} any more")
        return work

    async def handle(self, delivery: Delivery, work: Work) -> bool:
        """Do what is to be done. Returns ``False`` if that was nothing, and it is to be acknowledged."""
        if work.undo:
            await self._undo(delivery, work)
            return True
        return await self._step(delivery, work)

    # -- forward -----------------------------------------------------------------------------------

    async def _step(self, delivery: Delivery, work: Work) -> bool:
        envelope = work.envelope
        bench = self.benches[envelope.type]
        head = self.draft.head(delivery, envelope, bench.step.name)
        try:
            event = bench.decode(envelope)
        except msgspec.DecodeError as error:
            return await self._refuse(head, envelope, bench, error)
        part = envelope.pack() if bench.joins else b""
        undoable = bench.step.compensation is not None
        answer = await self.committer.decide(
            Begin(head, ledger=envelope.ledger, undoable=undoable, joins=bench.joins, part=part)
        )
        if answer.verdict not in (Verdict.RUN, Verdict.DOUBT):
            return True
        head = dataclasses.replace(head, saga_type=answer.rest[0].decode(), began=self.clock())
        envelopes, events = [envelope], [event]
        if bench.joins and len(answer.rest) > 1:
            envelopes = [Envelope.unpack(packed) for packed in answer.rest[1:]]
            events = [bench.decode(each) for each in envelopes]
        if answer.verdict is Verdict.DOUBT:
            decision: Decision = self.draft.done(head, bench, envelopes, keep=True)
        elif delivery.deliveries > MAX_DELIVERIES:
            note = _poisonous(delivery)
            logger.error("%s/%s, saga %r: %s", self.participant, head.step, head.saga_id, note)
            decision = self.draft.dead(head, bench, envelopes, Reason.POISON, note)
        else:
            decision = await self._run(head, bench, envelopes, events, work.attempt)
        await self.committer.decide(decision)
        return True

    async def _run(
        self, head: Head, bench: Bench, envelopes: Sequence[Envelope], events: Sequence[Event], attempt: int
    ) -> Decision:
        """Run the step, and say what came of it."""
        context = self._context(head, attempt, key=self.draft.key(head))
        try:
            returned, emitted = await bench.run(events, context)
            keep = bench.covers(emitted)
            return self.draft.done(
                head, bench, envelopes, keep=keep, result=bench.store(returned) if keep else None,
                emissions=self.draft.emissions(head, emitted, head.step),
            )  # fmt: skip
        except Abort as abort:
            note = sendable(str(abort.reason or "aborted")[:MAX_ERROR_CHARACTERS])
            return self.draft.aborted(head, bench, envelopes, note)
        except Exception as error:
            note, detail = describe(error)
            retry = self.draft.retry(head, bench, envelopes, attempt, error)
            self._log_failure(head, head.step, attempt, note, retry is not None)
            return retry or self.draft.dead(head, bench, envelopes, Reason.STEP_FAILED, note, detail)

    async def _refuse(self, head: Head, envelope: Envelope, bench: Bench, error: Exception) -> bool:
        """Data that the step cannot decode: the tracker's matter if nobody could, else a dead letter."""
        try:
            check_data(envelope.data)
        except Malformed:
            return False
        note = sendable(f"{Reason.DATA_MISFIT}: {error}"[:MAX_ERROR_CHARACTERS])
        logger.error("%s/%s cannot decode %s: %s", self.participant, head.step, head.type, error)
        await self.committer.decide(self.draft.dead(head, bench, [envelope], Reason.DATA_MISFIT, note))
        return True

    # -- back --------------------------------------------------------------------------------------

    async def _undo(self, delivery: Delivery, work: Work) -> None:
        step, _, event = work.undo.partition("/")[2].partition(":")
        bench = self._steps.get(step)
        undo = bench.step.compensation if bench else None
        name = undo.name if undo else "undo"
        head = self.draft.head(delivery, work.envelope, step)
        head = dataclasses.replace(head, event=event, type="", back=True)
        answer = await self.committer.decide(BeginUndo(head, name))
        if answer.verdict is not Verdict.RUN:
            return
        envelopes = unpack(answer.rest[1])
        head = dataclasses.replace(
            head, saga_type=answer.rest[0].decode(), type=trigger_of(head, envelopes).type, began=self.clock()
        )
        if delivery.deliveries > MAX_DELIVERIES:
            decision: Decision = self._stuck(head, name, envelopes, Reason.POISON, _poisonous(delivery))
        else:
            decision = await self._run_undo(head, bench, name, envelopes, answer.rest[2], work.attempt)
        await self.committer.decide(decision)

    async def _run_undo(
        self, head: Head, bench: Bench | None, name: str, envelopes: Sequence[Envelope], result: bytes,
        attempt: int,
    ) -> Decision:  # fmt: skip
        """Run the undo, and say what came of it."""
        context = self._context(head, attempt, key=self.draft.key(head, name), undoes=self.draft.key(head))
        if bench is None or bench.step.compensation is None:
            note = f"participant {self.participant} has no step {head.step} with an undo any more"
            return self._stuck(head, name, envelopes, Reason.UNDO_FAILED, note)
        try:
            events = [bench.decode(each) for each in envelopes]
            emitted = await bench.run_undo(events, bench.restore(result), context)
            emissions = self.draft.emissions(head, emitted, f"{head.step}/{name}")
            return Undone(head, name, emissions, envelopes[-1].traceparent)
        except Exception as error:
            note, detail = describe(error)
            policy = bench.undo_policy.retry
            again = policy is not None and policy.again(attempt, error)
            self._log_failure(head, name, attempt, note, again)
            if policy is None or not again:
                return self._stuck(head, name, envelopes, Reason.UNDO_FAILED, note, detail)
            parked = Parked(attempt + 1, undo=f"{self.participant}/{head.step}:{head.event}")
            return RetryUndo(head, name, self.draft.parking(head, policy, attempt, error, parked))

    def _stuck(
        self, head: Head, name: str, envelopes: Sequence[Envelope], reason: Reason, note: str,
        detail: str = "",
    ) -> Stuck:  # fmt: skip
        letter = self.draft.letter(head, reason, note, detail, trigger_of(head, envelopes))
        return Stuck(head, name, note, detail, letter)

    # -- both --------------------------------------------------------------------------------------

    def _context(self, head: Head, attempt: int, *, key: str, undoes: str | None = None) -> Context:
        return Context(
            saga_id=head.saga_id, saga_type=head.saga_type, participant=self.participant, step=head.step,
            event_id=head.event, key=key, undoes=undoes, attempt=attempt, resources=self.resources,
        )  # fmt: skip

    def _log_failure(self, head: Head, name: str, attempt: int, note: str, again: bool) -> None:
        level = logging.WARNING if again else logging.ERROR
        then = "it will be tried again" if again else "there will be no other"
        logger.log(level, "%s/%s, saga %r: attempt %d failed, %s: %s",
                   self.participant, name, head.saga_id, attempt, then, note)  # fmt: skip


def _poisonous(delivery: Delivery) -> str:
    times = delivery.deliveries - 1
    return f"delivered {times} times without an outcome; it seems to kill the worker that handles it"
