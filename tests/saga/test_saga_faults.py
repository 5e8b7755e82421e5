"""Faults while sagas run: deliveries that come again, keys in the way, no memory, scripts forgotten."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import anyio
import pytest
from saga_cast import A, B, C, Cast, Finished, Refused, Started
from saga_kit import Stage, choreography, on_stage
from saga_wait import until

from choreo import Abort
from choreo.broker.connection import Connection
from choreo.broker.engine import EngineProcess
from choreo.model.saga import State
from choreo.wire.topology import Topology

pytestmark = pytest.mark.anyio

SAGAS = [f"s{number}" for number in range(20)]


def shop(cast: Cast, namespace: str, *, retire: type = Finished) -> Topology:
    """A choreography of three steps, the last of which waits for both others."""
    cast.step("pay", Started, A)
    cast.step("reserve", Started, B)
    cast.step("ship", (A, B), retire)
    return choreography(namespace, cast.participants)


async def everything(stage: Stage) -> dict[str, list[str]]:
    """The ids of the events of every saga."""
    return {saga: [entry["id"] for entry in await stage.entries(saga)] for saga in SAGAS}


@pytest.mark.parametrize("how", ["set back", "made anew"])
@pytest.mark.parametrize("retire", [Finished, Refused])
async def test_all_traffic_again(
    connection: Connection, namespace: str, cast: Cast, how: str, retire: type
) -> None:
    """When every group gets everything again no handler runs, and nothing is emitted or undone twice."""
    topology = shop(cast, namespace, retire=retire)
    keys = topology.keys
    async with on_stage(connection, topology, cast.participants) as stage:
        for saga in SAGAS:
            await stage.start(saga=saga)
        for saga in SAGAS:
            await stage.ended(saga)
        before, diary = await everything(stage), list(cast.diary)
        views = await stage.choreo.sagas()
        for number in range(topology.partitions):
            for name in stage.workers:
                for stream in (keys.stream(number, "facts"), keys.inbox(number, name)):
                    if how == "set back":
                        await connection.call("XGROUP", "SETID", stream, name, "0")
                    else:
                        assert await connection.call("XGROUP", "DESTROY", stream, name) == 1
        await stage.wake()
        await stage.quiet()
        assert await everything(stage) == before
        assert await stage.choreo.sagas() == views
    assert cast.diary == diary
    assert len(diary) == len(SAGAS) * (3 if retire is Finished else 6)


async def test_producer_sends_twice(connection: Connection, namespace: str, cast: Cast) -> None:
    """Producers that send every event twice, at once, start every saga once."""
    topology = shop(cast, namespace)
    async with on_stage(connection, topology, cast.participants) as stage:
        for saga in SAGAS:
            await stage.write(("e1", "Started"), ("e1", "Started"), saga=saga)
        for saga in SAGAS:
            assert (await stage.ended(saga)).status is State.COMPLETED
            assert sorted(await stage.published(saga)) == ["A", "B", "Finished", "Started", "Started"]
    assert cast.diary.count("ship") == len(SAGAS)


@dataclass
class Obstacle:
    """Something else than what belongs there, on a key."""

    connection: Connection
    key: str
    aside: bool = False

    async def put(self) -> None:
        self.aside = bool(await self.connection.call("EXISTS", self.key))
        if self.aside:
            await self.connection.call("RENAME", self.key, f"{self.key}:aside")
        await self.connection.call("SET", self.key, "not ours")

    async def remove(self) -> None:
        assert await self.connection.call("GET", self.key) == b"not ours"
        # In one step: in between a worker might write where what was there belongs.
        back = ("RENAME", f"{self.key}:aside", self.key) if self.aside else ("DEL", self.key)
        await self.connection.call(*back)
        self.connection.announce_change()


def on_two_streams(cast: Cast, namespace: str) -> Topology:
    """A choreography whose last event has a stream of its own, which nobody reads."""
    topology = choreography(namespace, cast.participants, completes=(C,))
    streams = {"facts": ("Started", "A", "Refused"), "results": ("C",)}
    return dataclasses.replace(topology, streams=streams)


def key_of(topology: Topology, what: str) -> str:
    """The key that a saga's decision has to write to."""
    keys, number = topology.keys, topology.keys.partition("s1")
    return {
        "record": keys.record(number, "s1"), "work": keys.work(number, "s1"), "journal": keys.journal(number),
        "stream": keys.stream(number, "results"), "inbox": keys.inbox(number, "pay"),
        "dead": keys.dead(number), "letters": keys.letters(number),
    }[what]  # fmt: skip


