"""What handlers are told and given, in which forms they come, and what is published of what they return."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from saga_cast import A, B, C, Cast, D, Finished, Refused, Restored, Started
from saga_kit import choreography, on_stage
from saga_wait import until

from choreo import Abort, Context, Event, Participant
from choreo.broker.connection import Connection
from choreo.model.policy import Retry
from choreo.model.saga import State
from choreo.runtime.worker import WorkerOptions

pytestmark = pytest.mark.anyio

SHORT_LEASE = WorkerOptions(lease=0.3)
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def refuse() -> None:
    raise Abort("no")


async def test_context(connection: Connection, namespace: str, cast: Cast) -> None:
    """A handler is told its saga, participant, step and event; an undo besides which key it undoes."""
    cast.step("root", Started, A)
    cast.step("last", A, does=refuse)
    topology = choreography(namespace, cast.participants)
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.start()
        await stage.ended()
        started, first = (entry["id"] for entry in await stage.entries())
    (step,), (undo,), (last,) = (cast.contexts[name] for name in ("root", "undo root", "last"))
    for context in (step, undo, last):
        assert (context.saga_id, context.saga_type, context.resources) == ("s1", "order", None)
    assert (step.participant, step.step, step.event_id) == ("root", "root", started)
    assert (undo.participant, undo.step, undo.event_id) == ("root", "root", started)
    assert (last.participant, last.step, last.event_id) == ("last", "last", first)
    assert (step.undoes, undo.undoes, last.undoes) == (None, step.key, None)
    assert len({step.key, undo.key, last.key}) == 3


async def test_key_of_every_attempt(connection: Connection, namespace: str, cast: Cast) -> None:
    """The key is the same when a worker died and another one runs the step again, and only one of the
    attempts publishes.
    """
    died = anyio.Event()

    async def hang_once() -> A:
        if not died.is_set():
            died.set()
            await anyio.sleep_forever()
        return A()

    cast.step("root", Started, A, does=hang_once)
    cast.step("last", A, Finished)
    topology = choreography(namespace, cast.participants)
    async with on_stage(connection, topology, cast.participants, options=SHORT_LEASE) as stage:
        await stage.start()
        await died.wait()
        stage.kill(stage.workers["root"][0])
        await stage.add(cast.participants[0], SHORT_LEASE)
        assert (await stage.ended()).status is State.COMPLETED
        assert await stage.published() == ["Started", "A", "Finished"]
    first, second = cast.contexts["root"]
    assert (first.key, first.event_id) == (second.key, second.event_id)


async def test_key_of_every_retry(connection: Connection, namespace: str, cast: Cast) -> None:
    """The key is the same in every attempt after an error, of a step and of its undo."""
    failures = {"step": 2, "undo": 2}

    async def fail(what: str) -> A:
        failures[what] -= 1
        if failures[what] >= 0:
            raise RuntimeError("not yet")
        return A()

    async def undo() -> None:
        await fail("undo")

    cast.step("root", Started, A, does=lambda: fail("step"), undoes=undo)
    cast.step("last", A, does=refuse)
    topology = choreography(namespace, cast.participants, retry=Retry(attempts=3, first=0.001))
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.start()
        view = await stage.ended()
    assert (view.status, view.undone) == (State.COMPENSATED, {"root/root": 1})
    for name in ("root", "undo root"):
        assert [context.attempt for context in cast.contexts[name]] == [1, 2, 3]
        assert len({context.key for context in cast.contexts[name]}) == 1
    assert {context.undoes for context in cast.contexts["undo root"]} == {cast.contexts["root"][0].key}


async def test_keys_differ(connection: Connection, namespace: str) -> None:
    """Keys differ between sagas, participants, steps and events, also where all else is alike."""
    keys: list[str] = []
    one, two = Participant("one"), Participant("two")

    for participant in (one, two):

        @participant.on(Started)
        async def begin(event: Started, ctx: Context) -> None:
            keys.append(ctx.key)

    @one.on(A)
    def again(event: A, ctx: Context) -> None:
        keys.append(ctx.key)

    topology = choreography(namespace, [one, two])
    async with on_stage(connection, topology, [one, two]) as stage:
        for saga in ("s1", "s2"):
            await stage.write(("e1", "Started"), ("e2", "Started"), ("e3", "A"), ("e3", "A"), saga=saga)
        await stage.quiet()
    # e3 comes twice: whether its handler runs once or twice, the key is the same.
    assert len(set(keys)) == 2 * (2 + 2 + 1)


async def test_emit(connection: Connection, namespace: str) -> None:
    """Events given to ``emit`` are published with those returned, before them, and only on success."""
    participant = Participant("one")

    @participant.on(Started)
    async def begin(event: Started, ctx: Context) -> list[A | B] | Finished:
        ctx.emit(A())
        ctx.emit(B())
        ctx.emit(A())
        if event.number:
            raise Abort("no")
        return Finished()

    topology = choreography(namespace, [participant])
    async with on_stage(connection, topology, [participant]) as stage:
        await stage.start(saga="s1")
        await stage.start(1, saga="s2")
        assert (await stage.ended("s1")).status is State.COMPLETED
        assert (await stage.ended("s2")).status is State.COMPENSATED
        assert await stage.published("s1") == ["Started", "A", "B", "A", "Finished"]
        assert await stage.published("s2") == ["Started"]
        assert len({entry["id"] for entry in await stage.entries("s1")}) == 5


async def test_emit_in_an_undo(connection: Connection, namespace: str) -> None:
    """An undo may emit as well; its events are of the way back."""
    participant = Participant("one")

    @participant.on(Started)
    def begin(event: Started) -> Refused:
        return Refused()

    @begin.undo
    async def unbegin(event: Started, ctx: Context) -> Restored | list[Restored]:
        ctx.emit(Restored("first"))
        return Restored("second")

    topology = choreography(namespace, [participant])
    async with on_stage(connection, topology, [participant]) as stage:
        await stage.start()
        await stage.ended()
        entries = await stage.entries()
    assert [(each["data"], each.get("phase")) for each in entries[2:]] == [
        ('{"what":"first"}', "back"), ('{"what":"second"}', "back"),
    ]  # fmt: skip


async def test_forms(connection: Connection, namespace: str) -> None:
    """Steps may be coroutines or run in threads, take the context or not, react to any of several
    events or to all of them, and return one event, several or none.
    """
    participant, other = Participant("one"), Participant("two")
    ran: list[str] = []

    @participant.on(Started)
    def in_thread(event: Started) -> tuple[A, B]:
        ran.append("thread" if threading.current_thread() is not threading.main_thread() else "main")
        return A(), B()

    @participant.on(A, B)
    async def either(event: A | B, ctx: Context) -> list[C]:
        ran.append(type(event).__name__)
        return [C()] if isinstance(event, A) else []

    @other.on_all(B, A, C)
    def all_of_them(b: B, a: A, c: C, ctx: Context) -> Finished | None:
        ran.append(f"{type(b).__name__}{type(a).__name__}{type(c).__name__}")
        return Finished()

    @other.on(Finished)
    async def nothing(event: Finished) -> None:
        ran.append("end")

    topology = choreography(namespace, [participant, other])
    async with on_stage(connection, topology, [participant, other]) as stage:
        await stage.start()
        view = await stage.ended()
        await stage.quiet()
    assert view.status is State.COMPLETED
    assert sorted(ran) == ["A", "B", "BAC", "end", "thread"]


async def test_join_keys(connection: Connection, namespace: str, cast: Cast) -> None:
    """A join's key and event are those of the event that completed it, and its undo refers to it."""
    gate = anyio.Event()

    async def wait() -> B:
        await gate.wait()
        return B()

    async def left_is_done() -> bool:
        return "A" in await stage.published()

    cast.step("left", Started, A)
    cast.step("right", Started, B, does=wait)
    cast.step("join", (A, B), C)
    cast.step("last", C, does=refuse)
    topology = choreography(namespace, cast.participants)
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.start()
        await cast.until("left", "right")
        await until(left_is_done)
        gate.set()
        await stage.ended()
        ids = {entry["type"]: entry["id"] for entry in await stage.entries()}
    (join,), (undo,) = cast.contexts["join"], cast.contexts["undo join"]
    assert join.event_id == undo.event_id == ids["B"]
    assert undo.undoes == join.key != undo.key


