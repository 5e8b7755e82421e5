"""A seat at the gate: one consumer whose decisions a test makes by hand."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from retry_kit import NOW, Stage

from choreo.broker.answers import Answer, Verdict
from choreo.broker.gate import (
    Begin,
    BeginUndo,
    Decision,
    Done,
    Emission,
    Failed,
    Head,
    Identity,
    Letter,
    Parking,
    RetryStep,
    RetryUndo,
)
from choreo.broker.groups import Delivery
from choreo.runtime.parked import Work
from choreo.wire.envelope import Reason, parse
from choreo.wire.inbox import Parked

_tokens = itertools.count(1)


def _parking(due: int, parked: Parked) -> Parking:
    return Parking(due=due, payload=parked.pack(), note="OSError: no line", detail="Traceback ...")


@dataclass(frozen=True)
class Seat:
    """One consumer of ``payments`` in partition 0. It reads ``orders`` and its inbox; no handler runs."""

    stage: Stage
    identity: Identity
    step: str = "charge"

    @classmethod
    async def at(cls, stage: Stage, consumer: str = "one") -> Seat:
        seat = cls(stage, Identity("payments", consumer))
        await stage.broker.groups.ensure(seat.streams, "payments")
        return seat

    @property
    def streams(self) -> list[str]:
        keys = self.stage.topology.keys
        return [keys.stream(0, "orders"), keys.inbox(0, "payments")]

    async def publish(self, saga_id: str = "s1", event_id: str = "e1") -> None:
        """XADD a Placed, as any program may."""
        fields = ("id", event_id, "type", "Placed", "subject", saga_id, "data", "{}")
        await self.stage.call("XADD", self.streams[0], "*", *fields)

    async def read(self) -> list[Delivery]:
        return await self.stage.broker.groups.read(self.identity, self.streams, 100, wait=False)

    async def take(self) -> Delivery:
        """The next delivery; there must be just one."""
        (delivery,) = await self.read()
        return delivery

    async def claim(self, delivery: Delivery) -> Delivery:
        """Take a delivery over, as a worker does when the lease has run out."""
        stream, entry, group = delivery.stream, delivery.entry, self.identity.participant
        await self.stage.call("XCLAIM", stream, group, self.identity.consumer, 0, entry)
        ((_, _, _, count),) = await self.stage.call("XPENDING", stream, group, entry, entry, 1)
        return Delivery(stream, entry, count, delivery.fields)

    async def decide(self, *decisions: Decision) -> list[Answer]:
        (answers,) = await self.stage.broker.gate.decide(self.identity, NOW, [(0, decisions)])
        if isinstance(answers, Exception):
            raise answers
        return answers

    async def verdict(self, decision: Decision) -> Verdict:
        (answer,) = await self.decide(decision)
        return answer.verdict

    def head(self, delivery: Delivery) -> Head:
        """The head of a decision about a delivery: an event, a retry, or a request to undo."""
        envelope = parse(delivery.fields or {})
        work = Work.of_inbox(envelope, 0) if delivery.stream == self.streams[1] else Work(envelope, 0)
        step, event = self.step, work.envelope.id
        if work.undo:
            step, _, event = work.undo.partition("/")[2].partition(":")
        return Head(
            partition=0, stream=delivery.stream, entry=delivery.entry, deliveries=delivery.deliveries,
            saga_id=envelope.subject, saga_type="order", step=step, event=event,
            type="" if work.undo else "Placed", token=f"t{next(_tokens)}", back=bool(work.undo),
            began=NOW, attempt=work.attempt,
        )  # fmt: skip

    def retry(self, delivery: Delivery, *, due: int = NOW + 1000, keep: bool = True) -> RetryStep:
        """This attempt of a step failed, and the next one is due at ``due`` (ms)."""
        head = self.head(delivery)
        envelope = parse(delivery.fields or {})
        event = Work.of_inbox(envelope, 0).envelope if delivery.stream == self.streams[1] else envelope
        parking = _parking(due, Parked(head.attempt + 1, event=event.pack()))
        return RetryStep(head, parking, keep=keep, input=b"input" if keep else b"")

    def retry_undo(self, delivery: Delivery, *, due: int = NOW + 1000) -> RetryUndo:
        """This attempt of an undo failed, and the next one is due at ``due`` (ms)."""
        head = self.head(delivery)
        parked = Parked(head.attempt + 1, undo=f"payments/{head.step}:{head.event}")
        return RetryUndo(head, "refund", _parking(due, parked))

    def begin(self, delivery: Delivery, *, undoable: bool = True) -> Begin:
        return Begin(self.head(delivery), undoable=undoable)

    def begin_undo(self, delivery: Delivery) -> BeginUndo:
        return BeginUndo(self.head(delivery), "refund")

    def done(self, delivery: Delivery) -> Done:
        """The step took effect, and emits a Paid."""
        head = self.head(delivery)
        paid = Emission(self.stage.topology.keys.stream(0, "money"), f"paid-{head.event}", "Paid", "", b"{}")
        return Done(head, keep=True, input=b"input", result=b"result", emissions=(paid,))

    def dead(self, delivery: Delivery) -> Failed:
        """The step failed for good."""
        head = self.head(delivery)
        letter = Letter.of(f"dead:{head.saga_id}:{head.event}", Reason.STEP_FAILED, subject=head.saga_id)
        return Failed(head, "dead", "OSError", letter, keep=True, input=b"input")

    async def park(self, saga_id: str = "s1", event_id: str = "e1", *, due: int = NOW + 1000) -> Delivery:
        """Publish an event, begin its step, and let the first attempt fail. Returns the delivery."""
        await self.publish(saga_id, event_id)
        delivery = await self.take()
        assert await self.verdict(self.begin(delivery)) is Verdict.RUN
        assert await self.verdict(self.retry(delivery, due=due)) is Verdict.COMMITTED
        return delivery
