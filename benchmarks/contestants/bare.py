"""A loop written by hand on redis-py: read a hundred, build, send the same gate script, read again.

It is what the gate allows: no concurrency, no retries, no undo, no leases, no check of anything that it
reads, and a worker that dies keeps what it has read for ever.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from redis.asyncio import Redis

from benchmarks import chain
from benchmarks.contestants import choreo_
from benchmarks.server import Server
from choreo.broker.connection import load_script
from choreo.model.event import Event

INSTALLED = True
BATCH = 100
_STREAMS = {hop[1].__name__: hop[2] for hop in chain.HOPS} | {"OrderShipped": chain.END}

commands = choreo_.commands
end_streams = choreo_.end_streams


def prepare(server: Server) -> None:
    """Make the groups and load the script."""
    for name, _, stream, _ in chain.HOPS:
        for partition in range(chain.PARTITIONS):
            key = chain.TOPOLOGY.keys.stream(partition, stream)
            server.client.xgroup_create(key, name, "0", mkstream=True)
    server.client.script_load(load_script("gate").text)


async def serve(url: str, roles: Sequence[str]) -> None:
    """Run a loop per role."""
    await asyncio.gather(*(_Loop(url, role).run() for role in roles))


class _Loop:
    def __init__(self, url: str, role: str) -> None:
        (hop,) = (each for each in chain.HOPS if each[0] == role)
        self.role: str = hop[0]
        self.build: Callable[[Any], Event] = hop[3]
        self.decode = msgspec.json.Decoder(hop[1]).decode
        self.client: Any = Redis.from_url(url, protocol=2)
        self.client.response_callbacks = {}
        self.reader: Any = Redis.from_url(url, protocol=2)
        self.reader.response_callbacks = {}
        self.consumer = f"bare-{os.getpid()}"
        keys = chain.TOPOLOGY.keys
        self.fixed = {
            keys.stream(number, hop[2]).encode(): (
                number, [keys.journal(number), keys.dead(number), keys.letters(number), keys.timers(number),
                         keys.parked(number)],
            )
            for number in range(chain.PARTITIONS)
        }  # fmt: skip
        self.digest = load_script("gate").digest

    async def run(self) -> None:
        places = [*self.fixed, *[">"] * len(self.fixed)]
        read = ["XREADGROUP", "GROUP", self.role, self.consumer, "COUNT", BATCH, "BLOCK", 1000]
        while True:
            found = await self.reader.execute_command(*read, "STREAMS", *places) or []
            pipeline = self.client.pipeline(transaction=False)
            for stream, entries in found:
                pipeline.execute_command(*self.commit(stream, entries))
            await pipeline.execute()

    def commit(self, stream: bytes, entries: Sequence[tuple[bytes, list[bytes]]]) -> list[Any]:
        """The call of the gate for what was read of one stream: a `done` for each entry."""
        partition, fixed = self.fixed[stream]
        keys: list[Any] = [*fixed]
        body: list[Any] = []
        for entry, flat in entries:
            fields = dict(zip(flat[::2], flat[1::2], strict=True))
            event = self.build(self.decode(fields[b"data"]))
            name = type(event).__name__
            subject, cause = fields[b"subject"].decode(), fields[b"id"]
            digest = hashlib.blake2b(cause + self.role.encode(), digest_size=15).digest()
            body += (
                1, entry, 1, subject, cause, secrets.token_urlsafe(6), int(time.time() * 1000),
                1, 1, urlsafe_b64encode(digest), msgspec.json.encode(event),
            )  # fmt: skip
            keys += (
                chain.TOPOLOGY.keys.record(partition, subject), chain.TOPOLOGY.keys.work(partition, subject)
            )  # fmt: skip
        inboxes = chain.TOPOLOGY.keys.inbox_prefix(partition)
        first = len(keys) + 1
        keys += (stream, chain.TOPOLOGY.keys.stream(partition, _STREAMS[name]))
        call = [int(time.time() * 1000), self.role, self.consumer, inboxes]
        route = ["plain", first, "order", "step", fields[b"type"], ""]
        outlet = [first + 1, name, "c1" if name == "OrderShipped" else ""]
        shared = [1, *route, 1, *outlet, len(entries)]
        return ["EVALSHA", self.digest, len(keys), *keys, *call, *shared, *body]
