"""Every key that choreo uses, by name, type and life. No other module spells one.

All keys of one saga carry the hash tag of its partition, so that one script can change them together,
on one server and on a cluster alike.

=============================  ======  ============================================================
key                            type    what it holds, and for how long
=============================  ======  ============================================================
``{ns:p}:stream:<name>``       stream  the events of one topic
``{ns:p}:inbox:<participant>`` stream  deliveries for one participant only: requests to undo, retries
``{ns:p}:timers``              zset    what is parked, by when it is due (ms)
``{ns:p}:parked``              hash    timer id -> what is parked; gone when it is due
``{ns:p}:journal``             stream  the runtime's own facts: what steps and undos came to
``{ns:p}:dead``                stream  dead letters
``{ns:p}:letters``             hash    dead letter id -> its state, so that none is written twice
``{ns:p}:saga:<id>``           hash    the truth about a saga: state, type, origin, what is open, done marks
``{ns:p}:work:<id>``           hash    its ledger, gone when the saga has ended, and joins
``{ns:p}:view:<id>``           string  the tracker's projection (JSON); can be rebuilt
``{ns:p}:trace:<id>``          list    the tracker's facts of the saga (msgpack); can be rebuilt
``{ns:p}:index:<type>:<state>`` zset   saga id by start time (ms), for listing; can be rebuilt
``{ns:p}:deadlines``           zset    saga id by when its next deadline passes (ms); can be rebuilt
``{ns:p}:tracker``             hash    how far the tracker has read each stream
``{ns:p}:unmade``              zset    in a rebuild: sagas whose view is yet to be made from their trace
``ns:meta``                    hash    layout version, partitions
``ns:contracts``               hash    participant -> its contract (JSON), as its workers last said
``ns:paused``                  hash    participant -> who paused it, when and why (JSON), until it is resumed
=============================  ======  ============================================================
"""

from __future__ import annotations

from binascii import crc_hqx

from choreo.errors import InvalidSagaId
from choreo.wire.limits import MAX_NAME_CHARACTERS

#: The tracker's consumer group. No participant can have this name.
TRACKER_GROUP = "choreo:tracker"


def check_saga_id(saga_id: str) -> str:
    """``saga_id`` itself, if it may be one: 1 to 128 printable characters, no braces.

    Raises:
        InvalidSagaId: otherwise.
    """
    if (
        not isinstance(saga_id, str)
        or not 1 <= len(saga_id) <= MAX_NAME_CHARACTERS
        or not saga_id.isprintable()
        or "{" in saga_id
        or "}" in saga_id
    ):
        raise InvalidSagaId(
            f"saga id {saga_id!r:.200} must be 1 to {MAX_NAME_CHARACTERS} printable characters without braces"
        )
    return saga_id


class Keys:
    """The keys of one namespace."""

    def __init__(self, namespace: str, partitions: int) -> None:
        self.namespace = namespace
        self.partitions = partitions
        self.meta = f"{namespace}:meta"
        self.contracts = f"{namespace}:contracts"
        self.paused = f"{namespace}:paused"
        self._tags = [f"{{{namespace}:{number}}}" for number in range(partitions)]

    def partition(self, saga_id: str) -> int:
        """The partition of a saga: CRC16 (XMODEM, as Redis Cluster uses it) of its id."""
        return crc_hqx(saga_id.encode(), 0) % self.partitions

    def stream(self, partition: int, name: str) -> str:
        return f"{self._tags[partition]}:stream:{name}"

    def inbox(self, partition: int, participant: str) -> str:
        return f"{self._tags[partition]}:inbox:{participant}"

    def inbox_prefix(self, partition: int) -> str:
        """What :meth:`inbox` puts before the participant; the gate finds others' inboxes by it."""
        return f"{self._tags[partition]}:inbox:"

    def journal(self, partition: int) -> str:
        return f"{self._tags[partition]}:journal"

    def timers(self, partition: int) -> str:
        return f"{self._tags[partition]}:timers"

    def parked(self, partition: int) -> str:
        return f"{self._tags[partition]}:parked"

    def dead(self, partition: int) -> str:
        return f"{self._tags[partition]}:dead"

    def letters(self, partition: int) -> str:
        return f"{self._tags[partition]}:letters"

    def record(self, partition: int, saga_id: str) -> str:
        return f"{self._tags[partition]}:saga:{saga_id}"

    def work(self, partition: int, saga_id: str) -> str:
        return f"{self._tags[partition]}:work:{saga_id}"

    def view(self, partition: int, saga_id: str) -> str:
        return f"{self._tags[partition]}:view:{saga_id}"

    def trace(self, partition: int, saga_id: str) -> str:
        return f"{self._tags[partition]}:trace:{saga_id}"

    def index(self, partition: int, saga_type: str, state: str) -> str:
        """``saga_type`` is empty for sagas whose start is not known (yet)."""
        return f"{self._tags[partition]}:index:{saga_type}:{state}"

    def probe(self, partition: int) -> str:
        """A key that is never kept: with it is asked what a user may do with the keys of a partition."""
        return f"{self._tags[partition]}:probe"

    def deadlines(self, partition: int) -> str:
        return f"{self._tags[partition]}:deadlines"

    def tracker(self, partition: int) -> str:
        return f"{self._tags[partition]}:tracker"

    def unmade(self, partition: int) -> str:
        return f"{self._tags[partition]}:unmade"
