"""What operators may do: look at dead letters, try again, leave it at that, pause."""

from __future__ import annotations

import getpass
import os
import uuid
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from functools import partial

import msgspec

from choreo.broker.broker import Broker
from choreo.broker.clock import Clock
from choreo.broker.letters import Answer, Filed, OrderSlip
from choreo.errors import (
    ConfigurationError,
    EventError,
    LetterNotFound,
    SagaClosed,
    SagaNotFound,
)
from choreo.model.letters import DeadLetter, LetterState, Outcome, Retried, Settlement
from choreo.model.pause import Pause
from choreo.model.saga import State
from choreo.wire.cards import decode_card
from choreo.wire.envelope import Malformed, Reason, check_data
from choreo.wire.facts import Place, judge
from choreo.wire.keys import check_saga_id
from choreo.wire.letters import attempt_of, decode_letter, refused_fields
from choreo.wire.topology import Topology

#: Letters of one saga that `retry` and a replay of a saga look at, at most.
_MAX_OF_SAGA = 1_000


class Operations:
    """Orders of operators. Each is carried out once, is kept in the saga's trace with who gave it, and has
    one outcome however many give it at the same time."""

    topology: Topology
    broker: Broker
    clock: Clock

    # -- dead letters ------------------------------------------------------------------------------

    async def dead_letters(
        self, *, saga_id: str | None = None, participant: str | None = None, reason: str | None = None,
        state: str | None = "open", limit: int = 50, oldest_first: bool = False,
    ) -> list[DeadLetter]:  # fmt: skip
        """Dead letters, the newest first: of one saga, of one participant, with one reason code.

        By default those that wait for an operator; ``state=None`` lists those that were replayed or
        resolved, too. What was dropped is gone.

        Raises:
            ConfigurationError: if ``state`` or ``reason`` is none.
        """
        wanted = _Wanted(saga_id, participant, reason, state)
        partitions = None if saga_id is None else [self.topology.keys.partition(check_saga_id(saga_id))]
        found = await self.broker.letters.listed(
            wanted, limit=limit, oldest_first=oldest_first, partitions=partitions
        )
        return [decode_letter(each.place, each.fields, each.state) for each in found]

    async def dead_letter(self, letter_id: str) -> DeadLetter:
        """One dead letter, by its id.

        Raises:
            LetterNotFound: if there is none, or it was dropped.
        """
        filed = await self._find(letter_id)
        if not filed.entry:
            raise LetterNotFound(f"dead letter {letter_id!r} {_became(filed.state)}; what it held is deleted")
        return decode_letter(filed.place, filed.fields, filed.state)

    async def replay(
        self, letter: str | DeadLetter, *, data: bytes | None = None,
        fields: Mapping[str, bytes] | None = None, note: str = "", who: str | None = None,
        rehearse: bool = False,
    ) -> Settlement:  # fmt: skip
        """Make the delivery of a dead letter again, with fresh attempts.

        ``data`` (JSON) takes the place of the event's payload; ``fields`` take the place of other fields of
        an entry that was refused. With ``rehearse`` nothing is done, and only said what would become of it.

        The outcome says whether it was replayed. A letter that was replayed, dropped or resolved before is
        ``closed``, and nothing happens. ``refused`` is what cannot be replayed: ``why`` says what to do.

        Raises:
            LetterNotFound: if there is no such letter.
            EventError: if ``data`` is no JSON, or too large.
        """
        filed = await self._find(letter)
        if data is not None:
            _check_payload(data)
        if data is not None or fields:
            note = f"{note} (with other data)".lstrip()
        slip = self._slip(note, who, rehearse=rehearse)
        if filed.state != LetterState.OPEN:
            return _closed(filed, filed.state)
        try:
            order = self._plan_replay(filed, slip, data, fields or {})
        except _Refused as refused:
            return _settlement(filed, Outcome.REFUSED, why=str(refused))
        return _settled(filed, await self.broker.persist(order))

    def _plan_replay(
        self, filed: Filed, slip: OrderSlip, data: bytes | None, fields: Mapping[str, bytes]
    ) -> Callable[[], Awaitable[Answer]]:
        """The request that replays a letter."""
        letters = self.broker.letters
        if filed.text("reason") == Reason.ENTRY_LOST:
            raise _Refused("its entry was deleted before it was handled: nothing is left to replay. Drop it")
        if filed.text("participant"):
            if fields:
                raise _Refused("only the data of a step's event can be replaced, and no other field")
            if filed.text("undo") and data is not None:
                raise _Refused("an undo gets the event and the result that its step had; they stay the same")
            try:
                attempt, parts = attempt_of(filed.fields, data)
            except (UnicodeDecodeError, msgspec.DecodeError) as error:
                raise _Refused(f"the letter cannot be read: {error}") from None
            return partial(letters.replay, filed, slip, attempt, parts)
        stream = filed.text("stream")
        entry = self._mend(filed, data, fields)
        return partial(letters.republish, filed, slip, stream, entry)

    def _mend(self, filed: Filed, data: bytes | None, fields: Mapping[str, bytes]) -> dict[bytes, bytes]:
        """A refused entry with its fields replaced, if it would not be refused again."""
        entry = {**refused_fields(filed.fields), **{name.encode(): value for name, value in fields.items()}}
        if data is not None:
            entry[b"data"] = data
        missing = {*filed.text("cut").split()} - set(fields) - ({"data"} if data is not None else set())
        if missing:
            raise _Refused(f"it was too large to be kept: of {', '.join(sorted(missing))} a part is missing")
        places = {
            self.topology.keys.stream(filed.partition, topic): Place(topic, filed.partition)
            for topic in self.topology.streams
        }
        place = places.get(filed.text("stream"))
        if place is None:
            raise _Refused(f"{filed.text('stream')} is no stream of {self.topology.source or 'the topology'}")
        try:
            judge(self.topology, place, entry)
        except Malformed as malformed:
            raise _Refused(f"it would be refused again ({malformed}); replace what is wrong") from None
        return entry

    async def drop(
        self, letter: str | DeadLetter, *, note: str = "", who: str | None = None, rehearse: bool = False
    ) -> Settlement:
        """Delete a dead letter for good. Its saga stays as it is. With ``rehearse`` nothing is done.

        Raises:
            LetterNotFound: if there is no such letter.
        """
        filed = await self._find(letter)
        slip = self._slip(note, who, rehearse=rehearse)
        if filed.state != LetterState.OPEN:
            return _closed(filed, filed.state)
        return _settled(filed, await self.broker.persist(partial(self.broker.letters.drop, filed, slip)))

    async def _find(self, letter: str | DeadLetter) -> Filed:
        letter_id, place = (letter, "") if isinstance(letter, str) else (letter.id, letter.place)
        letters = self.broker.letters
        found = await letters.at(place) if place else None
        if found is None or found.id != letter_id:
            found = await letters.find(letter_id)
        if found is None:
            raise LetterNotFound(f"no dead letter {letter_id!r} in namespace {self.topology.namespace!r}")
        return found

    # -- sagas -------------------------------------------------------------------------------------

    async def retry(self, saga_id: str, *, note: str = "", who: str | None = None) -> Retried:
        """Try again, now, all of a saga that waits for its next attempt or has failed for good.

        Raises:
            SagaNotFound: if nothing is known of it.
        """
        slip = self._slip(note, who)
        hurry = partial(self.broker.letters.hurry, check_saga_id(saga_id), slip)
        answer = await self.broker.persist(hurry)
        if answer.word == "unknown":
            raise SagaNotFound(f"no saga {saga_id!r} in namespace {self.topology.namespace!r}")
        letters = await self.dead_letters(saga_id=saga_id, limit=_MAX_OF_SAGA, oldest_first=True)
        settlements = [await self.replay(each, note=note, who=who) for each in letters]
        return Retried(saga_id, int(answer.detail), settlements)

    async def resolve(self, saga_id: str, *, note: str, who: str | None = None) -> int:
        """Count a saga that failed, or cannot be undone, as put right by hand. Nothing more is undone.

        ``note`` says what was done; it is kept in the saga's trace. Returns how many of its dead letters
        wait no longer because of that.

        Raises:
            SagaNotFound: if nothing is known of it.
            SagaClosed: if it has neither failed nor does it unwind; ``state`` says how it stands.
            ConfigurationError: if ``note`` is empty.
        """
        if not note.strip():
            raise ConfigurationError("say in `note` what was put right, and how")
        resolve = partial(self.broker.letters.resolve, check_saga_id(saga_id), self._slip(note, who))
        answer = await self.broker.persist(resolve)
        if answer.word == "unknown":
            raise SagaNotFound(f"no saga {saga_id!r} in namespace {self.topology.namespace!r}")
        if answer.word == "closed":
            state = State(answer.detail)
            hint = "; compensate it first" if state is State.RUNNING else ""
            raise SagaClosed(
                f"saga {saga_id!r} is {state}; only a saga that has failed or unwinds can be resolved{hint}",
                state,
            )
        return int(answer.detail)

    # -- participants ------------------------------------------------------------------------------

    async def pause(self, participant: str, *, note: str = "", who: str | None = None) -> Pause:
        """Have a participant's workers take nothing new, within about a second. What they have in hand they
        finish. Returns the pause that holds: if it was paused before, the earlier one.

        Raises:
            ConfigurationError: if no such participant is known.
        """
        await self._check_participant(participant)
        pause = Pause(_one_line(who or user()), self.clock(), _one_line(note))
        return await self.broker.persist(partial(self.broker.meta.pause, participant, pause))

    async def resume(self, participant: str) -> Pause | None:
        """Let a paused participant work again. Returns the pause that has ended; ``None`` if there was none.

        Raises:
            ConfigurationError: if no such participant is known.
        """
        pause = (await self.paused()).get(participant)
        if pause is None:
            await self._check_participant(participant)
        await self.broker.persist(partial(self.broker.meta.resume, participant))
        return pause

    async def paused(self) -> dict[str, Pause]:
        """Every participant that is paused."""
        return await self.broker.persist(self.broker.meta.paused)

    async def _check_participant(self, participant: str) -> None:
        told = [decode_card(each).participant for each in (await self.broker.meta.contracts()).values()]
        known = {*self.topology.participants, *told}
        if participant not in known:
            names = ", ".join(sorted(known)) or "none"
            raise ConfigurationError(f"no participant {participant!r} is known; there are: {names}")

    def _slip(self, note: str, who: str | None, *, rehearse: bool = False) -> OrderSlip:
        token = uuid.uuid4().hex[:16]
        return OrderSlip(self.clock(), token, _one_line(who or user()), _one_line(note), rehearse)