async def test_lifespan(connection: Connection, namespace: str) -> None:
    """What the lifespan yields is there for every handler; it is opened once per worker, before the first
    handler runs, and closed after the last.
    """
    diary: list[str] = []

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[dict[str, int]]:
        diary.append("open")
        yield {"answer": 42}
        diary.append("close")

    participant = Participant("one", lifespan=lifespan)

    @participant.on(Started)
    def begin(event: Started, ctx: Context) -> A:
        diary.append(f"begin {ctx.resources['answer']}")
        return A()

    @begin.undo
    async def unbegin(event: Started, ctx: Context) -> None:
        diary.append(f"unbegin {ctx.resources['answer']}")

    @participant.on(A)
    async def last(event: A, ctx: Context) -> Refused:
        diary.append(f"last {ctx.resources['answer']}")
        return Refused()

    topology = choreography(namespace, [participant])
    async with on_stage(connection, topology, [participant]) as stage:
        await stage.start()
        await stage.ended()
        await stage.add(participant)
    assert diary[:4] == ["open", "begin 42", "last 42", "unbegin 42"]
    assert sorted(diary[4:]) == ["close", "close", "open"]


async def test_lifespan_that_fails(connection: Connection, namespace: str) -> None:
    """A worker whose lifespan cannot be opened does not start."""

    @asynccontextmanager
    async def lifespan() -> AsyncIterator[None]:
        raise RuntimeError("no database")
        yield

    participant = Participant("one", lifespan=lifespan)

    @participant.on(Started)
    def begin(event: Started) -> None:
        raise AssertionError("it must not run")

    topology = choreography(namespace, [participant])
    with pytest.raises(BaseException) as failed:
        async with on_stage(connection, topology, [participant]):
            pass
    assert "no database" in repr(failed.value) + repr(getattr(failed.value, "exceptions", ()))


