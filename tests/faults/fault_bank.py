"""A choreography of two steps, whose handlers do as a test says: take money, then note that it was taken."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from fault_diary import Diary, wrap_handlers

from choreo import Abort, Context, Event, Participant, Retry
from choreo.broker.gate import Gate
from choreo.wire.topology import SagaType, Topology

#: Attempts that follow each other almost at once.
RETRY = Retry(attempts=5, first=0.05, limit=0.05, jitter=0)


class Asked(Event):
    """Somebody wants money. ``trouble``: how often the first step fails before it succeeds."""

    trouble: int = 0


class Taken(Event):
    pass


class Returned(Event):
    pass


class Noted(Event):
    pass


BANKING = SagaType("banking", frozenset({"Asked"}), frozenset({"Noted"}))
STREAMS = {"asks": ("Asked",), "tills": ("Taken", "Returned"), "books": ("Noted",)}


def bank_topology(namespace: str, partitions: int = 1) -> Topology:
    return Topology(namespace, partitions, STREAMS, {}, {"banking": BANKING})


def bank_participants(folder: Path, *, role: str = "", outcome: str = "") -> list[Participant]:
    """``role``: handlers wait until the file ``go-<role>`` is in ``folder``. ``outcome``: what the first
    step does then: ``abort``, ``error`` or, by default, succeed."""
    tills, books = Participant("tills"), Participant("books")

    async def go() -> None:
        while role and not (folder / f"go-{role}").exists():  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # another process makes that file

    @tills.on(Asked, retry=RETRY)
    async def take(asked: Asked, ctx: Context) -> Taken:
        await go()
        if outcome == "abort":
            raise Abort("the till is locked")
        if outcome == "error" or ctx.attempt <= asked.trouble:
            raise OSError("the till is stuck")
        return Taken()

    @take.undo
    async def give_back(asked: Asked, taken: Taken | None, ctx: Context) -> Returned:
        return Returned()

    @books.on(Taken)
    async def note(taken: Taken, ctx: Context) -> Noted:
        return Noted()

    diary = Diary(folder / "diary")
    for each in (tills, books):
        wrap_handlers(each, diary.wrap)
    return [tills, books]


def overhear(diary: Diary, role: str) -> None:
    """Note what this process decides, and what it is answered: ``verdict <role> <kind> <answer>``."""
    decide = Gate.decide

    async def noting(gate: Gate, identity: Any, now: int, batches: Any) -> Any:
        results = await decide(gate, identity, now, batches)
        for (_, batch), answers in zip(batches, results, strict=True):
            for decision, answer in zip(batch, answers if isinstance(answers, list) else (), strict=False):
                diary.note("verdict", role, decision.kind, answer.verdict)
        return results

    Gate.decide = noting  # type: ignore[method-assign]
