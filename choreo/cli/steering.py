"""`choreo compensate` and `choreo tracker rebuild`: what an operator may do."""

from __future__ import annotations

import getpass
import os
import sys

import click

from choreo.cli import failures
from choreo.cli.output import show, show_json
from choreo.cli.session import open_choreography, run_async
from choreo.cli.settings import Settings
from choreo.drawing.status import format_state
from choreo.drawing.text import clean
from choreo.tracker.follower import Tracker


def compensate(settings: Settings, saga_id: str, *, note: str, sure: bool, as_json: bool) -> int:
    """`choreo compensate`."""
    if not note.isprintable():
        raise click.UsageError("--note must be one line of printable text")
    if not sure and not sys.stdin.isatty():
        raise click.UsageError("nobody is there to be asked; give --yes to unwind the saga without asking")
    if not sure and not click.confirm(f"Undo all that saga {clean(saga_id)} has done?", err=True):
        return failures.BAD_NEWS
    return run_async(_compensate, settings, saga_id, note, as_json)


async def _compensate(settings: Settings, saga_id: str, note: str, as_json: bool) -> int:
    async with open_choreography(settings) as choreo:
        state = await choreo.compensate(saga_id, note=note, who=_user())
    if as_json:
        show_json({"id": saga_id, "status": state})
    else:
        show(format_state(state))
    return failures.FINE


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # in a container, a user may have a number only
        return f"user {os.getuid()}"


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
