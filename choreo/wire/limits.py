"""Every limit on what choreo takes from outside or hands to the server, in one place."""

from __future__ import annotations

#: Bytes of one event's JSON. Larger ones are refused before they are sent.
MAX_DATA_BYTES = 256 * 1024
#: How deep JSON may nest.
MAX_DATA_DEPTH = 64
#: Characters of a saga id, an event id, a type, or the name of a step or an undo.
MAX_NAME_CHARACTERS = 128
#: Characters of a source: participant/step/undo.
MAX_SOURCE_CHARACTERS = 400
#: Characters of the ledger attribute: what an event's causes may still have to undo.
MAX_LEDGER_CHARACTERS = 64 * 1024
#: Bytes of one attribute of a journal entry: `asks` may name many undos.
MAX_JOURNAL_BYTES = 1024 * 1024
#: Events that one handler may emit for one delivery.
MAX_EMITTED = 100
#: Decisions in one call of the gate; it bounds how long the server is busy with one script.
MAX_BATCH = 100
#: Bytes in one call of the gate, and one decision more.
MAX_BATCH_BYTES = 1024 * 1024
#: Characters that are kept of an error's message, and of its traceback (the end, where the cause stands).
MAX_ERROR_CHARACTERS = 1_000
MAX_TRACEBACK_CHARACTERS = 4_000
#: How often a handler may begin with an event and come to nothing, before that is held to kill its workers.
MAX_DELIVERIES = 5
#: Leases for which an event loop may be blocked before what its worker holds is given to others.
MAX_BLOCKED_LEASES = 6
#: Timers of one partition that one script moves at most.
MAX_DUE = 100
#: Entries that the tracker may have left unread in a stream when a deadline is to pass.
MAX_UNREAD = 200
#: Days of a deadline.
MAX_DEADLINE_DAYS = 3_650
#: Entries of one stream that one script trims at most, about.
MAX_TRIMMED = 10_000
#: Sagas of one partition that one script forgets at most.
MAX_FORGOTTEN = 100
#: Seconds for which streams and ended sagas are kept unless streams.yaml says otherwise.
DEFAULT_KEEP = 7 * 86_400.0
#: Seconds for which deliveries for one participant only are kept at most: queues need no history.
MAX_INBOX_KEEP = 3_600.0
#: Partitions of a namespace.
MAX_PARTITIONS = 1_024
#: The oldest server whose commands suffice (major, minor).
MIN_SERVER = (6, 2)
#: Version of the layout of keys and entries. A process that finds another one on the server stops.
LAYOUT_VERSION = 2
