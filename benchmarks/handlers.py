"""Participants with handlers of other kinds than the chain's: they wait, block, or keep one saga busy."""

from __future__ import annotations

import asyncio

from benchmarks import chain
from choreo import Event, Participant
from choreo.wire.topology import SagaType, Topology

NAME = "handlers"


class Asked(Event):
    number: int


class Answered(Event):
    number: int


class Slept(Event):
    number: int


class Ticked(Event):
    left: int


TOPOLOGY = Topology(
    namespace=chain.NAMESPACE,
    partitions=chain.PARTITIONS,
    streams={"asked": ("Asked",), "answered": ("Answered",), "slept": ("Slept",), "ticks": ("Ticked",)},
    sagas={
        "question": SagaType("question", frozenset({"Asked"}), frozenset({"Answered"})),
        "sleep": SagaType("sleep", frozenset({"Slept"}), frozenset({"Answered"})),
        "clock": SagaType("clock", frozenset({"Ticked"}), frozenset({"Answered"})),
    },
)


def participant(kind: str) -> Participant:
    """``quick``: answers at once; ``await``: after 10 ms; ``thread``: from a thread. All sleep for 100 ms
    when they hear ``Slept``, and go on ticking when they hear ``Ticked``."""
    made = Participant(NAME)

    if kind == "thread":

        @made.on(Asked)
        def answer(asked: Asked) -> Answered:
            return Answered(asked.number)
    elif kind == "await":

        @made.on(Asked)
        async def answer(asked: Asked) -> Answered:
            await asyncio.sleep(0.01)
            return Answered(asked.number)
    else:

        @made.on(Asked)
        async def answer(asked: Asked) -> Answered:
            return Answered(asked.number)

    @made.on(Slept)
    async def sleep(slept: Slept) -> None:
        await asyncio.sleep(0.1)

    @made.on(Ticked)
    async def tick(ticked: Ticked) -> Ticked | None:
        return Ticked(ticked.left - 1) if ticked.left else None

    return made
