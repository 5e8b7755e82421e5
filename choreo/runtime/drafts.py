"""Decisions about deliveries, written out: ids, keys, letters and what the gate must be told."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import count
from typing import Any

from choreo.broker.clock import Clock
from choreo.broker.gate import Done, Emission, Failed, Head, Letter, Parking, Publish, RetryStep
from choreo.broker.groups import Delivery
from choreo.model.context import Emitted
from choreo.model.event import type_name
from choreo.model.policy import Retry
from choreo.runtime.handlers import Bench, describe
from choreo.runtime.parked import Work, due_at
from choreo.wire.envelope import BACK, Envelope, Reason, derive_id, encode_data
from choreo.wire.inbox import Parked, pack
from choreo.wire.topology import Topology


def counted_tokens() -> Callable[[], str]:
    """Makes tokens that nobody else makes: a random word of the maker's, and a number."""
    word, numbers = secrets.token_urlsafe(5), count()
    return lambda: f"{word}{next(numbers):x}"


@dataclass(slots=True)
class Drafts:
    """Writes decisions for one participant."""

    participant: str
    topology: Topology
    clock: Clock
    make_token: Callable[[], str] = field(default_factory=counted_tokens)
    _outlet: Callable[[str, str], tuple[str, str]] = field(init=False)
    """See :meth:`_find_outlet`."""

    def __post_init__(self) -> None:
        self._outlet = lru_cache(1024)(self._find_outlet)

    def head(self, delivery: Delivery, work: Work, step: str) -> Head:
        """What every decision about this delivery says. Its token marks this attempt to commit."""
        envelope = work.envelope
        saga = self.topology.saga_type_of(envelope.type, envelope.sagatype)
        return Head(
            work.partition, delivery.stream, delivery.entry, delivery.deliveries, envelope.subject,
            saga.name if saga else envelope.sagatype, step, envelope.id, envelope.type, self.make_token(),
            envelope.phase == BACK, self.clock(), work.attempt,
        )  # fmt: skip

    def key(self, head: Head, undo: str = "") -> str:
        """The idempotency key of a step for an event, or of its undo."""
        return derive_id("key", head.saga_id, self.participant, head.step, undo, head.event)

    def emissions(
        self, head: Head, emitted: Sequence[Emitted], source: str, ledger: str, traceparent: str
    ) -> tuple[Emission, ...]:
        """Events to be published; ``source`` is the step, or ``step/undo``. ``ledger`` holds the entries
        that planned ones name as their causes, once they are published."""
        emissions = []
        for position, (event, after) in enumerate(emitted):
            event_id, name = derive_id(head.event, self.participant, source, str(position)), type_name(event)
            emission = self._emission(head, event_id, name, encode_data(event))
            if after is not None:
                envelope = Envelope(
                    event_id, name, head.saga_id, emission.data, source=f"{self.participant}/{source}",
                    sagatype=head.saga_type, cause=head.event, ledger=ledger,
                    phase=BACK if head.back else "", began=head.began, traceparent=traceparent,
                )  # fmt: skip
                parked = Parked(1, event=envelope.pack(), step=head.step, planned=True).pack()
                due = self.clock() + round(after * 1000)
                emission = Emission(emission.stream, event_id, name, "", parked, due)
            emissions.append(emission)
        return tuple(emissions)

    def _emission(self, head: Head, event_id: str, event_type: str, data: bytes) -> Emission:
        topic, ends = self._outlet(head.saga_type, event_type)
        return Emission(self.topology.keys.stream(head.partition, topic), event_id, event_type, ends, data)

    def publish(self, head: Head, envelope: Envelope) -> Publish:
        """A planned event is due.

        Raises:
            UnroutableEvent: if no stream carries it any more.
        """
        emission = self._emission(head, envelope.id, envelope.type, envelope.data)
        return Publish(
            head, emission, envelope.source, envelope.cause, envelope.ledger, envelope.traceparent
        )

    def _find_outlet(self, saga_type: str, event_type: str) -> tuple[str, str]:
        """The topic that an event goes to, and what the event does to its saga."""
        return self.topology.stream_of(event_type), self._ends(saga_type, event_type)

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
        letter_id = derive_id("letter", reason, head.saga_id, self.participant, head.step, undo, head.event)
        return Letter.of(
            letter_id, reason, time=self.clock(), participant=self.participant, step=head.step,
            error=note, traceback=detail, subject=envelope.subject, id=envelope.id, type=envelope.type,
            sagatype=head.saga_type, source=envelope.source, cause=envelope.cause, data=envelope.data,
            undo=undo, ledger=envelope.ledger, phase=envelope.phase, traceparent=envelope.traceparent,
            parts=pack(envelopes) if len(envelopes) > 1 and not undo else b"",
        )  # fmt: skip

    def done(
        self, head: Head, bench: Bench, envelopes: Sequence[Envelope], returned: Any,
        emitted: Sequence[Emitted],
    ) -> Done:  # fmt: skip
        """The step took effect."""
        keep, ledger, traceparent = bench.covers(emitted), ledger_of(envelopes), envelopes[-1].traceparent
        causes = self.entry(head) if keep else ledger
        emissions = self.emissions(head, emitted, head.step, causes, traceparent)
        if not keep:
            return Done(head, ledger, False, b"", None, bench.joins, emissions, traceparent)
        kept, result = pack(envelopes), bench.store(returned)
        return Done(head, ledger, True, kept, result, bench.joins, emissions, traceparent)

    def doubtful(self, head: Head, bench: Bench, envelopes: Sequence[Envelope]) -> Done:
        """The step may have taken effect, and will not run any more."""
        return Done(
            head, ledger=ledger_of(envelopes), keep=True, input=pack(envelopes), joins=bench.joins
        )

    def entry(self, head: Head) -> str:
        """A step's entry in the ledger."""
        return f"{self.participant}/{head.step}:{head.event}"

    def aborted(self, head: Head, bench: Bench, envelopes: Sequence[Envelope], note: str) -> Failed:
        """The business said no. There is a letter only if the saga cannot unwind any more.

        What this attempt did is nothing; but an earlier one, which failed or died, may have done something.
        Should another delivery of the event have begun beside this one, the gate knows.
        """
        letter = self.letter(head, Reason.ABORT_TOO_LATE, note, "", envelopes)
        keep = bench.step.compensation is not None and (head.attempt > 1 or head.deliveries > 1)
        return Failed(
            head, "aborted", note, letter, ledger=ledger_of(envelopes), keep=keep,
            input=pack(envelopes), joins=bench.joins,
        )  # fmt: skip

    def dead(
        self, head: Head, bench: Bench, envelopes: Sequence[Envelope], reason: Reason, note: str,
        detail: str = "",
    ) -> Failed:  # fmt: skip
        """The step failed for good. Nobody knows whether it took effect, so its undo is asked for."""
        undoable = bench.step.compensation is not None
        # What could not even be decoded has not run; should an earlier attempt have, the gate knows.
        keep = undoable and reason is not Reason.DATA_MISFIT
        kind = "parked" if bench.policy.on_failure == "park" else "dead"
        return Failed(
            head, kind, note, self.letter(head, reason, note, detail, envelopes),
            detail=detail, ledger=ledger_of(envelopes), keep=keep,
            input=pack(envelopes), joins=bench.joins,
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
            input=pack(envelopes), joins=bench.joins,
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
    if len(envelopes) == 1:
        return envelopes[0].ledger
    return " ".join(dict.fromkeys(entry for each in envelopes for entry in each.ledger.split()))
