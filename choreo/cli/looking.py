"""`choreo sagas` and `choreo trace`."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio
import click
from rich.live import Live

from choreo.choreography import Choreography
from choreo.cli import failures
from choreo.cli.output import console_for, remark, show, show_json
from choreo.cli.sagas_format import format_sagas, format_stuck
from choreo.cli.session import open_choreography, run_async
from choreo.cli.settings import Settings
from choreo.drawing.trace_format import format_trace
from choreo.errors import SagaNotFound
from choreo.model.trace import Trace

#: Seconds between looks at a saga that is followed.
_LOOK = 0.2
#: Seconds that a saga which the server knows may take to reach the tracker's views.
_PATIENCE = 2.0
#: Looks that find nothing new before a saga that has ended is left: what it led to may still run.
_QUIET_LOOKS = 2


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which sagas to list. ``since`` is in seconds before now."""

    saga_type: str | None = None
    states: tuple[str, ...] = ()
    since: float | None = None
    limit: int = 50


def list_sagas(settings: Settings, wanted: Wanted, *, as_json: bool) -> int:
    """`choreo sagas`."""
    return run_async(_list_sagas, settings, wanted, as_json)


async def _list_sagas(settings: Settings, wanted: Wanted, as_json: bool) -> int:
    async with open_choreography(settings) as choreo:
        now = choreo.clock()
        since = 0 if wanted.since is None else max(0, now - round(wanted.since * 1000))
        _check_type(choreo, wanted.saga_type)
        views = await choreo.sagas(
            saga_type=wanted.saga_type, states=wanted.states, since=since, limit=wanted.limit
        )
    if as_json:
        show_json(views)
    elif views:
        show(format_sagas(views, now=now, limit=wanted.limit))
    else:
        remark("No such saga. `choreo start TYPE` begins one; a tracker must run for it to be seen here.")
    return failures.FINE


def list_stuck(
    settings: Settings, saga_type: str | None, longest: float, limit: int, *, as_json: bool
) -> int:
    """`choreo sagas --stuck`. ``longest`` is in seconds."""
    return run_async(_list_stuck, settings, saga_type, longest, limit, as_json)


async def _list_stuck(
    settings: Settings, saga_type: str | None, longest: float, limit: int, as_json: bool
) -> int:
    async with open_choreography(settings) as choreo:
        _check_type(choreo, saga_type)
        found = await choreo.stuck(longest=longest, saga_type=saga_type, limit=limit)
        now = choreo.broker.clock()
    if as_json:
        show_json(found)
    elif found:
        show(format_stuck(found, now=now, limit=limit))
    else:
        remark("No saga is stuck, as far as the tracker has seen.")
    return failures.BAD_NEWS if found else failures.FINE


def _check_type(choreo: Choreography, saga_type: str | None) -> None:
    types = choreo.topology.sagas
    if saga_type is not None and saga_type not in types:
        raise click.UsageError(f"{saga_type!r} is no type of saga; there are {', '.join(types) or 'none'}")


def show_trace(settings: Settings, saga_id: str, *, follow: bool, errors: bool, as_json: bool) -> int:
    """`choreo trace`."""
    return run_async(_show_trace, settings, saga_id, follow, errors, as_json)


async def _show_trace(settings: Settings, saga_id: str, follow: bool, errors: bool, as_json: bool) -> int:
    async with open_choreography(settings) as choreo:
        trace = await _first_trace(choreo, saga_id)
        if follow and not as_json and sys.stdout.isatty():
            trace = await _follow_live(choreo, trace, errors)
        elif follow:
            trace = await _follow(choreo, trace, _ignore)
    if as_json:
        show_json(trace)
    else:
        show(format_trace(trace, now=choreo.clock(), errors=errors))
    return failures.FINE


async def _first_trace(choreo: Choreography, saga_id: str) -> Trace:
    """The trace of a saga; if it was begun a moment ago, wait until the tracker has seen it."""
    patient_until = anyio.current_time() + _PATIENCE
    while True:
        try:
            return await choreo.trace(saga_id)
        except SagaNotFound:
            if anyio.current_time() > patient_until or await choreo.broker.sagas.state(saga_id) is None:
                raise
        await anyio.sleep(_LOOK / 4)


async def _follow_live(choreo: Choreography, trace: Trace, errors: bool) -> Trace:
    # What is live is wiped at the end: it is cut to the terminal's height, the last picture is not.
    with Live(console=console_for(sys.stdout), auto_refresh=False, transient=True) as live:

        async def draw(trace: Trace) -> None:
            live.update(format_trace(trace, now=choreo.clock(), errors=errors), refresh=True)

        await draw(trace)
        return await _follow(choreo, trace, draw)


async def _follow(choreo: Choreography, trace: Trace, tell: Callable[[Trace], Awaitable[None]]) -> Trace:
    """Look until the saga has ended and nothing more happens; returns its last trace."""
    quiet = 0
    while not trace.saga.status.ended or quiet < _QUIET_LOOKS:
        await anyio.sleep(_LOOK)
        newer = await choreo.trace(trace.saga.id)
        quiet = quiet + 1 if newer == trace else 0
        trace = newer
        await tell(trace)
    return trace


async def _ignore(_: Trace) -> None:
    pass
