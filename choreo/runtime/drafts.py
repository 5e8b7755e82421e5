"""Decisions about deliveries, written out: ids, keys, letters and what the gate must be told."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from choreo.broker.clock import Clock
from choreo.broker.gate import Done, Emission, Failed, Head, Letter, Parking, RetryStep
from choreo.broker.groups import Delivery
from choreo.model.event import Event, type_name
from choreo.model.policy import Retry
from choreo.runtime.handlers import Bench, describe
from choreo.runtime.parked import due_at
from choreo.wire.envelope import BACK, Envelope, Reason, derive_id, encode_data
from choreo.wire.inbox import Parked, pack
from choreo.wire.topology import Topology


@dataclass(frozen=True, slots=True)
class Drafts:
    """Writes decisions for one participant."""

    participant: str
    topology: Topology
    clock: Clock

    def head(self, delivery: Delivery, envelope: Envelope, step: str, attempt: int) -> Head:
        """What every decision about this delivery says. Its token marks this attempt to commit."""
        saga = self.topology.saga_type_of(envelope.type, envelope.sagatype)
        return Head(
            partition=self.topology.keys.partition(envelope.subject),
            stream=delivery.stream,
            entry=delivery.entry,
            deliveries=delivery.deliveries,
            saga_id=envelope.subject,
            saga_type=saga.name if saga else envelope.sagatype,
            step=step,
            event=envelope.id,
            type=envelope.type,
            token=secrets.token_urlsafe(6),
            back=envelope.phase == BACK,
            began=self.clock(),
            attempt=attempt,
        )

    def key(self, head: Head, undo: str = "") -> str:
        """The idempotency key of a step for an event, or of its undo."""
        return derive_id("key", head.saga_id, self.participant, head.step, undo, head.event)

    def emissions(self, head: Head, events: Sequence[Event], source: str) -> tuple[Emission, ...]:
        """Events to be published; ``source`` is the step, or ``step/undo``."""
        return tuple(
            Emission(
                stream=self.topology.keys.stream(head.partition, self.topology.stream_of(type_name(event))),
                id=derive_id(head.event, self.participant, source, str(position)),
                type=type_name(event),
                ends=self._ends(head.saga_type, type_name(event)),
                data=encode_data(event),
            )
            for position, event in enumerate(events)
        )

    def _ends(self, saga_type: str, event_type: str) -> str:
        saga = self.topology.sagas.get(saga_type)
        if saga is None:
            return ""
        if event_type in saga.aborts_with:
            return "a"
        if event_type not in saga.completes_with:
            return ""
        return f"c{len(saga.completes_with) if saga.completes_when_all else 1}"

    def letter(
        self, head: Head, reason: Reason, note: str, detail: str, envelopes: Sequence[Envelope],
        undo: str = "",
    ) -> Letter:  # fmt: skip
        """The dead letter of a delivery: its event (a join's events) and what went wrong. From it alone the
        delivery can be made again. ``undo`` is the name of the undo, if it is one that failed."""
        envelope = trigger_of(head, envelopes)
        letter_id = derive_id("letter", reason, head.saga_id, self.participant, head.step, head.event)
        return Letter.of(
            letter_id, reason, time=self.clock(), participant=self.participant, step=head.step,
            error=note, traceback=detail, subject=envelope.subject, id=envelope.id, type=envelope.type,
            sagatype=head.saga_type, source=envelope.source, cause=envelope.cause, data=envelope.data,
            undo=undo, ledger=envelope.ledger, phase=envelope.phase, traceparent=envelope.traceparent,
            parts=pack(envelopes) if len(envelopes) > 1 and not undo else b"",
        )  # fmt: skip

    def done(
        self, head: Head, bench: Bench, envelopes: Sequence[Envelope], *, keep: bool,
        result: bytes | None = None, emissions: tuple[Emission, ...] = (),
    ) -> Done:  # fmt: skip
        """The step took effect; or, if ``keep`` and without a result, may have."""
        return Done(
            head, ledger=ledger_of(envelopes), keep=keep, input=pack(envelopes) if keep else b"",
            result=result, joins=bench.joins, emissions=emissions,
            traceparent=envelopes[-1].traceparent,
        )  # fmt: skip

    def aborted(self, head: Head, bench: Bench, envelopes: Sequence[Envelope], note: str) -> Failed:
        """The business said no. There is a letter only if the saga cannot unwind any more."""
        letter = self.letter(head, Reason.ABORT_TOO_LATE, note, "", envelopes)
        return Failed(
            head, "aborted", note, letter, ledger=ledger_of(envelopes), joins=bench.joins
        )  # fmt: skip

    def dead(
        self, head: Head, bench: Bench, envelopes: Sequence[Envelope], reason: Reason, note: str,
        detail: str = "",
    ) -> Failed:  # fmt: skip
        """The step failed for good. Nobody knows whether it took effect, so its undo is asked for."""
        undoable = bench.step.compensation is not None
        # What could not even be decoded has not run; should an earlier attempt have, the gate knows.
        keep = undoable and reason is not Reason.DATA_MISFIT
        return Failed(
            head, "dead", note, self.letter(head, reason, note, detail, envelopes),
            detail=detail, ledger=ledger_of(envelopes), keep=keep,
            input=pack(envelopes) if undoable else b"", joins=bench.joins,
        )  # fmt: skip

    def orphaned(self, head: Head, envelope: Envelope, note: str) -> Failed:
        """An attempt is due, but its step is gone. If the step may have taken effect, the gate knows."""
        letter = self.letter(head, Reason.STEP_FAILED, note, "", [envelope])
        return Failed(head, "dead", note, letter, ledger=envelope.ledger, input=pack([envelope]))

    def retry(
        self, head: Head, bench: Bench, envelopes: Sequence[Envelope], error: Exception
    ) -> RetryStep | None:
        """Another attempt is to follow; ``None`` if there is to be none."""
        policy = bench.policy.retry
        if policy is None or not policy.again(head.attempt, error):
            return None
        parked = Parked(head.attempt + 1, event=trigger_of(head, envelopes).pack(), step=head.step)
        keep = bench.step.compensation is not None
        return RetryStep(
            head, self.parking(head, policy, error, parked), ledger=ledger_of(envelopes), keep=keep,
            input=pack(envelopes) if keep else b"", joins=bench.joins,
        )  # fmt: skip

    def parking(self, head: Head, policy: Retry, error: Exception, parked: Parked) -> Parking:
        """What is parked until the next attempt is due."""
        note, detail = describe(error)
        due = due_at(self.clock(), policy, head.attempt, self.key(head))
        return Parking(due, parked.pack(), note, detail)


def trigger_of(head: Head, envelopes: Sequence[Envelope]) -> Envelope:
    """The event that was delivered; the others are those that its join waited with."""
    return next(each for each in envelopes if each.id == head.event)


def ledger_of(envelopes: Sequence[Envelope]) -> str:
    """The ledger entries behind several events, each once, in a stable order."""
    return " ".join(dict.fromkeys(entry for each in envelopes for entry in each.ledger.split()))
