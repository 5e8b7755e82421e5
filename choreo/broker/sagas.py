"""Sagas as the server's records know them: beginning one, and unwinding one on an operator's word."""

from __future__ import annotations

from dataclasses import dataclass

from choreo.broker.connection import Argument, Connection
from choreo.errors import BrokerRefused, SagaClosed, SagaConflict, SagaNotFound
from choreo.model.saga import State
from choreo.wire.envelope import SPEC_VERSION, Envelope
from choreo.wire.keys import Keys


@dataclass(frozen=True, slots=True)
class Sagas:
    """The records of one namespace."""

    connection: Connection
    keys: Keys

    async def start(self, stream: str, envelope: Envelope) -> bool:
        """Begin a saga with its first event, on the topic ``stream``. Idempotent on the envelope's id.

        Returns:
            Whether it was begun now; ``False`` if it began with this very event before.

        Raises:
            SagaConflict: if the saga began with another event.
        """
        partition = self.keys.partition(envelope.subject)
        names = [
            self.keys.record(partition, envelope.subject),
            self.keys.work(partition, envelope.subject),
            self.keys.stream(partition, stream),
        ]
        fields: dict[str, Argument] = {
            "id": envelope.id, "type": envelope.type, "source": envelope.source, "subject": envelope.subject,
            "time": envelope.time, "sagatype": envelope.sagatype, "specversion": SPEC_VERSION,
            "traceparent": envelope.traceparent, "data": envelope.data,
        }  # fmt: skip
        flat: list[Argument] = [part for name, value in fields.items() if value for part in (name, value)]
        answer, state = await self.connection.run("start", names, [envelope.sagatype, envelope.id, *flat])
        if answer == b"conflict":
            raise SagaConflict(
                f"saga {envelope.subject!r} exists already ({state.decode()}) and began with another event"
                " or payload; use another saga id"
            )
        if answer == b"blocked":
            raise in_the_way(state)
        return bool(answer == b"started")

    async def compensate(self, saga_id: str, now: int, token: str, note: str, who: str) -> State:
        """Unwind a running saga. The same ``token`` sent again does nothing more. Returns its new state.

        Raises:
            SagaNotFound: if nothing is known of it.
            SagaClosed: if it has ended or unwinds already.
        """
        partition = self.keys.partition(saga_id)
        keys = self.keys
        names = [
            keys.record(partition, saga_id), keys.work(partition, saga_id), keys.journal(partition),
            keys.dead(partition), keys.letters(partition), keys.timers(partition), keys.parked(partition),
        ]  # fmt: skip
        arguments: list[Argument] = [now, saga_id, keys.inbox_prefix(partition), token, note, who]
        answer, state = await self.connection.run("compensate", names, arguments)
        if answer == b"unknown":
            raise SagaNotFound(f"no saga {saga_id!r} in namespace {keys.namespace!r}")
        if answer == b"blocked":
            raise in_the_way(state)
        if answer == b"closed":
            raise SagaClosed(
                f"saga {saga_id!r} is {state.decode()} already; only a running saga can be compensated",
                state.decode(),
            )
        return State(state.decode())

    async def state(self, saga_id: str) -> State | None:
        """The state that the saga's record holds, or ``None`` if there is no record."""
        record = self.keys.record(self.keys.partition(saga_id), saga_id)
        state = await self.connection.call("HGET", record, "state")
        return State(state.decode()) if state else None


def in_the_way(key: bytes) -> BrokerRefused:
    """What is said of a key that does not let a script write."""
    what = "it has the wrong type, or is a stream to which nothing can be added any more"
    return BrokerRefused(f"{key.decode()} is in the way: {what}; delete or rename it")
