"""`choreo rehearse`: an invariant under every single fault, before anything runs for real."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from choreo.cli import failures, logs
from choreo.cli.output import show, show_json
from choreo.cli.settings import Settings
from choreo.drawing.text import clean, clean_lines, count
from choreo.loading import import_root, load_function
from choreo.testing.casting import Cast, cast
from choreo.testing.exploration import InvariantViolated, explore
from choreo.testing.matrix import Case, cases_of
from choreo.testing.trials import Invariant, Trial, Verdict, rehearse
from choreo.wire.streams_yaml import load

#: Verdict -> its symbol and its colour.
_LOOKS = {
    Verdict.HELD: ("✓", "green"),
    Verdict.VIOLATED: ("✗", "red"),
    Verdict.NOT_REACHED: ("-", "bright_black"),
}
#: What stands in the table where nothing goes wrong.
CALM = "nothing goes wrong"


def run(settings: Settings, spec: str, *, only: str, seeds: int, as_json: bool) -> int:
    """`choreo rehearse`."""
    # What goes wrong here is planted; whoever wants to see it logged says so with -v.
    logs.configure(settings.verbose, logging.CRITICAL)
    topology = load(settings.path)
    invariant: Invariant = load_function(spec, import_root(topology))
    choreography = cast(topology)
    calm = Case(CALM, (), topology)
    cases = [calm, *(case for case in cases_of(choreography, topology) if only in case.name)]
    trials = []
    for case, trial in rehearse(invariant, cases):
        trials.append((case, trial))
        if not as_json:
            show(format_trial(case, trial), fold=False)
        if case is calm and trial.verdict is Verdict.VIOLATED:
            break  # the faults would be blamed for what is wrong without them
    found = explored(invariant, choreography, seeds) if seeds else None
    if as_json:
        show_json({"trials": [to_data(*each) for each in trials], "explored": seeds, "found": found})
    else:
        told = [*format_violations(trials), format_summary(trials), *format_found(found, seeds)]
        show(Group(*told), fold=False)
    bad = found or any(trial.verdict is Verdict.VIOLATED for _, trial in trials)
    return failures.BAD_NEWS if bad else failures.FINE


def explored(invariant: Invariant, choreography: Cast, seeds: int) -> str | None:
    """What an exploration found, as it tells it; ``None`` if the invariant held."""
    try:
        explore(invariant, seeds, source=choreography.topology)
    except InvariantViolated as error:
        return str(error)
    return None


def to_data(case: Case, trial: Trial) -> dict[str, Any]:
    """One trial, for ``--json``."""
    return {
        "fault": case.name,
        "verdict": trial.verdict,
        "sagas": list(trial.ends),
        "error": _said(trial) if trial.error is not None else None,
        "repeat": case.line if trial.error is not None else None,
        "trace": trial.tree or None,
    }


def format_trial(case: Case, trial: Trial) -> Text:
    """One line of the table: what went wrong, how the sagas ended, and whether the invariant held."""
    symbol, colour = _LOOKS[trial.verdict]
    ends = ", ".join(trial.ends) if trial.verdict is not Verdict.NOT_REACHED else str(trial.verdict)
    line = Text.assemble((f"{symbol} ", colour), f"{clean(case.name):<62}  ", (clean(ends), "bright_black"))
    if trial.verdict is Verdict.VIOLATED:
        line.append(f"  {clean(_said(trial).splitlines()[0])}", style=colour)
    return line


def format_violations(trials: Sequence[tuple[Case, Trial]]) -> Iterator[RenderableType]:
    """Each violation with what was said, the traces, and the line that repeats it."""
    for case, trial in trials:
        if trial.verdict is Verdict.VIOLATED:
            yield Text()
            yield Text(f"✗ {clean(case.name)}", style="bold red")
            yield from map(Text, clean_lines(trial.tree))
            yield Text.assemble(("to repeat it: ", "bright_black"), clean(f"Harness(..., {case.line})"))
    yield Text()


def format_summary(trials: Sequence[tuple[Case, Trial]]) -> Text:
    """How often it held, and how often it did not."""
    verdicts = [trial.verdict for _, trial in trials]
    violated = verdicts.count(Verdict.VIOLATED)
    parts = [f"held under {count(verdicts.count(Verdict.HELD), 'case')}"]
    if violated:
        parts.insert(0, f"violated by {count(violated, 'case')}")
    if Verdict.NOT_REACHED in verdicts:
        parts.append(f"{verdicts.count(Verdict.NOT_REACHED)} not reached by the sagas that it starts")
    return Text(", ".join(parts), style="red" if violated else "green")


def format_found(found: str | None, seeds: int) -> Iterator[Text]:
    """What the exploration came to, if there was one."""
    if found is not None:
        yield from map(Text, ["", *clean_lines(found)])
    elif seeds:
        yield Text(f"held under {count(seeds, 'random schedule')}", style="green")


def _said(trial: Trial) -> str:
    error = trial.error
    if isinstance(error, AssertionError) and str(error):
        return str(error)
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
