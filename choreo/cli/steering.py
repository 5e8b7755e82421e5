"""What operators order for one saga, one participant or the tracker."""

from __future__ import annotations

import sys

import click
from rich.text import Text

from choreo.cli import failures
from choreo.cli.letters_format import format_pause, format_retried
from choreo.cli.output import remark, show, show_json
from choreo.cli.session import open_choreography, run_async
from choreo.cli.settings import Settings
from choreo.drawing.status import format_state
from choreo.drawing.text import clean, count
from choreo.model.saga import State
from choreo.tracker.follower import Tracker


def compensate(settings: Settings, saga_id: str, *, note: str, sure: bool, as_json: bool) -> int:
    """`choreo compensate`."""
    check_note(note)
    if not sure and not sys.stdin.isatty():
        raise click.UsageError("nobody is there to be asked; give --yes to unwind the saga without asking")
    if not sure and not click.confirm(f"Undo all that saga {clean(saga_id)} has done?", err=True):
        return failures.BAD_NEWS
    return run_async(_compensate, settings, saga_id, note, as_json)


async def _compensate(settings: Settings, saga_id: str, note: str, as_json: bool) -> int:
    async with open_choreography(settings) as choreo:
        state = await choreo.compensate(saga_id, note=note)
    if as_json:
        show_json({"id": saga_id, "status": state})
    else:
        show(format_state(state))
    return failures.FINE


def retry(settings: Settings, saga_id: str, *, note: str, as_json: bool) -> int:
    """`choreo retry`."""
    check_note(note)
    return run_async(_retry, settings, saga_id, note, as_json)


async def _retry(settings: Settings, saga_id: str, note: str, as_json: bool) -> int:
    async with open_choreography(settings) as choreo:
        retried = await choreo.retry(saga_id, note=note)
    if as_json:
        show_json(retried)
    elif retried.due or retried.letters:
        show(format_retried(retried))
    if not retried.anything and not as_json:
        remark(f"There is nothing to retry in saga {saga_id}. Its trace says what it waits for.")
    return failures.FINE if retried.anything else failures.BAD_NEWS


def resolve(settings: Settings, saga_id: str, *, note: str, as_json: bool) -> int:
    """`choreo resolve`."""
    check_note(note)
    if not note.strip():
        raise click.UsageError("--note must say what was put right, and how")
    return run_async(_resolve, settings, saga_id, note, as_json)


async def _resolve(settings: Settings, saga_id: str, note: str, as_json: bool) -> int:
    async with open_choreography(settings) as choreo:
        settled = await choreo.resolve(saga_id, note=note)
    if as_json:
        show_json({"id": saga_id, "status": State.RESOLVED, "letters": settled})
    else:
        letters = f", and {count(settled, 'dead letter')} with it" if settled else ""
        show(Text.assemble(format_state(State.RESOLVED), letters))
    return failures.FINE


def pause(settings: Settings, participant: str, *, note: str, as_json: bool) -> int:
    """`choreo pause`."""
    check_note(note)
    return run_async(_pause, settings, participant, note, as_json)


async def _pause(settings: Settings, participant: str, note: str, as_json: bool) -> int:
    async with open_choreography(settings) as choreo:
        held = await choreo.pause(participant, note=note)
        now = choreo.clock()
    if as_json:
        show_json({"participant": participant, "paused": held})
    else:
        show(format_pause(participant, held, now=now))
    return failures.FINE


def resume(settings: Settings, participant: str, *, as_json: bool) -> int:
    """`choreo resume`."""
    return run_async(_resume, settings, participant, as_json)


async def _resume(settings: Settings, participant: str, as_json: bool) -> int:
    async with open_choreography(settings) as choreo:
        ended = await choreo.resume(participant)
        now = choreo.clock()
    if as_json:
        show_json({"participant": participant, "ended": ended})
    elif ended is None:
        remark(f"{participant} was not paused.")
    else:
        show(format_pause(participant, ended, now=now).append(" ▶ it works again"))
    return failures.FINE


def check_note(note: str) -> None:
    """Refuse a note that would not show in one line."""
    if not note.isprintable():
        raise click.UsageError("--note must be one line of printable text")


def rebuild(settings: Settings, *, as_json: bool) -> int:
    """`choreo tracker rebuild`."""
    return run_async(_rebuild, settings, as_json)


async def _rebuild(settings: Settings, as_json: bool) -> int:
    async with open_choreography(settings) as choreo:
        projected = await Tracker(choreo.topology, choreo.broker).rebuild()
    if as_json:
        show_json({"projected": projected})
    else:
        click.echo(f"projected {projected} {'entry' if projected == 1 else 'entries'}")
    return failures.FINE
