"""`choreo doctor`."""

from __future__ import annotations

from collections.abc import Sequence

import click
from rich.console import Group
from rich.table import Table
from rich.text import Text

from choreo.broker.address import server_url
from choreo.broker.broker import Broker
from choreo.broker.clock import wall_clock
from choreo.broker.connection import public_url
from choreo.cli import failures, logs
from choreo.cli.output import show, show_json
from choreo.cli.session import naming_server, run_async
from choreo.cli.settings import Settings
from choreo.doctor import examine as doctor
from choreo.doctor.verdict import Checked, Verdict
from choreo.drawing.text import clean, count
from choreo.wire.streams_yaml import load

#: Verdict -> its sign and its colour.
_LOOKS: dict[Verdict, tuple[str, str]] = {
    Verdict.OK: ("✓", "green"),
    Verdict.UNKNOWN: ("?", "bright_black"),
    Verdict.WARNING: ("!", "yellow"),
    Verdict.PROBLEM: ("✗", "red"),
}
#: Columns that the name of a check takes.
_NAME = 16
#: What is found may name many streams; it is cut only where nobody would read on.
_LIMIT = 2_000


def examine(settings: Settings, *, as_json: bool) -> int:
    """`choreo doctor`."""
    return run_async(_examine, settings, as_json)


async def _examine(settings: Settings, as_json: bool) -> int:
    logs.configure(settings.verbose)
    topology = load(settings.path)
    url = server_url(topology, settings.redis)
    with naming_server(url):
        # No client is opened: it would join the namespace, or refuse to where the doctor shall say why.
        async with Broker.open(url, topology.keys) as broker:
            found = await doctor.examine(topology, broker, wall_clock)
    if as_json:
        show_json(found)
    else:
        for each in found:
            show(format_check(each))
            # Not folded: it is there to be copied.
            show(format_remedy(each), fold=False)
        click.echo()
        show(format_summary(found, public_url(url)), fold=False)
    problems = any(each.verdict is Verdict.PROBLEM for each in found)
    return failures.BAD_NEWS if problems else failures.FINE


def format_check(found: Checked) -> Table:
    """What was found, beside the name of the check."""
    sign, colour = _LOOKS[found.verdict]
    row = Table.grid(padding=(0, 2, 0, 0))
    name = Text.assemble((f"{sign} ", colour), (f"{found.check:{_NAME}}", "bold"))
    row.add_row(name, Text(clean(found.what, _LIMIT)))
    return row


def format_remedy(found: Checked) -> Group:
    """What to do about it: one line for each thing, which is not to be folded."""
    return Group(*(Text(f"      {clean(line, _LIMIT)}", style="cyan") for line in found.remedy))


def format_summary(found: Sequence[Checked], server: str) -> Text:
    """How many problems and warnings there are."""
    counts = [
        count(number, verdict)
        for verdict in (Verdict.PROBLEM, Verdict.WARNING)
        if (number := sum(each.verdict is verdict for each in found))
    ]
    worst = max(found, key=lambda each: list(Verdict).index(each.verdict)).verdict
    where = f"at {clean(server)}" if server else "there"
    return Text(f"{', '.join(counts) or 'nothing is wrong'} {where}", style=_LOOKS[worst][1])
