"""FastStream with one subscriber per event, a consumer group each: at least once, nothing else."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import msgspec

from benchmarks import chain
from benchmarks.server import Server

INSTALLED = find_spec("faststream") is not None


def prepare(server: Server) -> None:
    """Make the groups, at the beginning of their streams."""
    for name, _, stream, _ in chain.HOPS:
        server.client.xgroup_create(stream, name, "0", mkstream=True)


def commands(first: int, count: int) -> list[tuple[object, ...]]:
    """First events in FastStream's own format."""
    return asyncio.run(_commands(first, count))


async def _commands(first: int, count: int) -> list[tuple[object, ...]]:
    from faststream.redis.parser import BinaryMessageFormatV1

    made: list[tuple[object, ...]] = []
    for number in range(first, first + count):
        body = await BinaryMessageFormatV1.encode(
            message=msgspec.to_builtins(chain.order(number)), reply_to=None, headers=None,
            correlation_id=f"o-{number}",
        )  # fmt: skip
        made.append(("XADD", "orders", "*", "__data__", body))
    return made


def end_streams() -> list[str]:
    """Where the last events go."""
    return [chain.END]


async def serve(url: str, roles: Sequence[str]) -> None:
    """Run a subscriber per role."""
    from fast_depends.msgspec import MsgSpecSerializer
    from faststream.redis import RedisBroker, StreamSub

    silent: Any = None
    broker = RedisBroker(url, logger=silent, serializer=MsgSpecSerializer())
    for name, event, stream, build in chain.HOPS:
        if name in roles:
            following = [hop[2] for hop in chain.HOPS] + [chain.END]
            sub = StreamSub(stream, group=name, consumer=f"{name}-{os.getpid()}", last_id=">")
            handler = _handler(event, build)
            publisher = broker.publisher(stream=following[following.index(stream) + 1])
            broker.subscriber(stream=sub)(publisher(handler))
    async with broker:
        await broker.start()
        await asyncio.Event().wait()


def _handler(event: type, build: Callable[[Any], Any]) -> Callable[[Any], Any]:
    async def handle(message: Any) -> Any:
        return build(message)

    handle.__annotations__ = {"message": event}
    return handle
