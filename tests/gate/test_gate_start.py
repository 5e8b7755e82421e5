"""Starting a saga: once, whoever asks and however often."""

from __future__ import annotations

import anyio
import pytest
from gate_kit import Desk, aborted, begin, done

from choreo import Event
from choreo.broker.answers import Verdict
from choreo.choreography import Choreography
from choreo.errors import SagaConflict, SagaNotFound
from choreo.wire.topology import SagaType, Topology

pytestmark = pytest.mark.anyio


class Placed(Event):
    amount: int


class Reopened(Event):
    amount: int


def client(desk: Desk) -> Choreography:
    """A client of a choreography on the desk's partition."""
    kind = SagaType("order", frozenset({"Placed", "Reopened"}), frozenset({"Shipped"}))
    streams = {"facts": ("Placed", "Reopened", "Shipped")}
    topology = Topology(desk.keys.namespace, 1, streams, {}, {"order": kind})
    return Choreography(topology, desk.broker)


async def entries(desk: Desk) -> list[bytes]:
    """The payloads of the events in the stream, in order."""
    found = await desk.call("XRANGE", desk.stream(), "-", "+")
    return [dict(zip(flat[::2], flat[1::2], strict=True))[b"data"] for _, flat in found]


async def test_same_payload(desk: Desk) -> None:
    """The same event with the same saga id is the same saga: it begins once."""
    choreo = client(desk)
    assert [await choreo.start(Placed(7), saga_id="s1") for _ in range(3)] == ["s1"] * 3
    assert await entries(desk) == [b'{"amount":7}']


@pytest.mark.parametrize("other", [Placed(8), Reopened(7)])
async def test_different_event(desk: Desk, other: Event) -> None:
    """Another payload or another event type with the same saga id is a conflict, and changes nothing."""
    choreo = client(desk)
    await choreo.start(Placed(7), saga_id="s1")
    before = await desk.dump()
    with pytest.raises(SagaConflict, match="'s1' exists already"):
        await choreo.start(other, saga_id="s1")
    assert await desk.dump() == before


async def test_own_ids(desk: Desk) -> None:
    """Without a saga id each start is a saga of its own."""
    choreo = client(desk)
    assert len({await choreo.start(Placed(7)) for _ in range(3)}) == 3
    assert len(await entries(desk)) == 3


@pytest.mark.parametrize("ending", ["completed", "compensated"])
async def test_after_the_end(desk: Desk, ending: str) -> None:
    """A saga that has ended is not begun again by the same start."""
    choreo = client(desk)
    await choreo.start(Placed(7), saga_id="s1")
    worker = await desk.worker("payments")
    delivery = await worker.read_one()
    head = worker.head(delivery)
    await worker.verdict(begin(head, delivery))
    if ending == "completed":
        await worker.verdict(done(head, delivery, desk.emit("out", ends="c1")))
    else:
        await worker.verdict(aborted(head, delivery))
    assert await desk.state() == ending
    assert await choreo.start(Placed(7), saga_id="s1") == "s1"
    assert len(await entries(desk)) == 1
    assert await desk.state() == ending


async def test_at_once(real_desk: Desk) -> None:
    """Of 200 callers at once, half of them with another payload, those of one payload have started the
    saga, all others are told of the conflict, and the saga has begun once.
    """
    choreo = client(real_desk)
    told: dict[int, set[bool]] = {1: set(), 2: set()}
    count = 0

    async def start(amount: int) -> None:
        nonlocal count
        try:
            await choreo.start(Placed(amount), saga_id="s1")
        except SagaConflict:
            told[amount].add(False)
        else:
            told[amount].add(True)
        count += 1

    async with anyio.create_task_group() as callers:
        for number in range(200):
            callers.start_soon(start, 1 + number % 2)
    assert count == 200
    assert sorted(map(list, told.values())) == [[False], [True]]
    (winner,) = (amount for amount, answers in told.items() if answers == {True})
    assert await entries(real_desk) == [b'{"amount":%d}' % winner]


async def test_any_program(desk: Desk) -> None:
    """An event that any program has written begins a saga with the first commit; before that nobody
    can compensate it, for nothing is known of it.
    """
    await desk.publish("e1")
    with pytest.raises(SagaNotFound):
        await client(desk).compensate("s1")
    worker = await desk.worker("payments")
    delivery = await worker.read_one()
    assert await desk.state() is None
    head = worker.head(delivery)
    assert await worker.verdict(begin(head, delivery)) is Verdict.RUN
    assert await worker.verdict(done(head, delivery, desk.emit("out"))) is Verdict.COMMITTED
    assert await desk.state() == "running"
    assert await desk.call("HGET", desk.record(), "type") == b"order"
    assert await client(desk).compensate("s1") == "compensating"
