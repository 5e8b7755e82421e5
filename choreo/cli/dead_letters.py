"""`choreo dlq`: list, show, replay and drop dead letters."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

import click

from choreo.choreography import Choreography
from choreo.cli import failures
from choreo.cli.letters_format import format_letter, format_letters, format_pauses, format_settlement
from choreo.cli.output import remark, show, show_json
from choreo.cli.payload import check_payload, find_class
from choreo.cli.session import open_choreography, run_async
from choreo.cli.settings import Settings
from choreo.cli.steering import check_note
from choreo.drawing.text import count
from choreo.errors import LetterNotFound
from choreo.model.letters import DeadLetter, LetterState, Outcome, Settlement

Order: TypeAlias = Callable[[str | DeadLetter], Awaitable[Settlement]]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which letters are meant; ``None`` is whichever."""

    saga_id: str | None = None
    participant: str | None = None
    reason: str | None = None
    state: str = "open"
    limit: int = 50


@dataclass(frozen=True, slots=True)
class Choice:
    """Letters by their ids, or (if there are none) those that fit; and how to deal with them."""

    letters: Sequence[str]
    wanted: Wanted
    note: str = ""
    rehearse: bool = False
    yes: bool = False


@dataclass(frozen=True, slots=True)
class Mended:
    """What takes the place of what a letter holds."""

    payload: bytes | None = None
    fields: dict[str, bytes] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.payload is not None or bool(self.fields)


def parse_fields(texts: Sequence[str]) -> dict[str, bytes]:
    """Fields, each given as ``NAME=VALUE``.

    Raises:
        click.UsageError: if one of them is none.
    """
    fields = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.UsageError(f"--set takes NAME=VALUE, such as --set type=OrderPlaced, not {text!r}")
        fields[name] = value.encode(errors="surrogateescape")
    return fields


def list_letters(settings: Settings, wanted: Wanted, *, as_json: bool) -> int:
    """`choreo dlq list`."""
    return run_async(_list_letters, settings, wanted, as_json)


async def _list_letters(settings: Settings, wanted: Wanted, as_json: bool) -> int:
    async with open_choreography(settings) as choreo:
        letters = await _fitting(choreo, wanted)
        pauses = await choreo.paused()
        now = choreo.clock()
    if as_json:
        show_json(letters)
        return failures.FINE
    if letters:
        show(format_letters(letters, now=now, limit=wanted.limit))
    else:
        remark("No such dead letter." if wanted.state == "open" else "No dead letter stands so.")
    if pauses:
        show(format_pauses(pauses, now=now))
    return failures.FINE


async def _fitting(choreo: Choreography, wanted: Wanted, *, oldest_first: bool = False) -> list[DeadLetter]:
    return await choreo.dead_letters(
        saga_id=wanted.saga_id, participant=wanted.participant, reason=wanted.reason,
        state=None if wanted.state == "any" else wanted.state, limit=wanted.limit, oldest_first=oldest_first,
    )  # fmt: skip


def show_letter(settings: Settings, letter_id: str, *, as_json: bool) -> int:
    """`choreo dlq show`."""
    return run_async(_show_letter, settings, letter_id, as_json)


async def _show_letter(settings: Settings, letter_id: str, as_json: bool) -> int:
    async with open_choreography(settings) as choreo:
        letter = await choreo.dead_letter(letter_id)
        now = choreo.clock()
    show_json(letter) if as_json else show(format_letter(letter, now=now))
    return failures.FINE


def replay(settings: Settings, choice: Choice, mended: Mended, *, as_json: bool) -> int:
    """`choreo dlq replay`."""
    if mended and len(choice.letters) != 1:
        raise click.UsageError("--data, --file and --set are for one letter; name it")
    return run_async(_replay, settings, choice, mended, as_json)


async def _replay(settings: Settings, choice: Choice, mended: Mended, as_json: bool) -> int:
    check_note(choice.note)
    async with open_choreography(settings) as choreo:
        payload = mended.payload
        if payload is not None:
            letter = await choreo.dead_letter(choice.letters[0])
            named = mended.fields.get("type", b"").decode(errors="replace")
            event_type = letter.type or named or letter.fields.get("type", "")
            payload = check_payload(event_type, payload, find_class(choreo.topology, event_type))
        order = partial(
            choreo.replay, data=payload, fields=mended.fields, note=choice.note, rehearse=choice.rehearse
        )
        return await _carry_out(choreo, choice, order, "Replay {}?", as_json=as_json)


def drop(settings: Settings, choice: Choice, *, as_json: bool) -> int:
    """`choreo dlq drop`."""
    return run_async(_drop, settings, choice, as_json)


async def _drop(settings: Settings, choice: Choice, as_json: bool) -> int:
    check_note(choice.note)
    async with open_choreography(settings) as choreo:
        order = partial(choreo.drop, note=choice.note, rehearse=choice.rehearse)
        question = "Delete {} for good? Their sagas stay as they are."
        return await _carry_out(choreo, choice, order, question, as_json=as_json)


async def _carry_out(
    choreo: Choreography, choice: Choice, order: Order, question: str, *, as_json: bool
) -> int:
    """Deal with each letter in turn, and say what became of it."""
    letters: Sequence[str | DeadLetter] = choice.letters
    if not letters:
        letters = await _fitting(choreo, choice.wanted, oldest_first=True)
    drops = question.startswith("Delete")
    if letters and not _is_sure(choice, question, len(letters), must_ask=drops or not choice.letters):
        return failures.BAD_NEWS
    settled: list[Settlement] = []
    for letter in letters:
        settled.append(await _settle(order, letter))
        if not as_json:
            show(format_settlement(settled[-1], rehearsed=choice.rehearse))
    if as_json:
        show_json(settled)
    elif not letters:
        remark("No open dead letter fits.")
    elif not choice.letters and len(letters) == choice.wanted.limit:
        remark(f"These are the oldest {choice.wanted.limit}; there may be more.")
    wish = LetterState.DROPPED if drops else LetterState.REPLAYED
    return failures.FINE if letters and all(each.state is wish for each in settled) else failures.BAD_NEWS


async def _settle(order: Order, letter: str | DeadLetter) -> Settlement:
    """What became of one letter; one that is not there must not hold up the others."""
    try:
        return await order(letter)
    except LetterNotFound as error:
        return Settlement(letter if isinstance(letter, str) else letter.id, Outcome.REFUSED, why=str(error))


def _is_sure(choice: Choice, question: str, number: int, *, must_ask: bool) -> bool:
    if choice.yes or choice.rehearse or not must_ask:
        return True
    if not sys.stdin.isatty():
        raise click.UsageError(
            f"nobody is there to be asked about {count(number, 'letter')}; give --yes, or look with --dry-run"
        )
    return click.confirm(question.format(count(number, "letter")), err=True)