class _Refused(Exception):
    """A letter cannot be replayed; the message says why."""


class _Wanted:
    """Which letters are listed."""

    def __init__(
        self, saga_id: str | None, participant: str | None, reason: str | None, state: str | None
    ) -> None:
        try:
            self._state = LetterState(state) if state else None
            self._reason = Reason(reason) if reason else None
        except ValueError as error:
            raise ConfigurationError(
                f"{error}; states are {', '.join(LetterState)}, reasons are {', '.join(Reason)}"
            ) from None
        self._wanted = {"subject": saga_id, "participant": participant}

    def __call__(self, filed: Filed) -> bool:
        if self._state and filed.state.partition(" ")[0] != self._state:
            return False
        if self._reason and filed.text("reason") != self._reason:
            return False
        return all(value is None or filed.text(name) == value for name, value in self._wanted.items())


def _settled(filed: Filed, answer: Answer) -> Settlement:
    """What became of an order about a letter, in words."""
    match answer.word:
        case "replayed":
            return _settlement(filed, Outcome.REPLAYED, LetterState.REPLAYED)
        case "dropped":
            return _settlement(filed, Outcome.DROPPED, LetterState.DROPPED)
        case "closed":
            return _closed(filed, answer.detail)
        case "refused":
            return _settlement(filed, Outcome.REFUSED, why=_why_not(filed, answer.detail))
    why = "it has gone, or failed once more, in this very moment; list them again"
    return _settlement(filed, Outcome.REFUSED, why=why)


