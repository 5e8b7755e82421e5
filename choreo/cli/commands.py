"""The commands and their options. Each only wires; what it does is imported when it runs.

So `choreo --help` loads neither redis nor rich nor yaml.
"""

from __future__ import annotations

from typing import Any

import click

from choreo.cli.operator_commands import dlq, pause, resolve, resume, retry
from choreo.cli.settings import Settings, shared_options
from choreo.drawing.durations import parse_duration

#: The states of a saga, as :class:`choreo.model.saga.State` has them; a test compares the two.
STATES = ("running", "completed", "compensating", "compensated", "failed", "resolved")

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON of a stable, documented schema.")


def add_commands(group: click.Group) -> None:
    """Add every command to ``group``, in the order in which the help lists them."""
    steering = (compensate, retry, resolve, dlq, pause, resume)
    for command in (init, dev, run, start, sagas, trace, *steering, tracker, check, graph, rehearse, doctor):
        group.add_command(command)


def _need_subcommand(context: click.Context, usage: str) -> None:
    if context.invoked_subcommand is None:
        raise click.UsageError(f"something is missing: {usage}")


# -- beginning ---------------------------------------------------------------------------------------


@click.command()
@click.argument("folder", type=click.Path(), default=".")
@click.option("--template", metavar="NAME", default=None, help="Which project to write.")
@click.option("--list", "list_them", is_flag=True, help="Show the templates that there are.")
def init(folder: str, template: str | None, list_them: bool) -> int:
    """Write a new project into an empty folder.

    It works as it is: contracts, participants, streams.yaml, tests and a README. Without a template it
    is a small shop. Nothing that is in the folder is touched.
    """
    from choreo.cli import beginning

    return beginning.list_templates() if list_them else beginning.init(folder, template)


# -- running -----------------------------------------------------------------------------------------


@click.command()
@shared_options
def dev(settings: Settings) -> int:
    """Run everything in one terminal.

    That is a server, all participants and the tracker.

    The server is embedded; its data are kept in .choreo/ beside streams.yaml. With --redis,
    CHOREO_REDIS_URL or `redis:` in the file, that server is used instead.

    Ctrl-C stops: handlers under way are finished. Ctrl-C again stops at once.
    """
    from choreo.cli import dev as developing

    return developing.run_all(settings)


@click.group(invoke_without_command=True)
@click.pass_context
def run(context: click.Context) -> None:
    """Run a participant or a tracker as a process of its own."""
    _need_subcommand(context, "choreo run participant NAME, or choreo run tracker")


@run.command("participant")
@click.argument("name", metavar="NAME_OR_MODULE:ATTRIBUTE")
@click.option("--workers", type=click.IntRange(1, 1000), default=1, show_default=True, help="Processes.")
@click.option(
    "--concurrency", type=click.IntRange(1, 100_000), default=256, show_default=True,
    help="Deliveries in hand at once, per process.",
)  # fmt: skip
@click.option(
    "--lease", type=parse_duration, default="10s", show_default=True, metavar="TIME",
    help="After this long without a sign of life, others take over what a worker holds.",
)  # fmt: skip
@click.option(
    "--grace", type=parse_duration, default="30s", show_default=True, metavar="TIME",
    help="How long a stopping worker lets handlers finish.",
)  # fmt: skip
@click.option("--lifeline", type=int, hidden=True)
@shared_options
def run_participant(settings: Settings, name: str, workers: int, lifeline: int | None, **how: Any) -> int:
    """Run a participant, by its name in streams.yaml or as module:attribute.

    Modules are imported from the folder of streams.yaml. SIGTERM or Ctrl-C stops: handlers under way
    are finished, what is left is handed over. A second signal stops at once.
    """
    from choreo.cli import running
    from choreo.runtime.worker import WorkerOptions

    crew = running.Crew(name, workers, WorkerOptions(**how), lifeline)
    return running.run_participant(settings, crew)


@run.command("tracker")
@shared_options
def run_tracker(settings: Settings) -> int:
    """Run a tracker, which makes the views that `sagas` and `trace` show.

    More than one may run: they share the work, and where one stops, the others take over.
    """
    from choreo.cli import running

    return running.run_tracker(settings)


@click.group(invoke_without_command=True)
@click.pass_context
def tracker(context: click.Context) -> None:
    """Look after the tracker's views."""
    _need_subcommand(context, "choreo tracker rebuild")


@tracker.command()
@as_json
@shared_options
def rebuild(settings: Settings, as_json: bool) -> int:
    """Delete all views and make them anew from the streams.

    May be done while trackers are at work, and may be broken off.
    """
    from choreo.cli import steering

    return steering.rebuild(settings, as_json=as_json)


# -- sagas -------------------------------------------------------------------------------------------


@click.command()
@click.argument("event_type", metavar="TYPE")
@click.argument("stdin", metavar="[-]", type=click.Choice(["-"]), required=False)
@click.option("--data", metavar="JSON", help="The event's payload.")
@click.option("--file", metavar="FILE", help="The file that holds the payload; - for standard input.")
@click.option("--saga-id", metavar="ID", help="The saga's id; the same twice is one saga.  [default: random]")
@click.option("--wait", is_flag=True, help="Wait until the saga has ended; exit code 1 unless it completed.")
@click.option("--timeout", type=parse_duration, metavar="TIME", help="Wait at most 500ms, 30s, 5m ...")
@as_json
@shared_options
def start(settings: Settings, event_type: str, as_json: bool, **given: Any) -> int:
    """Begin a saga with its first event, and print the saga's id.

    The payload is checked against the event's class if a participant of streams.yaml has it.
    """
    data, file, stdin = (given.pop(source) for source in ("data", "file", "stdin"))
    if sum(each is not None for each in (data, file, stdin)) > 1:
        raise click.UsageError("give the payload once: by --data, by --file, or as - on standard input")
    if given["timeout"] is not None and not given["wait"]:
        raise click.UsageError("--timeout says how long to --wait; give both")
    from choreo.cli import starting

    beginning = starting.Beginning(event_type, starting.read_payload(data, stdin or file), **given)
    return starting.start(settings, beginning, as_json=as_json)


