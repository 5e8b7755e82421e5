"""What a process checks and leaves behind when it joins a namespace."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import msgspec

from choreo.broker.connection import Connection
from choreo.broker.groups import fields_of
from choreo.errors import BrokerRefused, LayoutMismatch, UnsupportedServer
from choreo.model.pause import Pause, decode_pause, encode_pause
from choreo.wire.keys import Keys
from choreo.wire.limits import LAYOUT_VERSION, MIN_SERVER


@dataclass(frozen=True, slots=True)
class Meta:
    """The namespace as a whole."""

    connection: Connection
    keys: Keys

    async def join(self) -> None:
        """Make sure that this process and the namespace fit, and mark the namespace if it is new.

        Raises:
            UnsupportedServer: if the server is older than ``limits.MIN_SERVER``.
            LayoutMismatch: if the namespace has another layout version or number of partitions.
        """
        await self.check_server()
        mine = {"layout": LAYOUT_VERSION, "partitions": self.keys.partitions}
        marks = [("HSETNX", self.keys.meta, name, value) for name, value in mine.items()]
        *marked, theirs = await self.connection.call_many([*marks, ("HMGET", self.keys.meta, *mine)])
        for answer in (*marked, theirs):
            if isinstance(answer, Exception):
                raise answer
        for (name, value), found in zip(mine.items(), theirs, strict=True):
            if found.decode() != str(value):
                raise LayoutMismatch(
                    f"namespace {self.keys.namespace!r} on {self.connection.url or 'the server'} has"
                    f" {name} {found.decode()}, this process has {value}: sagas would be split."
                    " Use the same streams.yaml everywhere, or another namespace"
                )

    async def check_server(self) -> None:
        """Raises:
        UnsupportedServer: if the server is older than ``limits.MIN_SERVER``.
        """
        version = await self.server_version()
        if version and version < MIN_SERVER:
            wanted = ".".join(map(str, MIN_SERVER))
            found = ".".join(map(str, version))
            raise UnsupportedServer(
                f"the server at {self.connection.url or 'this address'} is version {found};"
                f" choreo needs Redis {wanted} or newer, or Valkey"
            )

    async def server_version(self) -> tuple[int, ...]:
        """The version that the server reports to be compatible with; empty if it does not say."""
        try:
            answer = await self.connection.call("INFO", "server")
        except BrokerRefused:  # fakeredis alone has no INFO, and a user may not be allowed to ask
            return ()
        lines = answer.decode(errors="replace").splitlines()
        text = next((line.partition(":")[2] for line in lines if line.startswith("redis_version:")), "")
        return tuple(int(part) for part in text.split(".") if part.isdigit())

    async def publish_contract(self, participant: str, contract: bytes) -> None:
        """Say what a participant reacts to and emits, as JSON."""
        await self.connection.call("HSET", self.keys.contracts, participant, contract)

    async def contracts(self) -> dict[str, bytes]:
        """Every participant's contract, as its workers last said."""
        flat = await self.connection.call("HGETALL", self.keys.contracts)
        return {name.decode(): contract for name, contract in fields_of(flat).items()}

    async def pause(self, participant: str, pause: Pause) -> Pause:
        """Pause a participant. Returns the pause that holds now: an earlier one is not replaced."""
        await self.connection.call("HSETNX", self.keys.paused, participant, encode_pause(pause))
        return (await self.paused()).get(participant, pause)

    async def resume(self, participant: str) -> bool:
        """Let a participant work again. Returns whether it was paused."""
        return bool(await self.connection.call("HDEL", self.keys.paused, participant))

    async def paused(self) -> dict[str, Pause]:
        """Every participant that is paused, by name. What somebody else wrote there is left out."""
        flat = await self.connection.call("HGETALL", self.keys.paused)
        found = {}
        for name, packed in fields_of(flat).items():
            with suppress(UnicodeDecodeError, msgspec.DecodeError):
                found[name.decode()] = decode_pause(packed)
        return found
