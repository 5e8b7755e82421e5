"""A desk to drive the gate by hand: publish, read, decide, and look at everything that was written."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from choreo.broker.answers import Answer, Verdict
from choreo.broker.broker import Broker
from choreo.broker.connection import Argument, Connection
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
    Stuck,
    Undone,
)
from choreo.broker.groups import Delivery
from choreo.broker.leases import Held
from choreo.wire.envelope import Reason, parse
from choreo.wire.keys import Keys

SAGA_TYPE = "order"
NOW = 1_700_000_000_000

_tokens = itertools.count(1)


@dataclass(frozen=True)
class Desk:
    """One partition of a namespace, and what a test wants to know of it."""

    broker: Broker

    @classmethod
    def on(cls, connection: Connection, namespace: str) -> Desk:
        return cls(Broker(connection, Keys(namespace, 1)))

    @property
    def keys(self) -> Keys:
        return self.broker.keys

    def stream(self, name: str = "facts") -> str:
        return self.keys.stream(0, name)

    def inbox(self, participant: str) -> str:
        return self.keys.inbox(0, participant)

    def record(self, saga: str = "s1") -> str:
        return self.keys.record(0, saga)

    def work(self, saga: str = "s1") -> str:
        return self.keys.work(0, saga)

    async def call(self, *command: Argument) -> Any:
        return await self.broker.connection.call(*command)

    async def worker(self, participant: str, consumer: str = "one") -> Worker:
        """A worker's seat at this desk. It reads ``facts`` and its inbox; no handler runs."""
        identity = Identity(participant, consumer)
        await self.broker.groups.ensure([self.stream(), self.inbox(participant)], participant)
        return Worker(self, identity)

    async def publish(self, event: str, type: str = "Placed", *, saga: str = "s1", **attributes: str) -> str:
        """XADD an event as any program may. Returns the entry's id."""
        fields = {"id": event, "type": type, "subject": saga, "data": "{}", **attributes}
        flat = [part for pair in fields.items() for part in pair]
        entry: bytes = await self.call("XADD", self.stream(), "*", *flat)
        return entry.decode()

    def emit(self, event: str, type: str = "Paid", *, ends: str = "", stream: str = "results") -> Emission:
        return Emission(self.stream(stream), event, type, ends, b'{"amount":1}')

    async def emitted(self, stream: str = "results") -> list[str]:
        """The ids of the events in a stream, in order."""
        entries = await self.call("XRANGE", self.stream(stream), "-", "+")
        return [_fields(flat)["id"] for _, flat in entries]

    async def letters(self) -> list[str]:
        """The reasons of the dead letters, in order."""
        entries = await self.call("XRANGE", self.keys.dead(0), "-", "+")
        return [_fields(flat)["reason"] for _, flat in entries]

    async def journal(self) -> list[str]:
        """The kinds of the journal's entries, in order."""
        entries = await self.call("XRANGE", self.keys.journal(0), "-", "+")
        return [_fields(flat)["kind"] for _, flat in entries]

    async def state(self, saga: str = "s1") -> str | None:
        state = await self.call("HGET", self.record(saga), "state")
        return state.decode() if state else None

    async def pending(self, stream: str, group: str) -> list[tuple[str, str, int]]:
        """What is pending of a stream (its key) in a group: (entry, consumer, deliveries)."""
        rows = await self.call("XPENDING", stream, group, "-", "+", 1000)
        return [(entry.decode(), consumer.decode(), count) for entry, consumer, _, count in rows]

    async def dump(self) -> dict[str, Any]:
        """Every key of the partition with everything in it, groups and pending lists included."""
        found = {}
        for key in sorted(await self._all_keys()):
            kind = (await self.call("TYPE", key)).decode()
            found[key] = (kind, await self._content(kind, key))
        return found

    async def clear(self) -> None:
        """Delete every key of the partition."""
        keys = await self._all_keys()
        if keys:
            await self.call("DEL", *keys)

    async def _all_keys(self) -> list[str]:
        pattern, cursor = f"{{{self.keys.namespace}:0}}:*", b"0"
        keys: set[str] = set()
        while True:
            cursor, page = await self.call("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
            keys.update(key.decode() for key in page)
            if int(cursor) == 0:
                return list(keys)

    async def _content(self, kind: str, key: str) -> Any:
        match kind:
            case "string":
                return await self.call("GET", key)
            case "hash":
                flat = await self.call("HGETALL", key)
                return dict(zip(flat[::2], flat[1::2], strict=True))
            case "stream":
                groups = [_fields(flat) for flat in await self.call("XINFO", "GROUPS", key)]
                pending = {each["name"]: await self.pending(key, each["name"]) for each in groups}
                return await self.call("XRANGE", key, "-", "+"), groups, pending
        raise AssertionError(f"{key} is a {kind}; the gate makes none")


@dataclass(frozen=True)
class Worker:
    """One consumer of one participant, as the gate knows it."""

    desk: Desk
    identity: Identity

    @property
    def name(self) -> str:
        return self.identity.participant

    async def peer(self, consumer: str) -> Worker:
        """Another worker of the same participant."""
        return await self.desk.worker(self.name, consumer)

    async def read(self, count: int = 1) -> list[Delivery]:
        """The next entries of ``facts``."""
        return await self._read(self.desk.stream(), count)

    async def read_one(self) -> Delivery:
        (delivery,) = await self.read()
        return delivery

    async def requests(self, count: int = 100) -> list[Delivery]:
        """The next requests to undo."""
        return await self._read(self.desk.inbox(self.name), count)

    async def request(self) -> Delivery:
        (delivery,) = await self.requests()
        return delivery

    async def read_all(self, count: int = 100) -> list[Delivery]:
        """The next entries of ``facts`` and the next requests to undo: so many of each."""
        return await self._read(self.desk.stream(), count, self.desk.inbox(self.name))

    async def _read(self, stream: str, count: int, *others: str) -> list[Delivery]:
        return await self.desk.broker.groups.read(self.identity, [stream, *others], count, wait=False)

    async def claim(self, delivery: Delivery) -> Delivery:
        """Take a delivery over, whoever has it, as a worker does when the lease has run out."""
        taken = await self.claim_if_pending(delivery)
        assert taken is not None
        return taken

    async def claim_if_pending(self, delivery: Delivery) -> Delivery | None:
        """As :meth:`claim`; ``None`` if the entry was acknowledged meanwhile."""
        held = Held(delivery.stream, 0, [delivery.entry])
        taken, _ = await self.desk.broker.leases.claim(self.identity, held, 0, NOW)
        return taken[0] if taken else None

    async def pending(self) -> list[tuple[str, str, int]]:
        """What is pending in this participant's groups, of ``facts`` and of the inbox."""
        streams = (self.desk.stream(), self.desk.inbox(self.name))
        return [row for stream in streams for row in await self.desk.pending(stream, self.name)]

    async def decide(self, *decisions: Decision) -> list[Answer]:
        """The gate's answers to one batch."""
        (answers,) = await self.desk.broker.gate.decide(self.identity, NOW, [(0, decisions)])
        if isinstance(answers, Exception):
            raise answers
        return answers

    async def verdicts(self, *decisions: Decision) -> list[Verdict]:
        return [answer.verdict for answer in await self.decide(*decisions)]

    async def verdict(self, decision: Decision) -> Verdict:
        (verdict,) = await self.verdicts(decision)
        return verdict

    def head(self, delivery: Delivery, *, step: str = "charge", token: str = "") -> Head:
        """The head of a decision about a delivery of ``facts``."""
        envelope = parse(delivery.fields or {})
        return Head(
            0, delivery.stream, delivery.entry, delivery.deliveries, envelope.subject, SAGA_TYPE, step,
            envelope.id, envelope.type, token or f"t{next(_tokens)}", envelope.phase == "back", NOW,
        )  # fmt: skip

    def undo_head(self, delivery: Delivery, *, token: str = "") -> Head:
        """The head of a decision about a request to undo."""
        envelope = parse(delivery.fields or {})
        step, _, event = envelope.data.decode().partition("/")[2].partition(":")
        return Head(
            0, delivery.stream, delivery.entry, delivery.deliveries, envelope.subject, SAGA_TYPE, step,
            event, "", token or f"t{next(_tokens)}", True, NOW,
        )  # fmt: skip

    async def begin_beside(self, delivery: Delivery) -> tuple[Delivery, Head]:
        """Begin a step that another delivery has begun: it is busy at first, and begins after a lease."""
        if delivery.deliveries == 1:
            assert await self.verdict(begin(self.head(delivery), delivery)) is Verdict.BUSY
            delivery = await self.claim(delivery)
        head = self.head(delivery)
        assert await self.verdict(begin(head, delivery)) is Verdict.RUN
        return delivery, head

    async def run(
        self, delivery: Delivery, *emissions: Emission, step: str = "charge", keep: bool = True
    ) -> Answer:
        """Begin and commit a step that has an undo."""
        head = self.head(delivery, step=step)
        assert await self.verdict(begin(head, delivery)) is Verdict.RUN
        (answer,) = await self.decide(done(head, delivery, *emissions, keep=keep))
        return answer


def begin(head: Head, delivery: Delivery, *, undoable: bool = True, joins: Sequence[str] = ()) -> Begin:
    """Begin a step, as the runtime asks for it."""
    ledger, part = parse(delivery.fields or {}).ledger, head.event.encode() if joins else b""
    return Begin(head, ledger=ledger, undoable=undoable, joins=tuple(joins), part=part)


def done(
    head: Head, delivery: Delivery, *emissions: Emission, keep: bool = True, joins: Sequence[str] = ()
) -> Done:
    """A step took effect."""
    ledger = parse(delivery.fields or {}).ledger
    return Done(
        head, ledger=ledger, keep=keep, input=b"input" if keep else b"", result=b"result" if keep else None,
        joins=tuple(joins), emissions=emissions,
    )  # fmt: skip


def doubtful(head: Head, delivery: Delivery) -> Done:
    """A step may have taken effect; nobody knows."""
    return Done(head, ledger=parse(delivery.fields or {}).ledger, keep=True, input=b"input")


def aborted(head: Head, delivery: Delivery) -> Failed:
    """A step raised Abort."""
    letter = _letter(head, Reason.ABORT_TOO_LATE)
    return Failed(
        head, "aborted", "declined", letter, ledger=parse(delivery.fields or {}).ledger, input=b"input"
    )


def dead(head: Head, delivery: Delivery, *, keep: bool = True) -> Failed:
    """A step raised an error."""
    return Failed(
        head, "dead", "boom", _letter(head, Reason.STEP_FAILED), ledger=parse(delivery.fields or {}).ledger,
        keep=keep, input=b"input" if keep else b"",
    )  # fmt: skip


def begin_undo(head: Head) -> BeginUndo:
    """Begin an undo."""
    return BeginUndo(head, "refund")


def undone(head: Head, *emissions: Emission) -> Undone:
    """An undo took effect."""
    return Undone(head, "refund", emissions)


def stuck(head: Head) -> Stuck:
    """An undo raised an error."""
    return Stuck(head, "refund", "boom", "traceback", _letter(head, Reason.UNDO_FAILED))


def _letter(head: Head, reason: Reason) -> Letter:
    return Letter.of(f"{reason}:{head.saga_id}:{head.step}:{head.event}", reason, subject=head.saga_id)


def _fields(flat: Sequence[Any]) -> dict[str, str]:
    return {
        name.decode(): value.decode(errors="replace") if isinstance(value, bytes) else str(value)
        for name, value in zip(flat[::2], flat[1::2], strict=True)
    }


@asynccontextmanager
async def connected(url: str) -> Any:
    """A connection to a real server, closed afterwards."""
    connection = Connection.open(url)
    try:
        yield connection
    finally:
        await connection.close()
