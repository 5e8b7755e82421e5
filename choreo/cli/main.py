"""The entry point: one place where commands begin, and where every error becomes a message and a code."""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

import click

from choreo.cli import failures
from choreo.cli.commands import add_commands
from choreo.cli.settings import shared_options

_CODES = """\b
Exit codes:
  0    fine
  1    bad news: a saga failed, was compensated or is not known; a check found something
  2    wrong use or configuration; a server that is too old or refuses
  3    the server cannot be reached
  70   a bug in choreo
  130  ended by Ctrl-C"""


class Program(click.Group):
    """A group whose commands return their exit code, and which lets no traceback out."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order of a first day's work, not of the alphabet."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. click would call it a failure if nobody reads what is printed."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            return failures.explain(error).code

    def main(self, *args: Any, **extra: Any) -> Any:
        """Run, and end the process with the code that tells how it went."""
        try:
            code = super().main(*args, **{**extra, "standalone_mode": False}) or failures.FINE
        except (Exception, KeyboardInterrupt, BaseExceptionGroup) as error:
            failures.show_traceback(error)
            failure = failures.explain(error)
            failures.complain(failure)
            code = failure.code
        sys.exit(code)


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("choreo")
    except PackageNotFoundError:
        return "(not installed)"


def _print_version(context: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not context.resilient_parsing:
        click.echo(f"choreo {_version()}")
        context.exit()


@click.group(
    cls=Program, invoke_without_command=True, epilog=_CODES,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)  # fmt: skip
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version,
    help="Show the version and exit.",
)  # fmt: skip
@shared_options
@click.pass_context
def cli(context: click.Context, settings: Any) -> int:
    """Choreographed sagas on Redis Streams.

    Begin with `choreo dev`: a server, all participants and the tracker, in one terminal.
    """
    if context.invoked_subcommand is None:
        click.echo(context.get_help(), err=True)
        return failures.WRONG_USE
    return failures.FINE


add_commands(cli)


def main() -> None:
    """What the script ``choreo`` calls."""
    _mend_streams()
    try:
        cli.main(prog_name="choreo")
    except SystemExit as end:
        _leave_threads_behind(end)
        raise


def _leave_threads_behind(end: SystemExit) -> None:
    """Handlers that outlived their grace period run in threads; Python would wait for them for ever."""
    running = [each for each in threading.enumerate() if each is not threading.main_thread()]
    if any(not each.daemon for each in running):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 0 if end.code is None else 1)


def _mend_streams() -> None:
    """A stream that is closed, or cannot show a character, shall not end a command."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r+"))  # noqa: SIM115 - as long as the process
        getattr(sys, name).reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    main()
