"""Retention: what is kept of ended sagas goes after their `keep`, whole, and never too early."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import pytest
from tracker_kit import (
    BOOM,
    DECLINED,
    NO_STOCK,
    ORDER,
    STUCK,
    Hand,
    Placed,
    add_entry,
    catch_up,
    keys_of,
    letters,
    look,
    run_to_rest,
    running,
    until,
)

from choreo.broker.broker import Broker
from choreo.broker.clock import wall_clock
from choreo.broker.retention import Ended
from choreo.choreography import Choreography
from choreo.model.saga import State
from choreo.tracker.follower import Tracker
from choreo.tracker.housekeeping import Housekeeping
from choreo.wire.topology import Topology

pytestmark = pytest.mark.anyio

DAY = 86_400_000
EVERY_END = [1, DECLINED, NO_STOCK]
#: What is kept of one saga.
KINDS = ("saga", "work", "view", "trace")


def later(days: float) -> Callable[[], int]:
    return lambda: wall_clock() + round(days * DAY)


async def tidy(topology: Topology, broker: Broker, days: float) -> None:
    """What trackers put away in all partitions, with a clock that is some days ahead."""
    housekeeping = Housekeeping(topology, broker, later(days))
    for partition in range(topology.partitions):
        hand = Hand(topology, broker, partition)
        while True:
            hand.progress = await broker.projections.progress(partition, hand.projector.streams)
            if not await housekeeping.visit(hand.projector, hand.progress):
                break


async def keys_left(broker: Broker, topology: Topology, kind: str) -> list[str]:
    return await keys_of(broker, f"{{{topology.namespace}:*:{kind}:*")


async def test_ended_sagas_go_whole_when_their_time_is_over(broker: Broker, topology: Topology) -> None:
    """Completed and compensated ones leave no key behind; the open and the failed one keep all of theirs."""
    ids = await run_to_rest(topology, broker, [*EVERY_END, STUCK])
    await Choreography(topology, broker).start(Placed(), saga_id="open")
    before = await catch_up(topology, broker)
    await tidy(topology, broker, 6.9)
    assert await look(topology, broker) == before, "nothing goes early"
    await tidy(topology, broker, 7.1)
    for kind in KINDS:
        left = {key.rpartition(":")[2] for key in await keys_left(broker, topology, kind)}
        assert left <= {ids[-1], "open"}, kind
    found = await look(topology, broker)
    assert set(found.views) == {ids[-1], "open"}
    assert set(found.listings) == {"order:failed", "order:running"}


async def test_a_letter_that_is_open_keeps_its_saga(broker: Broker, topology: Topology) -> None:
    """A compensated saga whose dead letter waits for an operator stays until the letter is settled."""
    (saga_id,) = await run_to_rest(topology, broker, [BOOM])
    await catch_up(topology, broker)
    await tidy(topology, broker, 8)
    assert saga_id in (await look(topology, broker)).views
    states = topology.keys.letters(topology.keys.partition(saga_id))
    (letter,) = await broker.connection.call("HKEYS", states)
    await broker.connection.call("HSET", states, letter, "dropped 1 t ann")
    await tidy(topology, broker, 8)
    assert (await look(topology, broker)).views == {}


async def test_what_may_be_delivered_again_keeps_its_saga(broker: Broker, topology: Topology) -> None:
    """While a group has not acknowledged an entry older than a saga's last one, its done marks stay."""
    keys = topology.keys
    early, late = await run_to_rest(topology, broker, [1]), await run_to_rest(topology, broker, [1] * 4, "t")
    await catch_up(topology, broker)
    for partition, name in itertools.product(range(topology.partitions), topology.streams):
        await broker.groups.ensure([keys.stream(partition, name)], "left behind")
    await tidy(topology, broker, 8)
    assert set((await look(topology, broker)).views) == {*early, *late}
    for partition, name in itertools.product(range(topology.partitions), topology.streams):
        await broker.connection.call("XGROUP", "DESTROY", keys.stream(partition, name), "left behind")
    await tidy(topology, broker, 8)
    assert (await look(topology, broker)).views == {}