@click.command()
@click.option("--type", "saga_type", metavar="TYPE", help="Only sagas of this type.")
@click.option(
    "--status", "states", multiple=True, type=click.Choice(STATES, case_sensitive=False),
    help="Only sagas that stand so; may be given several times.",
)  # fmt: skip
@click.option("--since", type=parse_duration, metavar="TIME", help="Only sagas begun in the last 30m, 1h ...")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
@click.option("--stuck", is_flag=True, help="Only sagas that do not move, and what they wait for.")
@click.option(
    "--for", "longest", type=parse_duration, metavar="TIME",
    help="With --stuck: how long nothing may happen to a saga.  [default: 1m]",
)  # fmt: skip
@as_json
@shared_options
def sagas(
    settings: Settings, saga_type: str | None, states: tuple[str, ...], since: float | None, limit: int,
    stuck: bool, longest: float | None, as_json: bool,
) -> int:  # fmt: skip
    """List sagas, the newest first.

    With --stuck: sagas that have not moved for longer than they should, with what they wait for and whether
    anybody is about to handle it. Exit code 1 if there is one.
    """
    if stuck and (states or since is not None):
        raise click.UsageError("--stuck looks at every open saga; leave out --status and --since")
    if longest is not None and not stuck:
        raise click.UsageError("--for says how long sagas may stand still; give --stuck, too")
    from choreo.cli import looking

    if stuck:
        seconds = 60.0 if longest is None else longest
        return looking.list_stuck(settings, saga_type, seconds, limit, as_json=as_json)
    wanted = looking.Wanted(saga_type, states, since, limit)
    return looking.list_sagas(settings, wanted, as_json=as_json)


@click.command()
@click.argument("saga_id", metavar="ID")
@click.option("-f", "--follow", is_flag=True, help="Stay until the saga has ended; a terminal shows it live.")
@click.option("--errors", is_flag=True, help="Show the tracebacks of errors.")
@as_json
@shared_options
def trace(settings: Settings, saga_id: str, follow: bool, errors: bool, as_json: bool) -> int:
    """Show the causal tree of one saga.

    With --follow on a pipe, and with --json, the tree is printed once, when the saga has ended.
    """
    from choreo.cli import looking

    return looking.show_trace(settings, saga_id, follow=follow, errors=errors, as_json=as_json)


@click.command()
@click.argument("saga_id", metavar="ID")
@click.option("--note", metavar="TEXT", default="", help="Why; it is kept in the saga's trace.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json
@shared_options
def compensate(settings: Settings, saga_id: str, note: str, yes: bool, as_json: bool) -> int:
    """Unwind a running saga.

    What its steps have done is undone, in reverse order. What is under way is undone when it is done.
    """
    from choreo.cli import steering

    return steering.compensate(settings, saga_id, note=note, sure=yes, as_json=as_json)


# -- before anything runs ----------------------------------------------------------------------------


@click.command()
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings, too.")
@as_json
@shared_options
def check(settings: Settings, strict: bool, as_json: bool) -> int:
    """Check streams.yaml and the participants.

    Prints every finding with file and line; no server is needed. Exit code 1 if one of them is an error,
    2 if the file or the participants cannot be loaded.
    """
    from choreo.cli import checking

    return checking.check(settings, strict=strict, as_json=as_json)


@click.command()
@click.option(
    "--format", "form", type=click.Choice(["tree", "mermaid", "dot", "json"]), default="tree",
    show_default=True,
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="As --format json.")
@shared_options
def graph(settings: Settings, form: str, as_json: bool) -> int:
    """Show the choreography as a picture.

    It follows from the participants' code; no server is needed.
    """
    from choreo.cli import checking

    return checking.show_graph(settings, "json" if as_json else form)


@click.command()
@click.argument("invariant", metavar="MODULE:FUNCTION")
@click.option("--only", metavar="TEXT", default="", help="Only faults whose name holds this.")
@click.option(
    "--seeds", type=click.IntRange(0, 1_000_000), default=0, metavar="N",
    help="Try N random schedules as well, with a few faults each.",
)  # fmt: skip
@as_json
@shared_options
def rehearse(settings: Settings, invariant: str, only: str, seeds: int, as_json: bool) -> int:
    """Try an invariant under every single fault.

    The invariant is an async function that is given a maker of harnesses, plays, and asserts. It runs in
    memory: no server is needed. Exit code 1 if it does not hold.
    """
    from choreo.cli import rehearsing

    return rehearsing.run(settings, invariant, only=only, seeds=seeds, as_json=as_json)


@click.command()
@as_json
@shared_options
def doctor(settings: Settings, as_json: bool) -> int:
    """Look for what is wrong with the server and the namespace.

    Prints each check and, where something is wrong, what that means and what to do. Changes nothing.
    Exit code 1 if there is a problem.
    """
    from choreo.cli import doctoring

    return doctoring.examine(settings, as_json=as_json)
