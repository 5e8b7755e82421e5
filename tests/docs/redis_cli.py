"""As much of ``redis-cli`` as the pages use, for machines without it: one command to CHOREO_REDIS_URL."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import Any

import redis


def lines(answer: Any) -> Iterator[str]:
    """An answer as ``redis-cli`` prints it into a pipe: one line for each value."""
    if isinstance(answer, list):
        for each in answer:
            yield from lines(each)
    else:
        yield answer.decode(errors="replace") if isinstance(answer, bytes) else str(answer)


def main() -> None:
    """Send the command that the arguments make up, and print the answer."""
    with redis.Redis.from_url(os.environ["CHOREO_REDIS_URL"], protocol=2) as client:
        client.response_callbacks.clear()
        try:
            answer = client.execute_command(*sys.argv[1:])
        except redis.ResponseError as error:
            sys.exit(f"{error}")
    print(*lines(answer), sep="\n")


if __name__ == "__main__":
    main()