async def test_traceparent(connection: Connection, namespace: str, cast: Cast) -> None:
    """The trace context of the first event is passed along to every event, also on the way back."""
    cast.step("root", Started, A, undo=Restored)
    cast.step("other", Started, B)
    cast.step("join", (A, B), C)
    cast.step("last", C, Refused, undo=False)
    cast.step("notify", Restored, D, undo=False)
    topology = choreography(namespace, cast.participants)
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.write(("e1", "Started"), traceparent=TRACEPARENT)
        await stage.ended()
        entries = await stage.entries()
    types = ["A", "B", "C", "D", "Refused", "Restored", "Started"]
    assert sorted(entry["type"] for entry in entries) == types
    assert {entry["traceparent"] for entry in entries} == {TRACEPARENT}


async def test_envelope(connection: Connection, namespace: str, cast: Cast) -> None:
    """An emitted event says who emitted it, because of which event, and which effects caused it."""
    cast.step("root", Started, A)
    cast.step("reader", A, B, undo=False)
    cast.step("other", A, C)
    cast.step("join", (B, C), Finished)
    topology = choreography(namespace, cast.participants)
    async with on_stage(connection, topology, cast.participants) as stage:
        await stage.start()
        await stage.ended()
        entries = {entry["type"]: entry for entry in await stage.entries()}
    ids = {name: entry["id"] for name, entry in entries.items()}
    assert entries["A"]["source"] == "root/root"
    assert (entries["A"]["cause"], entries["B"]["cause"]) == (ids["Started"], ids["A"])
    root, other = f"root/root:{ids['Started']}", f"other/other:{ids['A']}"
    assert "ledger" not in entries["Started"]
    assert (entries["A"]["ledger"], entries["B"]["ledger"], entries["C"]["ledger"]) == (root, root, other)
    assert entries["Finished"]["cause"] in (ids["B"], ids["C"])
    assert entries["Finished"]["ledger"] == f"join/join:{entries['Finished']['cause']}"
    assert (entries["Finished"]["state"], entries["Finished"]["sagatype"]) == ("completed", "order")
    assert 0 < int(entries["A"]["began"]) <= int(entries["A"]["time"])


class Money(Event):
    """An event with a payload of every kind."""

    amount: int
    note: str
    parts: list[dict[str, float]]
    maybe: str | None = None


async def test_payload(connection: Connection, namespace: str) -> None:
    """What a step returns arrives at the next step, and at its own undo, as it was."""
    money = Money(7, "é\x00\x1b[31m\u202e{}", [{"a": 0.1}, {}], None)
    got: list[object] = []
    one, two = Participant("one"), Participant("two")

    @one.on(Started)
    def pay(event: Started) -> Money:
        return money

    @pay.undo
    def unpay(event: Started, result: Money | None) -> None:
        got.append(result)

    @two.on(Money)
    def take(event: Money) -> Refused:
        got.append(event)
        return Refused()

    topology = choreography(namespace, [one, two])
    async with on_stage(connection, topology, [one, two]) as stage:
        await stage.start()
        await stage.ended()
    assert got == [money, money]
