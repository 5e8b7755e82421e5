"""The commands of operators and their options. Each only wires; what it does is imported when it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from choreo.cli.settings import Settings, shared_options

_json = click.option("--json", "as_json", is_flag=True, help="Print JSON of a stable, documented schema.")
_note = click.option("--note", metavar="TEXT", default="", help="Why; it is kept in the saga's trace.")
_yes = click.option("--yes", is_flag=True, help="Do not ask.")


def _filters(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say which letters are meant."""
    for option in (
        click.option("--limit", type=click.IntRange(1, 100_000), default=1000, show_default=True,
                     help="Of the letters that fit, at most so many."),
        click.option("--reason", metavar="CODE", help="Letters with this reason code."),
        click.option("--participant", metavar="NAME", help="Letters of this participant."),
        click.option("--saga", "saga_id", metavar="ID", help="Letters of this saga."),
    ):  # fmt: skip
        command = option(command)
    return command


@click.group(invoke_without_command=True)
@click.pass_context
def dlq(context: click.Context) -> None:
    """Look at dead letters, and decide about them.

    A dead letter is a delivery that will not be tried again by itself.
    """
    if context.invoked_subcommand is None:
        raise click.UsageError("something is missing: choreo dlq list, show, replay or drop")


@dlq.command("list")
@click.option("--saga", "saga_id", metavar="ID", help="Only letters of this saga.")
@click.option("--participant", metavar="NAME", help="Only letters of this participant.")
@click.option("--reason", metavar="CODE", help="Only letters with this reason code.")
@click.option(
    "--state", type=click.Choice(["open", "replayed", "resolved", "any"]), default="open", show_default=True,
    help="Only letters that stand so.",
)  # fmt: skip
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True)
@_json
@shared_options
def list_letters(settings: Settings, state: str, as_json: bool, **wanted: Any) -> int:
    """List dead letters, the newest first: those that wait for an operator."""
    from choreo.cli import dead_letters

    return dead_letters.list_letters(settings, dead_letters.Wanted(state=state, **wanted), as_json=as_json)


@dlq.command()
@click.argument("letter")
@_json
@shared_options
def show(settings: Settings, letter: str, as_json: bool) -> int:
    """Show one dead letter: its event, its error, and how it stands."""
    from choreo.cli import dead_letters

    return dead_letters.show_letter(settings, letter, as_json=as_json)


@dlq.command()
@click.argument("letters", metavar="[LETTER]...", nargs=-1)
@_filters
@click.option("--all", "everything", is_flag=True, help="All open letters, or all that fit the filters.")
@click.option("--data", metavar="JSON", help="The payload to handle instead; of one letter.")
@click.option("--file", metavar="FILE", help="The file that holds the payload; - for standard input.")
@click.option(
    "--set", "fields", metavar="NAME=VALUE", multiple=True,
    help="A field of a refused entry, other than it was; may be given several times.",
)  # fmt: skip
@_note
@click.option("--dry-run", "rehearse", is_flag=True, help="Change nothing; say what would become of it.")
@_yes
@_json
@shared_options
def replay(
    settings: Settings, data: str | None, file: str | None, fields: tuple[str, ...], as_json: bool,
    **given: Any,
) -> int:  # fmt: skip
    """Make deliveries again that became dead letters, with fresh attempts.

    Name letters, or say by --saga, --participant, --reason or --all which ones; those are replayed in the
    order in which they were written. Exit code 1 if one of them could not be replayed, or there is none.
    """
    if data is not None and file is not None:
        raise click.UsageError("give the payload once: by --data, or by --file")
    from choreo.cli import dead_letters, starting

    payload = None if data is None and file is None else starting.read_payload(data, file)
    mended = dead_letters.Mended(payload, dead_letters.parse_fields(fields))
    return dead_letters.replay(settings, _choice(given), mended, as_json=as_json)


@dlq.command()
@click.argument("letters", metavar="[LETTER]...", nargs=-1)
@_filters
@click.option("--all", "everything", is_flag=True, help="All open letters, or all that fit the filters.")
@_note
@click.option("--dry-run", "rehearse", is_flag=True, help="Change nothing; say what would become of it.")
@_yes
@_json
@shared_options
def drop(settings: Settings, as_json: bool, **given: Any) -> int:
    """Delete dead letters for good.

    Their sagas stay as they are. Name letters, or say by --saga, --participant, --reason or --all which ones.
    """
    from choreo.cli import dead_letters

    return dead_letters.drop(settings, _choice(given), as_json=as_json)


def _choice(given: dict[str, Any]) -> Any:
    """Which letters are meant, and how they are to be dealt with; refused if that is not clear."""
    from choreo.cli import dead_letters

    wanted = {name: given.pop(name) for name in ("saga_id", "participant", "reason", "limit")}
    everything = given.pop("everything")
    filtered = everything or any(wanted[name] for name in ("saga_id", "participant", "reason"))
    if bool(given["letters"]) == filtered:
        raise click.UsageError(
            "name letters (`choreo dlq list` shows them), or say by --saga, --participant, --reason or --all"
            " which ones are meant; not both"
        )
    return dead_letters.Choice(wanted=dead_letters.Wanted(state="open", **wanted), **given)


@click.command()
@click.argument("saga_id", metavar="ID")
@_note
@_json
@shared_options
def retry(settings: Settings, saga_id: str, note: str, as_json: bool) -> int:
    """Try again, now, what of a saga waits or has failed.

    Attempts that wait for their time are due at once, and the saga's dead letters are replayed. Exit code 1
    if there was nothing to retry.
    """
    from choreo.cli import steering

    return steering.retry(settings, saga_id, note=note, as_json=as_json)


@click.command()
@click.argument("saga_id", metavar="ID")
@click.option("--note", metavar="TEXT", required=True, help="What was put right, and how; it is kept.")
@_json
@shared_options
def resolve(settings: Settings, saga_id: str, note: str, as_json: bool) -> int:
    """Count a saga as put right by hand.

    For a saga that has failed, or whose undos will never come. Nothing more of it is undone.
    """
    from choreo.cli import steering

    return steering.resolve(settings, saga_id, note=note, as_json=as_json)


@click.command()
@click.argument("participant")
@click.option("--note", metavar="TEXT", default="", help="Why; it is shown to whoever asks.")
@_json
@shared_options
def pause(settings: Settings, participant: str, note: str, as_json: bool) -> int:
    """Have a participant's workers take nothing new.

    What they have in hand they finish. It holds until `choreo resume`, for workers that start later, too.
    """
    from choreo.cli import steering

    return steering.pause(settings, participant, note=note, as_json=as_json)


@click.command()
@click.argument("participant")
@_json
@shared_options
def resume(settings: Settings, participant: str, as_json: bool) -> int:
    """Let a paused participant work again."""
    from choreo.cli import steering

    return steering.resume(settings, participant, as_json=as_json)
