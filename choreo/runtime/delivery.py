"""The life of one delivery, on one page: understand it, ask the gate, run the handler, commit.

Whatever happens to a delivery is decided by the gate. This module only finds out what to ask it.
"""

from __future__ import annotations

import dataclasses
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from choreo.broker.clock import Clock
from choreo.broker.gate import (
    Begin,
    BeginUndo,
    Done,
    Emission,
    Failed,
    Head,
    Letter,
    Stuck,
    Undone,
    Verdict,
)
from choreo.broker.groups import Delivery
from choreo.errors import Abort
from choreo.model.context import Context
from choreo.model.event import Event, type_name
from choreo.runtime.committer import Committer
from choreo.runtime.handlers import Bench, describe
from choreo.wire.envelope import (
    BACK,
    Envelope,
    Malformed,
    Reason,
    check_data,
    derive_id,
    encode_data,
    parse,
)
from choreo.wire.limits import MAX_ERROR_CHARACTERS
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
    _steps: dict[str, Bench] = field(init=False)

    def __post_init__(self) -> None:
        self._steps = {bench.step.name: bench for bench in self.benches.values()}

    # -- forward -----------------------------------------------------------------------------------

    def understand(self, delivery: Delivery, topic: str) -> Envelope | None:
        """The envelope, if this participant has a step for it; ``None`` if there is nothing to do.

        What is malformed for everybody is left to the tracker: it routes it to the dead letters once,
        and not once per participant.
        """
        try:
            envelope = parse(delivery.fields or {})
        except Malformed:
            return None
        if envelope.type not in self.benches or self.topology.routes.get(envelope.type) != topic:
            return None
        return envelope

    async def handle(self, delivery: Delivery, envelope: Envelope) -> bool:
        """Handle an event. Returns ``False`` if there was nothing to decide and it is to be acknowledged."""
        bench = self.benches[envelope.type]
        head = self._head(delivery, envelope, bench.step.name)
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
            await self.committer.decide(self._done(head, bench, envelopes, keep=True))
        else:
            await self._run(head, bench, envelopes, events)
        return True

    async def _run(
        self, head: Head, bench: Bench, envelopes: Sequence[Envelope], events: Sequence[Event]
    ) -> None:
        context = self._context(head, key=self._key(head))
        try:
            returned, emitted = await bench.run(events, context)
            keep = bench.covers(emitted)
            done = self._done(
                head, bench, envelopes, keep=keep, result=bench.store(returned) if keep else None,
                emissions=self._emissions(head, emitted, head.step),
            )  # fmt: skip
        except Abort as abort:
            note = abort.reason or "aborted"
            await self.committer.decide(self._failed(head, bench, envelopes, "aborted", note))
        except Exception as error:
            message, detail = describe(error)
            logger.error("%s/%s failed in saga %r: %s", self.participant, head.step, head.saga_id, message)
            await self.committer.decide(self._failed(head, bench, envelopes, "dead", message, detail))
        else:
            await self.committer.decide(done)

    async def _refuse(self, head: Head, envelope: Envelope, bench: Bench, error: Exception) -> bool:
        """Data that the step cannot decode: the tracker's matter if nobody could, else a dead letter."""
        try:
            check_data(envelope.data)
        except Malformed:
            return False
        note = f"{Reason.DATA_MISFIT}: {error}"[:MAX_ERROR_CHARACTERS]
        logger.error("%s/%s cannot decode %s: %s", self.participant, head.step, head.type, error)
        letter = self._letter(head, Reason.DATA_MISFIT, note, "", envelope)
        await self.committer.decide(
            Failed(head, "dead", note, letter, ledger=envelope.ledger, joins=bench.joins)
        )
        return True

    def _done(
        self, head: Head, bench: Bench, envelopes: Sequence[Envelope], *, keep: bool,
        result: bytes | None = None, emissions: tuple[Emission, ...] = (),
    ) -> Done:  # fmt: skip
        return Done(
            head, ledger=_ledger(envelopes), keep=keep, input=_pack(envelopes) if keep else b"",
            result=result, joins=bench.joins, emissions=emissions,
            traceparent=envelopes[-1].traceparent,
        )  # fmt: skip

    def _failed(
        self, head: Head, bench: Bench, envelopes: Sequence[Envelope], kind: str, note: str, detail: str = ""
    ) -> Failed:
        # After an error nobody knows whether the step took effect, so its undo is asked for.
        keep = kind == "dead" and bench.step.compensation is not None
        reason = Reason.STEP_FAILED if kind == "dead" else Reason.ABORT_TOO_LATE
        trigger = next(each for each in envelopes if each.id == head.event)
        return Failed(
            head, kind, note, self._letter(head, reason, note, detail, trigger), detail=detail,
            ledger=_ledger(envelopes), keep=keep, input=_pack(envelopes) if keep else b"", joins=bench.joins,
        )  # fmt: skip

    # -- back --------------------------------------------------------------------------------------

    async def undo(self, delivery: Delivery, envelope: Envelope) -> bool:
        """Handle a request to undo a step. Returns ``False`` if it is none, and to be acknowledged."""
        line = envelope.data.decode(errors="replace")
        owner, _, rest = line.partition("/")
        step, _, event = rest.partition(":")
        if envelope.type != "choreo.undo" or owner != self.participant or not event:
            logger.error("%s: the inbox holds an entry that is no request: %r", self.participant, line[:200])
            return False
        bench = self._steps.get(step)
        undo = bench.step.compensation if bench else None
        name = undo.name if undo else "undo"
        head = dataclasses.replace(self._head(delivery, envelope, step), event=event, type="", back=True)
        answer = await self.committer.decide(BeginUndo(head, name))
        if answer.verdict is not Verdict.RUN:
            return True
        envelopes = _unpack(answer.rest[1])
        trigger = next(each for each in envelopes if each.id == event)
        head = dataclasses.replace(
            head, saga_type=answer.rest[0].decode(), type=trigger.type, began=self.clock()
        )
        await self._run_undo(head, bench, name, envelopes, answer.rest[2])
        return True

    async def _run_undo(
        self, head: Head, bench: Bench | None, name: str, envelopes: Sequence[Envelope], result: bytes
    ) -> None:
        context = self._context(head, key=self._key(head, name), undoes=self._key(head))
        try:
            if bench is None or bench.step.compensation is None:
                raise LookupError(f"{self.participant!r} has no step {head.step!r} with an undo any more")
            events = [bench.decode(each) for each in envelopes]
            emitted = await bench.run_undo(events, bench.restore(result), context)
            emissions = self._emissions(head, emitted, f"{head.step}/{name}")
        except Exception as error:
            note, detail = describe(error)
            logger.error("%s/%s failed in saga %r: %s", self.participant, name, head.saga_id, note)
            trigger = next(each for each in envelopes if each.id == head.event)
            letter = self._letter(head, Reason.UNDO_FAILED, note, detail, trigger)
            await self.committer.decide(Stuck(head, name, note, detail, letter))
        else:
            await self.committer.decide(Undone(head, name, emissions, envelopes[-1].traceparent))

    # -- parts of decisions ------------------------------------------------------------------------

    def _head(self, delivery: Delivery, envelope: Envelope, step: str) -> Head:
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
        )

    def _context(self, head: Head, *, key: str, undoes: str | None = None) -> Context:
        return Context(
            saga_id=head.saga_id, saga_type=head.saga_type, participant=self.participant, step=head.step,
            event_id=head.event, key=key, undoes=undoes, resources=self.resources,
        )  # fmt: skip

    def _key(self, head: Head, undo: str = "") -> str:
        return derive_id("key", head.saga_id, self.participant, head.step, undo, head.event)

    def _emissions(self, head: Head, events: Sequence[Event], source: str) -> tuple[Emission, ...]:
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

    def _letter(self, head: Head, reason: Reason, note: str, detail: str, envelope: Envelope) -> Letter:
        letter_id = derive_id("letter", reason, head.saga_id, self.participant, head.step, head.event)
        return Letter.of(
            letter_id, reason, time=self.clock(), participant=self.participant, step=head.step,
            error=note, traceback=detail, subject=envelope.subject, id=envelope.id, type=envelope.type,
            sagatype=head.saga_type, source=envelope.source, cause=envelope.cause, data=envelope.data,
        )  # fmt: skip


def _pack(envelopes: Sequence[Envelope]) -> bytes:
    return msgspec.msgpack.encode([each.pack() for each in envelopes])


def _unpack(packed: bytes) -> list[Envelope]:
    return [Envelope.unpack(each) for each in msgspec.msgpack.decode(packed, type=list[bytes])]


def _ledger(envelopes: Sequence[Envelope]) -> str:
    """The ledger entries behind several events, each once, in a stable order."""
    return " ".join(dict.fromkeys(entry for each in envelopes for entry in each.ledger.split()))