async def test_types_are_kept_as_long_as_they_say(broker: Broker, topology: Topology) -> None:
    """`keep` of a saga's type wins over the default, and so does that of a stream: the longest one counts."""
    await run_to_rest(topology, broker, [1])
    await catch_up(topology, broker)
    longer = replace(topology, sagas={"order": replace(ORDER, keep=10 * 86_400.0)})
    await tidy(longer, broker, 8)
    assert len((await look(topology, broker)).views) == 1
    await tidy(longer, broker, 11)
    assert (await look(topology, broker)).views == {}


async def test_a_saga_that_is_not_as_its_view_says_stays(broker: Broker, topology: Topology) -> None:
    """The record has the last word: a saga that an operator has opened again since is not forgotten."""
    (saga_id,) = await run_to_rest(topology, broker, [1])
    await catch_up(topology, broker)
    partition = topology.keys.partition(saga_id)
    record = topology.keys.record(partition, saga_id)
    await broker.connection.call("HSET", record, "state", "compensating")
    await tidy(topology, broker, 8)
    assert await broker.connection.call("EXISTS", record)
    assert saga_id in (await look(topology, broker)).views


async def test_settled_letters_go_and_open_ones_stay(broker: Broker, topology: Topology) -> None:
    """A letter that was replayed or dropped goes a `keep` later; one that is open stays for ever."""
    ids = await run_to_rest(topology, broker, [BOOM] * 4)
    await catch_up(topology, broker)
    keys = topology.keys
    settled = {}
    for saga_id, state in zip(ids, (b"open", b"replayed %d t ann", b"dropped %d t ann", b"resolved %d t ann"), strict=True):
        partition = keys.partition(saga_id)
        record = await broker.connection.call("HKEYS", keys.record(partition, saga_id))
        (letter,) = [field[2:] for field in record if field.startswith(b"l:")]
        state = state % wall_clock() if b"%" in state else state
        await broker.connection.call("HSET", keys.letters(partition), letter, state)
        if state.startswith(b"dropped"):
            place = await broker.connection.call("HGET", keys.record(partition, saga_id), b"l:" + letter)
            await broker.connection.call("XDEL", keys.dead(partition), place)
        settled[letter] = state
    await tidy(topology, broker, 6.9)
    assert await states_of(broker, topology) == settled
    await tidy(topology, broker, 8)
    open_ones = {letter: state for letter, state in settled.items() if state == b"open"}
    assert await states_of(broker, topology) == open_ones
    assert [fields[b"letter"] for fields in await letters(topology, broker)] == list(open_ones)


async def states_of(broker: Broker, topology: Topology) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for partition in range(topology.partitions):
        flat = await broker.connection.call("HGETALL", topology.keys.letters(partition))
        found |= dict(zip(flat[::2], flat[1::2], strict=True))
    return found


@pytest.mark.parametrize("row", ["a:payments/charge:e1", "t:payments/charge:e1"])
async def test_an_attempt_or_event_to_come_keeps_its_saga(
    broker: Broker, topology: Topology, row: str
) -> None:
    """A completed saga with a step that is to be tried again, or an event that is planned, stays: it would
    begin anew otherwise."""
    (saga_id,) = await run_to_rest(topology, broker, [1])
    await catch_up(topology, broker)
    keys, partition = topology.keys, topology.keys.partition(saga_id)
    await broker.connection.call("HSET", keys.work(partition, saga_id), row, "1 token")
    await tidy(topology, broker, 8)
    assert await broker.sagas.state(saga_id) is State.COMPLETED
    await broker.connection.call("HDEL", keys.work(partition, saga_id), row)
    await tidy(topology, broker, 8)
    assert await broker.sagas.state(saga_id) is None
    assert await keys_left(broker, topology, "work") == []


