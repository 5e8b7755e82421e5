"""The commit gate's typed side: decisions, their arguments for the script, and its answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar

import msgspec

from choreo.broker.answers import Answer, read_answer
from choreo.broker.connection import Argument, Connection, ScriptCall
from choreo.broker.shared import Shared
from choreo.wire.envelope import Reason
from choreo.wire.keys import Keys
from choreo.wire.limits import MAX_DELIVERIES

#: The scripts.
GATE, LOOK = "gate", "look"
#: About how many bytes a decision has without what its handler wrote.
_HEAD = 300


class Identity(msgspec.Struct, frozen=True):
    """Who decides: a participant (its consumer group) and one of its workers (a consumer in it)."""

    participant: str
    consumer: str


class Head(msgspec.Struct, gc=False):
    """What every decision says of its delivery. It is one delivery's own, and filled in as more is known."""

    partition: int
    stream: str
    """Key of the stream or inbox that delivered it."""
    entry: str
    """Stream id of the entry."""
    deliveries: int
    """How often the server has delivered it, this time included."""
    saga_id: str
    saga_type: str
    step: str
    event: str
    """Id of the event; in an undo, of the event that the step handled."""
    type: str
    token: str
    """Marks this attempt: a commit that is sent again is recognised by it."""
    back: bool = False
    began: int = 0
    attempt: int = 1


class Emission(msgspec.Struct, frozen=True, gc=False):
    """An event to be published: its id, where it goes, and what it does to the saga.

    ``ends`` is empty, ``a`` (aborts), ``c1`` (completes) or ``cN`` (completes with N - 1 others).
    An event that is ``due`` later (ms since the epoch) is parked: ``data`` is what to park.
    """

    stream: str
    id: str
    type: str
    ends: str
    data: bytes
    due: int | None = None


class Letter(msgspec.Struct, frozen=True):
    """A dead letter: its id and the fields of its entry."""

    id: str
    fields: tuple[Argument, ...]
    subject: str = ""
    """Of a refused entry: the saga that it names."""

    @classmethod
    def of(cls, letter_id: str, reason: Reason, **about: Argument) -> Letter:
        """A letter with a reason code and any further fields."""
        pairs = {"reason": reason.value, **about}
        return cls(letter_id, tuple(part for pair in pairs.items() for part in pair))


class Decision(msgspec.Struct, frozen=True):
    """Something that a worker decides about a delivery. ``kind`` is the script's word for it."""

    kind: ClassVar[str]
    head: Head

    def arguments(self, shared: Shared) -> list[Argument]:
        """All arguments."""
        return [*self._head(self.kind, shared), *self.body(shared)]

    def _head(self, kind: str, shared: Shared) -> list[Argument]:
        head = self.head
        route = shared.routes[kind, head.stream, head.saga_type, head.step, head.type, head.back]
        return [route, head.entry, head.deliveries, head.saga_id, head.event, head.token, head.began]

    def body(self, shared: Shared) -> list[Argument]:
        """The arguments after the head."""
        raise NotImplementedError

    @property
    def weight(self) -> int:
        """About how many bytes it has."""
        return _HEAD + sum(len(each) for each in self.body(Shared()) if not isinstance(each, int))


class Look(Decision, frozen=True, gc=False):
    """May this step run, if it has no undo, is no join, and was delivered once? Answers run, or ask."""

    kind: ClassVar[str] = "look"

    @property
    def weight(self) -> int:
        return _HEAD


class Begin(Decision, frozen=True, gc=False):
    """May this step run? Answers run, doubt, poison, busy, waiting, duplicate, late, stale or blocked."""

    kind: ClassVar[str] = "begin"
    ledger: str = ""
    undoable: bool = False
    joins: tuple[str, ...] = ()
    """For a join: its event types, in order."""
    part: bytes = b""
    """For a join: this event, packed."""
    most: int = MAX_DELIVERIES
    """How often it may begin and come to nothing."""

    def body(self, shared: Shared) -> list[Argument]:
        return [
            self.head.attempt, self.ledger, _flag(self.undoable), len(self.joins), *self.joins, self.part,
            self.most,
        ]  # fmt: skip

    @property
    def weight(self) -> int:
        return _HEAD + len(self.ledger) + len(self.part)


