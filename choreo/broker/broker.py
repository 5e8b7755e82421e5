"""Everything that choreo asks of a server, for one namespace."""

from __future__ import annotations

import logging
from collections.abc import Collection
from types import TracebackType
from typing import Self

from choreo.broker import rights
from choreo.broker.clock import ServerClock
from choreo.broker.connection import Connection
from choreo.broker.expiry import Expiry
from choreo.broker.gate import Gate
from choreo.broker.groups import Groups
from choreo.broker.leases import Leases
from choreo.broker.letters import Letters
from choreo.broker.meta import Meta
from choreo.broker.patience import Persistence
from choreo.broker.projections import Projections
from choreo.broker.retention import Retention
from choreo.broker.sagas import Sagas
from choreo.broker.timers import Timers
from choreo.wire.keys import Keys

logger = logging.getLogger("choreo.client")


class Broker:
    """The typed calls of one namespace on one server; an async context manager that closes connections."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self.connection = connection
        self.keys = keys
        self.clock = ServerClock(connection)
        self.persist = Persistence(logger)
        self.meta = Meta(connection, keys)
        self.gate = Gate(connection, keys)
        self.groups = Groups(connection, keys)
        self.leases = Leases(connection, keys)
        self.sagas = Sagas(connection, keys)
        self.letters = Letters(connection, keys)
        self.expiry = Expiry(connection, keys)
        self.timers = Timers(connection, keys)
        self.projections = Projections(connection, keys)
        self.retention = Retention(connection, keys)

    @classmethod
    def open(cls, url: str, keys: Keys) -> Broker:
        """A broker for the server at ``url``. Nothing is sent yet.

        Raises:
            ConfigurationError: if it is not a URL that redis clients understand.
        """
        return cls(Connection.open(url), keys)

    async def join(self) -> None:
        """Make sure that this process and the namespace fit, and look at the server's clock.

        Raises:
            LayoutMismatch, UnsupportedServer: as :meth:`Meta.join` does.
            BrokerUnavailable: if the server cannot be reached.
        """
        await self.meta.join()
        await self.clock.refresh()

    async def join_to_commit(self, also: Collection[str] = ()) -> None:
        """As :meth:`join`, for a process that will change sagas, and needs commands beside what commits do.

        Raises:
            NotPermitted: if it lacks a right that a commit needs.
            LayoutMismatch, UnsupportedServer, BrokerUnavailable: as :meth:`join` does.
        """
        await self.join()
        await rights.require(self.connection, self.keys, also)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.connection.close()