async def test_a_planned_event_of_the_way_back_keeps_its_saga(broker: Broker, topology: Topology) -> None:
    """An undo may plan an event for months later: until then, and a `keep` more, its saga stays."""
    (saga_id,) = await run_to_rest(topology, broker, [NO_STOCK])
    keys, partition = topology.keys, topology.keys.partition(saga_id)
    timer = f"plan:payments/charge:e9 {saga_id}"
    due = wall_clock() + 30 * DAY
    await broker.connection.call("ZADD", keys.timers(partition), due, timer)
    planned = {"id": "planned:e9", "kind": "planned", "subject": saga_id, "time": str(wall_clock()),
               "type": "Refunded", "participant": "payments", "step": "charge", "due": str(due)}  # fmt: skip
    fields = {name.encode(): value.encode() for name, value in planned.items()}
    await add_entry(broker, keys.journal(partition), fields)
    await catch_up(topology, broker)
    for days in (8, 31, 38):
        await tidy(topology, broker, days)
        assert saga_id in (await look(topology, broker)).views
    await broker.connection.call("DEL", keys.timers(partition))
    await tidy(topology, broker, 38)
    assert (await look(topology, broker)).views == {}


async def test_long_sagas_do_not_hide_those_behind_them(
    broker: Broker, topology: Topology, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sagas that began first and cannot go yet are passed over, page by page."""
    monkeypatch.setattr("choreo.broker.retention.MAX_FORGOTTEN", 1)
    monkeypatch.setattr("choreo.tracker.retention.MAX_FORGOTTEN", 1)
    ids = await run_to_rest(topology, broker, [1] * 8)
    await catch_up(topology, broker)
    keys = topology.keys
    stay = {ids[0], ids[1], ids[4]}
    for saga_id in stay:
        await broker.connection.call("HSET", keys.record(keys.partition(saga_id), saga_id), "state", "running")
    housekeeping = Housekeeping(topology, broker, later(8))
    for _, partition in itertools.product(range(12), range(topology.partitions)):
        hand = Hand(topology, broker, partition)
        progress = await broker.projections.progress(partition, hand.projector.streams)
        await housekeeping.visit(hand.projector, progress)
    assert set((await look(topology, broker)).views) == stay


async def test_nothing_is_forgotten_by_who_does_not_know_how_things_stand(
    broker: Broker, topology: Topology
) -> None:
    """A tracker that was paused while another one wrote, and one beside a rebuild, forget nothing."""
    (saga_id,) = await run_to_rest(topology, broker, [1])
    await catch_up(topology, broker)
    partition = topology.keys.partition(saga_id)
    progress = await broker.projections.progress(partition, [])
    ended = [Ended(saga_id, "order", State.COMPLETED)]
    assert await broker.retention.forget(partition, progress.version - 1, ended) is None
    await broker.connection.call("HSET", topology.keys.tracker(partition), "wiping", "1")
    assert await broker.retention.forget(partition, progress.version, ended) is None
    await broker.connection.call("HDEL", topology.keys.tracker(partition), "wiping")
    forgotten = await broker.retention.forget(partition, progress.version, ended)
    assert forgotten is not None and forgotten.gone == [saga_id]
    assert forgotten.version == progress.version + 1


async def test_a_forgotten_id_may_begin_anew(broker: Broker, topology: Topology) -> None:
    """A tracker at work that has forgotten a saga takes nothing of it for the next one of that id."""
    fleeting = replace(topology, keep=0.001)
    choreo = Choreography(fleeting, broker)
    async with running(Tracker(fleeting, broker)):
        for _ in range(2):
            await run_to_rest(fleeting, broker, [1])
            await until(lambda: is_gone(broker, topology), "the saga to be forgotten")
        await choreo.start(Placed(), saga_id="s0")
        await until(lambda: is_seen(broker, "s0"), "the third saga of that id")
        assert (await choreo.view("s0")).events == 1


async def is_gone(broker: Broker, topology: Topology) -> bool:
    return not any([await keys_left(broker, topology, kind) for kind in KINDS])


async def is_seen(broker: Broker, saga_id: str) -> bool:
    return (await broker.projections.views([saga_id]))[0] is not None
