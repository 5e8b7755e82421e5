"""Showing things: on standard output what was asked for, on standard error what is said about it."""

from __future__ import annotations

import os
import sys
from typing import Any, TextIO

import click
import msgspec
from rich.console import Console, RenderableType

from choreo.drawing.text import clean, escape_json

#: Columns where no terminal says how many there are: programs that read lines want them whole.
_PIPE_COLUMNS = 4000


def console_for(stream: TextIO) -> Console:
    """A console on ``stream``: as wide as the terminal, or as wide as need be where there is none."""
    narrow = stream.isatty() or "COLUMNS" in os.environ
    return Console(
        file=stream, width=None if narrow else _PIPE_COLUMNS, highlight=False, markup=False, emoji=False
    )


def show(renderable: RenderableType, *, fold: bool = True) -> None:
    """Print on standard output; ``fold`` long lines at the terminal's width, or leave that to the terminal.

    Raises:
        BrokenPipeError: if nobody reads it any more.
    """
    console = console_for(sys.stdout)
    with console.capture() as captured:
        console.print(renderable, soft_wrap=not fold)
    click.echo(captured.get(), nl=False, color=True)


def show_json(data: Any) -> None:
    """Print ``data`` as JSON on standard output."""
    click.echo(escape_json(format_json(data)))


def format_json(data: Any) -> str:
    """``data`` as JSON that people can read."""
    return msgspec.json.format(msgspec.json.encode(data), indent=2).decode()


def remark(text: str) -> None:
    """Say something beside the output, on standard error."""
    click.secho(clean(text), err=True, fg="bright_black")