class Done(Decision, frozen=True, gc=False):
    """A step took effect (or may have, if ``result`` is ``None`` and ``keep``), and emits events."""

    kind: ClassVar[str] = "done"
    ledger: str = ""
    keep: bool = False
    """Whether there is something to undo: make a ledger entry."""
    input: bytes = b""
    result: bytes | None = None
    joins: tuple[str, ...] = ()
    emissions: tuple[Emission, ...] = ()
    traceparent: str = ""

    def arguments(self, shared: Shared) -> list[Argument]:
        if self.ledger or self.keep or self.joins or self.traceparent:
            return [*self._head("done", shared), *self.body(shared)]
        return [*self._head("plain", shared), *_emissions(self.emissions, shared)]

    def body(self, shared: Shared) -> list[Argument]:
        kept: list[Argument] = [self.input] if self.keep else []
        if self.keep and self.result is not None:
            kept.append(self.result)
        return [
            self.ledger, len(self.joins), *self.joins, len(kept), *kept, self.traceparent,
            *_emissions(self.emissions, shared),
        ]  # fmt: skip

    @property
    def weight(self) -> int:
        weight = _HEAD + len(self.ledger) + len(self.input) + len(self.result or b"")
        for each in self.emissions:
            weight += len(each.data)
        return weight


class Failed(Decision, frozen=True):
    """A step will not be tried again by itself.

    ``reason``: ``aborted``, the business said no; ``dead``, an error, and the saga unwinds; ``parked``,
    an error, and the saga waits for an operator.
    """

    kind: ClassVar[str] = "failed"
    reason: str
    note: str
    letter: Letter
    detail: str = ""
    ledger: str = ""
    keep: bool = False
    """Whether it may have taken effect, and so must be undone. Of others that have begun the gate knows."""
    input: bytes = b""
    joins: tuple[str, ...] = ()

    def body(self, shared: Shared) -> list[Argument]:
        return [
            self.head.attempt, self.reason, self.note, self.detail, self.ledger, _flag(self.keep), self.input,
            len(self.joins), *self.joins, self.letter.id, len(self.letter.fields), *self.letter.fields,
        ]  # fmt: skip


class Parking(msgspec.Struct, frozen=True):
    """The next attempt, and why there is one. ``due`` is in milliseconds since the epoch."""

    due: int
    payload: bytes
    """What the inbox will deliver when it is due."""
    note: str
    detail: str

    def arguments(self, attempt: int) -> list[Argument]:
        return [attempt, self.due, self.payload, self.note, self.detail]


class RetryStep(Decision, frozen=True):
    """An attempt of a step failed, and another one is to follow."""

    kind: ClassVar[str] = "retry"
    parking: Parking
    ledger: str = ""
    keep: bool = False
    """Whether the step has an undo: if its saga unwinds meanwhile, it is asked for."""
    input: bytes = b""
    joins: tuple[str, ...] = ()

    def body(self, shared: Shared) -> list[Argument]:
        return [
            *self.parking.arguments(self.head.attempt), self.ledger, _flag(self.keep), self.input,
            len(self.joins), *self.joins,
        ]  # fmt: skip


class Publish(Decision, frozen=True):
    """A planned event is due. Answers committed, or closed if its saga has ended or unwinds."""

    kind: ClassVar[str] = "publish"
    emission: Emission
    source: str
    cause: str
    ledger: str
    traceparent: str

    def body(self, shared: Shared) -> list[Argument]:
        events = _emissions((self.emission,), shared)
        return [self.source, self.cause, self.ledger, self.traceparent, *events]


class RetryUndo(Decision, frozen=True):
    """An attempt of an undo failed, and another one is to follow."""

    kind: ClassVar[str] = "retry_undo"
    undo: str
    parking: Parking

    def body(self, shared: Shared) -> list[Argument]:
        return [self.undo, *self.parking.arguments(self.head.attempt)]


class BeginUndo(Decision, frozen=True):
    """May this undo run? Answers run or poison (with packed input and result), duplicate, closed or stale."""

    kind: ClassVar[str] = "begin_undo"
    undo: str
    most: int = MAX_DELIVERIES
    """How often it may begin and come to nothing."""

    def body(self, shared: Shared) -> list[Argument]:
        return [self.undo, self.head.attempt, self.most]


class Undone(Decision, frozen=True):
    """An undo took effect, and emits compensating events."""

    kind: ClassVar[str] = "undone"
    undo: str
    emissions: tuple[Emission, ...] = ()
    traceparent: str = ""

    def body(self, shared: Shared) -> list[Argument]:
        return [self.undo, self.traceparent, *_emissions(self.emissions, shared)]