@pytest.mark.parametrize("what", ["record", "work", "journal", "stream", "inbox", "dead", "letters"])
async def test_key_in_the_way(
    connection: Connection, namespace: str, cast: Cast, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """A key of the wrong type stops the step that has to write there, and nothing else is changed; the
    log names the key. When it is gone the saga goes on by itself.
    """
    gate, finishes = anyio.Event(), what in ("stream", "record", "work", "journal")

    async def wait() -> C:
        await gate.wait()
        if finishes:
            return C()
        raise RuntimeError("boom")

    cast.step("pay", Started, A)
    cast.step("last", A, C, undo=False, does=wait)
    topology = on_two_streams(cast, namespace)
    obstacle = Obstacle(connection, key_of(topology, what))
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.start()
        await cast.until("last")
        await obstacle.put()
        gate.set()
        await until(lambda: any(obstacle.key in said and said.startswith("last") for said in caplog.messages))
        assert await stage.pending("last") == 1
        assert await stage.published() == ["Started", "A"]
        assert cast.undone() == []
        await obstacle.remove()
        # Not by the view: the tracker may have been stopped by the same key, and looks again later.
        await stage.reaches(State.COMPLETED if finishes else State.COMPENSATED)
        assert await stage.letters() == ([] if finishes else ["step-failed"])
    assert cast.diary == (["pay", "last"] if finishes else ["pay", "last", "undo pay"])


async def test_no_memory(
    server_process: Callable[..., EngineProcess], namespace: str, cast: Cast, caplog: pytest.LogCaptureFixture
) -> None:
    """While the server is out of memory workers wait, and nothing is written; when it has some again
    every saga goes on, and no handler had to run twice.
    """
    gate = anyio.Event()

    async def wait() -> A:
        await gate.wait()
        return A()

    async def decide() -> Finished:
        if cast.contexts["last"][-1].saga_id == "s1":
            raise Abort("no")
        return Finished()

    cast.step("pay", Started, A, does=wait)
    cast.step("last", A, Finished, does=decide)
    server = server_process({"appendonly": "no"})
    connection = Connection.open(server.url)
    topology = choreography(namespace, cast.participants)
    async with on_stage(connection, topology, cast.participants) as stage:
        for saga in SAGAS:
            await stage.start(saga=saga)
        await until(lambda: len(cast.diary) == len(SAGAS))
        await connection.call("CONFIG", "SET", "maxmemory", "1")
        gate.set()
        await until(lambda: any("maxmemory" in said for said in caplog.messages))
        assert {len(ids) for ids in (await everything(stage)).values()} == {1}
        await connection.call("CONFIG", "SET", "maxmemory", "0")
        statuses = {saga: (await stage.ended(saga)).status for saga in SAGAS}
        assert await stage.letters("s1") == []
    await connection.close()
    assert statuses == {saga: State.COMPENSATED if saga == "s1" else State.COMPLETED for saga in SAGAS}
    assert cast.diary.count("pay") == cast.diary.count("last") == len(SAGAS)
    assert cast.undone() == ["pay"]


@pytest.mark.parametrize("retire", [Finished, Refused])
async def test_scripts_forgotten_all_the_time(
    real_connection: Connection, namespace: str, cast: Cast, retire: type
) -> None:
    """A server that forgets its scripts again and again costs no saga anything."""
    topology = shop(cast, namespace, retire=retire)
    flushes = 0

    async def forget() -> None:
        nonlocal flushes
        while True:
            await real_connection.call("SCRIPT", "FLUSH")
            flushes += 1
            await anyio.sleep(0.003)

    async with (
        on_stage(real_connection, topology, cast.participants) as stage,
        anyio.create_task_group() as tasks,
    ):
        for saga in SAGAS:
            await stage.start(saga=saga)
        tasks.start_soon(forget)
        ended = {(await stage.ended(saga)).status for saga in SAGAS}
        tasks.cancel_scope.cancel()
        assert all(len(set(ids)) == len(ids) == 4 for ids in (await everything(stage)).values())
    assert ended == {State.COMPLETED if retire is Finished else State.COMPENSATED}
    assert flushes > 1
    undone = [] if retire is Finished else sorted(["pay", "reserve", "ship"] * len(SAGAS))
    assert sorted(cast.undone()) == undone
