"""A connection for heartbeats alone, for a thread of its own: it needs no event loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

import redis
from redis import exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from choreo.broker.connection import COMMAND_TIMEOUT, Connection, load_script, translate
from choreo.broker.gate import Identity
from choreo.broker.leases import renewals


class Pulse:
    """Renews leases. To be used by one thread; a context manager that closes its connection."""

    def __init__(self, connection: Connection) -> None:
        self._client = redis.Redis.from_url(
            connection.address, protocol=2, retry=Retry(NoBackoff(), 0), single_connection_client=False,
            socket_timeout=COMMAND_TIMEOUT, socket_connect_timeout=COMMAND_TIMEOUT,
        )  # fmt: skip
        self._script = load_script("renew")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._client.close()

    def renew(self, identity: Identity, held: Mapping[str, Sequence[str]]) -> None:
        """Renew the leases of what this worker still holds.

        Raises:
            BrokerError: if the server cannot serve now, or refuses.
        """
        try:
            for _, keys, arguments in renewals(identity, held):
                call = (len(keys), *keys, *arguments)
                try:
                    self._client.execute_command("EVALSHA", self._script.digest, *call)  # type: ignore[no-untyped-call]
                except exceptions.NoScriptError:
                    self._client.execute_command("EVAL", self._script.text, *call)  # type: ignore[no-untyped-call]
        except (exceptions.RedisError, OSError, AttributeError) as error:
            raise translate(error) from error