class Stuck(Decision, frozen=True):
    """An undo will not be tried again by itself."""

    kind: ClassVar[str] = "stuck"
    undo: str
    note: str
    detail: str
    letter: Letter

    def body(self, shared: Shared) -> list[Argument]:
        fields = self.letter.fields
        return [self.undo, self.note, self.detail, self.letter.id, len(fields), *fields]


@dataclass(slots=True)
class Gate:
    """Sends decisions to the server, a batch per partition."""

    connection: Connection
    keys: Keys

    async def decide(
        self, identity: Identity, now: int, batches: Sequence[tuple[int, Sequence[Decision]]]
    ) -> list[list[Answer] | Exception]:
        """The answers to batches of decisions, each of one partition and at most ``limits.MAX_BATCH`` long.

        ``now`` is in milliseconds since the epoch. A batch that the server refused whole has its error
        in its place; nothing of it was written.

        Raises:
            BrokerUnavailable: if it is not known what was written; send the same decisions again.
        """
        calls = [self._calls(identity, now, partition, decisions) for partition, decisions in batches]
        every = [call for batch in calls for call in batch]
        changes = any(name == GATE for name, _, _ in every)
        answers = iter(await self.connection.run_many(every, changes=changes))
        return [
            _in_order(decisions, batch, list(islice(answers, len(batch))))
            for (_, decisions), batch in zip(batches, calls, strict=True)
        ]

    def _calls(
        self, identity: Identity, now: int, partition: int, decisions: Sequence[Decision]
    ) -> list[ScriptCall]:
        """The calls for a batch: what is only looked at goes by a script of its own."""
        looks = [each for each in decisions if type(each) is Look]
        others = [each for each in decisions if type(each) is not Look] if looks else decisions
        calls: list[ScriptCall] = []
        if looks:
            calls.append((LOOK, *self._look(identity, partition, looks)))
        if others:
            calls.append((GATE, *self._call(identity, now, partition, others)))
        return calls

    def _look(
        self, identity: Identity, partition: int, looks: Sequence[Look]
    ) -> tuple[list[str], list[Argument]]:
        record, work = self.keys.record(partition, ""), self.keys.work(partition, "")
        names: list[str] = []
        arguments: list[Argument] = [identity.participant]
        for head in [each.head for each in looks]:
            names += (record + head.saga_id, work + head.saga_id)
            arguments += (head.step, head.event, head.saga_type)
        return names, arguments

    def _call(
        self, identity: Identity, now: int, partition: int, decisions: Sequence[Decision]
    ) -> tuple[list[str], list[Argument]]:
        keys = self.keys
        names = [
            keys.journal(partition), keys.dead(partition), keys.letters(partition),
            keys.timers(partition), keys.parked(partition),
        ]  # fmt: skip
        record, work = keys.record(partition, ""), keys.work(partition, "")
        shared = Shared(len(names) + 2 * len(decisions) + 1)
        body: list[Argument] = []
        for decision in decisions:
            saga_id = decision.head.saga_id
            names += (record + saga_id, work + saga_id)
            body += decision.arguments(shared)
        head: list[Argument] = [now, identity.participant, identity.consumer, keys.inbox_prefix(partition)]
        arguments = [*head, *shared.arguments(), len(decisions), *body]
        return [*names, *shared.streams], arguments


def _in_order(
    decisions: Sequence[Decision], calls: Sequence[ScriptCall], answers: Sequence[Any]
) -> list[Answer] | Exception:
    """The answers to the decisions of a batch; or the error of one of its calls."""
    for each in answers:
        if isinstance(each, Exception):
            return each
    if len(calls) == 1:
        return list(map(read_answer, answers[0]))
    looks, others = map(iter, answers)
    return [read_answer(next(looks if type(each) is Look else others)) for each in decisions]


def _flag(value: bool) -> str:
    return "1" if value else ""


def _emissions(emissions: Sequence[Emission], shared: Shared) -> list[Argument]:
    arguments: list[Argument] = [len(emissions)]
    for each in emissions:
        if each.due is None:
            arguments += (shared.outlets[each.stream, each.type, each.ends], each.id, each.data)
        else:
            arguments += (shared.outlets[each.stream, each.type, "p"], each.id, each.data, each.due)
    return arguments
