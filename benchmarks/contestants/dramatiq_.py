"""dramatiq, a task queue: each actor sends the next one's message."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import msgspec

from benchmarks import chain
from benchmarks.server import Server

INSTALLED = find_spec("dramatiq") is not None
THREADS = 8


def prepare(server: Server) -> None:
    """Queues need no making."""


def publish(server: Server, first: int, count: int) -> None:
    """One message after the other; dramatiq has no other way."""
    actors = _actors(server.url)
    for number in range(first, first + count):
        actors["payments"].send(msgspec.to_builtins(chain.order(number)))


def end_streams() -> list[str]:
    """Where the last actor adds what it made."""
    return [chain.END]


def serve_threads(url: str, roles: Sequence[str]) -> None:
    """Run dramatiq's worker threads for some actors."""
    import dramatiq

    actors = _actors(url)
    broker = actors["payments"].broker
    worker = dramatiq.Worker(broker, queues=set(roles), worker_threads=THREADS)
    worker.start()
    threading.Event().wait()


def _actors(url: str) -> dict[str, Any]:
    from dramatiq import actor
    from dramatiq.brokers.redis import RedisBroker

    make_broker: Any = RedisBroker
    broker = make_broker(url=url)
    actors: dict[str, Any] = {}

    def declare(name: str, event: type, build: Any, following: str) -> None:
        def handle(message: dict[str, Any]) -> None:
            answer: Any = build(msgspec.convert(message, event))
            if following in actors:
                actors[following].send(msgspec.to_builtins(answer))
            else:
                broker.client.xadd(chain.END, {"data": msgspec.json.encode(answer)})

        declare_actor: Any = actor
        actors[name] = declare_actor(handle, actor_name=name, queue_name=name, broker=broker)

    names = [hop[0] for hop in chain.HOPS] + [""]
    for position, (name, event, _, build) in enumerate(chain.HOPS):
        declare(name, event, build, names[position + 1])
    return actors