def _settlement(
    filed: Filed, outcome: Outcome, state: LetterState = LetterState.OPEN, why: str = ""
) -> Settlement:
    letter = decode_letter(filed.place, filed.fields, filed.state)
    return Settlement(letter.id, outcome, state, why, letter.saga, letter.handler)


def _closed(filed: Filed, state: str) -> Settlement:
    """Somebody has dealt with the letter before."""
    return _settlement(filed, Outcome.CLOSED, decode_letter("", {}, state).state, _became(state))


def _why_not(filed: Filed, state: str) -> str:
    """Why a saga does not let a step or an undo run again, and what may be done instead."""
    if filed.text("undo"):
        return f"its saga is {state}, and does not wait for this undo any more. Drop it"
    if state == State.RESOLVED:
        return "its saga is resolved: nothing of it runs any more. Drop it"
    return f"its saga is {state}: its steps do not run any more. Drop it, and start a new saga if one is due"


def _became(state: str) -> str:
    """What became of a letter, in words: ``was replayed by ann at 2026-11-21 05:56:19 UTC``."""
    letter = decode_letter("", {}, state)
    when = datetime.fromtimestamp(letter.settled / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return f"was {letter.state} by {letter.settled_by} at {when}"


def _check_payload(data: bytes) -> None:
    try:
        check_data(data)
    except Malformed as malformed:
        raise EventError(f"this payload cannot be sent: {malformed}") from None


def user() -> str:
    """Who runs this process, as far as the system knows."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # in containers a user may have no name
        return f"user {os.getuid()}"


def _one_line(text: str) -> str:
    """``text`` as it can be sent and kept in one line."""
    return " ".join(text.split()).encode("utf-8", "backslashreplace").decode()
