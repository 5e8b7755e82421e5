"""`choreo check` and `choreo graph`: what can be said before anything runs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.text import Text

from choreo.cli import failures, graph_format
from choreo.cli.output import show, show_json
from choreo.cli.settings import Settings
from choreo.drawing.text import clean, count
from choreo.errors import ConfigurationError
from choreo.loading import flow_of, load_all
from choreo.model import checks
from choreo.model.checks import Finding, Severity
from choreo.model.flow import Flow
from choreo.wire.streams_yaml import load

_COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow"}
#: A message may name many steps; it is cut only where nobody would read on.
_MESSAGE_LIMIT = 2000
#: What stands for a finding's code where the configuration itself is at fault.
_CONFIGURATION = "configuration"


def check(settings: Settings, *, strict: bool, as_json: bool) -> int:
    """`choreo check`."""
    try:
        flow = _load_flow(settings)
    except ConfigurationError as error:
        if not as_json:
            raise
        show_json([_data(fault.where, Severity.ERROR, _CONFIGURATION, fault.what) for fault in error.faults])
        return failures.WRONG_USE
    findings = checks.check(flow)
    if as_json:
        show_json([_data(each.where, each.severity, each.code, each.what) for each in findings])
    else:
        show(Group(*format_findings(findings), format_summary(findings, flow)))
    bad = [each for each in findings if strict or each.severity is Severity.ERROR]
    return failures.BAD_NEWS if bad else failures.FINE


def _load_flow(settings: Settings) -> Flow:
    topology = load(settings.path)
    return flow_of(topology, load_all(topology))


def _data(where: str, severity: str, code: str, what: str) -> dict[str, str]:
    return {"where": where, "severity": severity, "code": code, "what": what}


def format_findings(findings: Sequence[Finding]) -> Iterator[Text]:
    """One paragraph for each finding: ``file:line: severity code: what``, as compilers write it."""
    for each in findings:
        yield Text.assemble(
            (clean(_from_here(each.where)), "bold"), ": ", (each.severity, _COLOURS[each.severity]),
            (f" {each.code}", "bright_black"), f": {clean(each.what, _MESSAGE_LIMIT)}",
        )  # fmt: skip


def format_summary(findings: Sequence[Finding], flow: Flow) -> Text:
    """How many findings there are, or what was looked at if there are none."""
    counts = [
        count(number, severity)
        for severity in Severity
        if (number := sum(each.severity is severity for each in findings))
    ]
    if counts:
        return Text(", ".join(counts), style=_COLOURS[min(findings, key=lambda each: each.severity).severity])
    participants = len({step.participant for step in flow.steps})
    looked_at = {
        "participant": participants, "step": len(flow.steps), "event type": len(flow.events),
        "saga": len(flow.plan.sagas),
    }  # fmt: skip
    counted = [count(number, noun) for noun, number in looked_at.items()]
    return Text(f"✓ nothing found in {', '.join(counted)}", style="green")


def _from_here(where: str) -> str:
    """A place as seen from the current folder, if it is below that."""
    here = f"{Path.cwd()}{os.sep}"
    return where.removeprefix(here)


def show_graph(settings: Settings, form: str) -> int:
    """`choreo graph`, in one of the forms ``tree``, ``mermaid``, ``dot`` and ``json``."""
    flow = _load_flow(settings)
    if form == "json":
        show_json(graph_format.to_data(flow))
    else:
        show(_drawn(flow, form), fold=form == "tree")
    return failures.FINE


def _drawn(flow: Flow, form: str) -> Any:
    if form == "tree":
        return graph_format.to_tree(flow)
    return Text(graph_format.to_mermaid(flow) if form == "mermaid" else graph_format.to_dot(flow))
