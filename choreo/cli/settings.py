"""What every command is told: where streams.yaml and the server are, and how much to say.

Precedence: the command's flag, then the flag before the command, then the environment, then
streams.yaml, then the default.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

CONFIG_VARIABLE = "CHOREO_CONFIG"
DEFAULT_CONFIG = "streams.yaml"

_OPTIONS = (
    click.option(
        "-c", "--config", metavar="FILE",
        help=f"The choreography's file.  [env: {CONFIG_VARIABLE}; default: {DEFAULT_CONFIG}]",
    ),
    click.option(
        "--redis", metavar="URL",
        help="The server.  [env: CHOREO_REDIS_URL; default: `redis` of the file, else the engine of"
        " `choreo dev`, else redis://localhost:6379/0]",
    ),
    click.option("-v", "--verbose", count=True, help="Log more; -vv: everything."),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Settings:
    """Options that all commands share."""

    config: str | None = None
    redis: str | None = None
    """The server's URL, if a flag gave one."""
    verbose: int = 0

    @property
    def path(self) -> Path:
        """Where the choreography's file is."""
        return Path(self.config or os.environ.get(CONFIG_VARIABLE) or DEFAULT_CONFIG)

    def over(self, base: Settings) -> Settings:
        """These settings; what they leave open is as in ``base``."""
        return Settings(self.config or base.config, self.redis or base.redis, max(self.verbose, base.verbose))


def shared_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that all share; it gets them as :class:`Settings`, its first argument."""

    @click.pass_context
    @functools.wraps(command)
    def run(context: click.Context, /, **given: Any) -> Any:
        mine = Settings(given.pop("config"), given.pop("redis"), given.pop("verbose"))
        context.obj = mine.over(context.find_object(Settings) or Settings())
        return command(context.obj, **given)

    for option in reversed(_OPTIONS):
        run = option(run)
    return run
