"""`choreo start`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import anyio
import click

from choreo.choreography import Choreography
from choreo.cli import failures
from choreo.cli.output import remark, show, show_json
from choreo.cli.payload import check_payload, find_class
from choreo.cli.session import open_choreography, run_async
from choreo.cli.settings import Settings
from choreo.drawing.status import format_end
from choreo.errors import UnroutableEvent
from choreo.model.facts import View
from choreo.model.saga import State
from choreo.wire.nodes import suggest
from choreo.wire.streams_yaml import load
from choreo.wire.topology import Topology

#: Seconds of waiting after which it is said, once, how the saga stands.
_SAY_AFTER = 5.0


@dataclass(frozen=True, slots=True)
class Beginning:
    """The saga to begin. ``timeout`` is in seconds; None waits for ever."""

    event_type: str
    payload: bytes
    saga_id: str | None = None
    wait: bool = False
    timeout: float | None = None


def read_payload(data: str | None, file: str | None) -> bytes:
    """The payload from the command line, from a file (``-``: standard input), or else ``{}``."""
    if data is not None:
        return data.encode(errors="surrogateescape")
    if file is None:
        return b"{}"
    try:
        return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except (OSError, ValueError) as error:
        raise click.FileError(file, getattr(error, "strerror", None) or str(error)) from None


def start(settings: Settings, beginning: Beginning, *, as_json: bool) -> int:
    """`choreo start`."""
    topology = load(settings.path)
    check_type(topology, beginning.event_type)
    event = find_class(topology, beginning.event_type)
    payload = check_payload(beginning.event_type, beginning.payload, event)
    return run_async(_start, settings, topology, beginning, payload, as_json)


def check_type(topology: Topology, event_type: str) -> None:
    """Refuse an event type that starts no saga, and say which ones do."""
    if event_type not in topology.starts:
        known = sorted(topology.starts)
        right = suggest(event_type, known) or f"; sagas start with {', '.join(known) or 'nothing yet'}"
        raise UnroutableEvent(f"no saga of {topology.source} starts with {event_type}{right}")


async def _start(
    settings: Settings, topology: Topology, beginning: Beginning, payload: bytes, as_json: bool
) -> int:
    async with open_choreography(settings, topology) as choreo:
        saga_id = await choreo.start_raw(beginning.event_type, payload, saga_id=beginning.saga_id)
        if not beginning.wait:
            show_json({"id": saga_id}) if as_json else click.echo(saga_id)
            return failures.FINE
        if not as_json:
            click.echo(saga_id)
        view = await _wait(choreo, saga_id, beginning.timeout)
    if as_json:
        show_json(view)
    else:
        show(format_end(view, choreo.clock()))
    return failures.FINE if view.status is State.COMPLETED else failures.BAD_NEWS


async def _wait(choreo: Choreography, saga_id: str, timeout: float | None) -> View:
    """Wait for the end of a saga; if that takes long, say how it stands meanwhile."""
    async with anyio.create_task_group() as saying:
        saying.start_soon(_say_how_it_stands, choreo, saga_id)
        view = await choreo.wait(saga_id, timeout=timeout)
        saying.cancel_scope.cancel()
    return view


async def _say_how_it_stands(choreo: Choreography, saga_id: str) -> None:
    await anyio.sleep(_SAY_AFTER)
    state = await choreo.broker.sagas.state(saga_id)
    if state is not None and state.ended:
        remark(f"The saga is {state}, but no tracker has projected that; is one running?")
    else:
        remark("Still waiting; see its trace for what it waits for. Ctrl-C ends the waiting, not the saga.")
