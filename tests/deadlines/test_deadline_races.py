"""Deadlines and trackers: late ones, several, killed ones, and those that build everything anew."""

from __future__ import annotations

import random
import time
from dataclasses import replace

import anyio
import anyio.lowlevel
import pytest
from deadline_kit import (
    DAY,
    HOUR,
    MINUTE,
    PAYMENT,
    START,
    Cast,
    OpenBroker,
    Placed,
    on_stage,
    topology_of,
    until,
)

from choreo import Choreography
from choreo.broker.broker import Broker
from choreo.broker.expiry import Fate, Overdue
from choreo.model.deadlines import Deadlines
from choreo.model.saga import State
from choreo.tracker.follower import Tracker
from choreo.wire.limits import MAX_UNREAD

pytestmark = pytest.mark.anyio

CROWD = 200


async def test_what_is_expected_lies_unread(open_broker: OpenBroker, namespace: str) -> None:
    """A tracker that was away looks into the streams before it lets a deadline pass."""
    topology = topology_of(namespace, None, PAYMENT)
    async with on_stage(topology, open_broker(topology)) as stage:
        await stage.start()
        await stage.tracker.catch_up()
        await stage.write("money", "Paid")
        stage.clock.now += DAY
        assert await stage.tracker.expire() == 0
        assert await stage.armed() == {"s1": START + MINUTE}
        assert await stage.look() == 0
        assert await stage.armed() == {}


@pytest.mark.parametrize("restarted", [False, True])
async def test_what_is_met_is_pending_no_more(
    open_broker: OpenBroker, namespace: str, restarted: bool
) -> None:
    """Whether the tracker that reads so is the one that listed the saga, or was started since."""
    topology = topology_of(namespace, None, PAYMENT)
    async with on_stage(topology, open_broker(topology)) as stage:
        await stage.start()
        await stage.tracker.catch_up()
        assert await stage.armed() == {"s1": START + MINUTE}
        if restarted:
            stage.tracker = stage.new_tracker()
        await stage.write("money", "Paid")
        await stage.tracker.catch_up()
        assert await stage.armed() == {}


async def test_too_much_lies_unread(open_broker: OpenBroker, namespace: str) -> None:
    """What cannot be looked at in one go is read first; then the deadline passes, if it still does."""
    topology = topology_of(namespace, None, PAYMENT, partitions=1)
    async with on_stage(topology, open_broker(topology)) as stage:
        await stage.start()
        await stage.tracker.catch_up()
        for number in range(MAX_UNREAD + 1):
            await stage.write("money", "Paid", f"other{number}")
        stage.clock.now += MINUTE
        assert await stage.tracker.expire() == 0
        assert await stage.timed_out() == []
        stage.clock.now += MINUTE
        assert await stage.look() == 1
        assert await stage.timed_out() == ["s1"]


async def test_the_tracker_was_away(open_broker: OpenBroker, namespace: str, cast: Cast) -> None:
    """What has passed meanwhile fires when it is back; what was met meanwhile does not."""
    topology = topology_of(namespace, None, PAYMENT)
    async with on_stage(topology, open_broker(topology)) as stage:
        await stage.start("lost", "paid")
        await stage.tracker.catch_up()
        await stage.write("money", "Paid", "paid")
        stage.clock.now += DAY
        stage.tracker = stage.new_tracker()
        async with anyio.create_task_group() as tasks:
            await tasks.start(stage.tracker.run)

            async def fired() -> bool:
                return await stage.timed_out() == ["lost"]

            await until(fired, "the deadline to pass")
            tasks.cancel_scope.cancel()
        assert (await stage.view("paid")).deadline is None


async def test_a_call_whose_reply_was_lost(open_broker: OpenBroker, namespace: str) -> None:
    """Sent again, it finds that the saga does not run any more, and publishes nothing."""
    topology = topology_of(namespace, HOUR)
    async with on_stage(topology, open_broker(topology)) as stage:
        await stage.start()
        await stage.tracker.catch_up()
        partition = topology.keys.partition("s1")
        progress = await stage.broker.projections.progress(partition, [])
        overdue = [Overdue("s1", "order", START, False, (), "t1", b"{}")]
        fates = []
        for _ in range(2):
            verdicts = await stage.broker.expiry.expire(partition, progress.version, START, overdue)
            assert verdicts is not None
            fates += [verdict.fate for verdict in verdicts]
        assert fates == [Fate.FIRED, Fate.CLOSED]
        assert await stage.timed_out() == ["s1"]
        assert (await stage.view()).status is State.COMPENSATED


async def test_trackers_that_come_and_go(open_broker: OpenBroker, namespace: str) -> None:
    """Several at once, each killed anywhere: every saga times out, and once."""
    topology = topology_of(namespace, HOUR)
    chance = random.Random(7)
    kills, before, longest = 0, 0, 0.002
    async with on_stage(topology, open_broker(topology)) as stage:
        names = [f"s{number}" for number in range(CROWD)]
        await stage.start(*names)
        stage.clock.now += HOUR
        while len(timed_out := await stage.timed_out()) < CROWD:
            kills += bool(timed_out)
            # On a busy machine trackers need longer to get anywhere.
            longest *= 1.5 if len(timed_out) == before else 1.0
            before = len(timed_out)
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tracker = Tracker(topology, open_broker(topology), stage.clock)
                    await tasks.start(tracker.run)
                # Anywhere; but when they get somewhere, before they are through.
                with anyio.move_on_after(chance.uniform(0.0, longest)):
                    while len(await stage.timed_out()) == before:
                        await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
        assert timed_out == sorted(names)
        assert kills, "no tracker was killed while it let deadlines pass"
        await stage.look()
        assert await stage.timed_out() == sorted(names)
        assert await stage.armed() == {}


async def test_a_rebuild_beside(open_broker: OpenBroker, namespace: str) -> None:
    """While views are built anew nothing passes; afterwards every deadline is as it was."""
    topology = topology_of(namespace, HOUR)
    async with on_stage(topology, open_broker(topology)) as stage:
        await stage.start("s1")
        assert await stage.pass_time(HOUR) == 1
        await stage.start("s2")
        await stage.tracker.catch_up()
        before = await stage.armed()
        stage.clock.now += HOUR
        for partition in range(topology.partitions):
            projections, keys = stage.broker.projections, topology.keys
            await projections.wipe(partition, [], begin=True)
            await stage.broker.connection.call("HSET", keys.tracker(partition), "wiping", "1")
        assert await stage.armed() == {}
        assert await stage.tracker.expire() == 0
        await stage.new_tracker().rebuild()
        assert await stage.armed() == before

        async def fired() -> bool:
            return bool(await stage.look())

        await until(fired, "the tracker that was overtaken to look again")
        assert await stage.timed_out() == ["s1", "s2"]


async def test_an_overtaken_tracker_lets_nothing_pass(open_broker: OpenBroker, namespace: str) -> None:
    """What another one has projected since, it does not know: it stands by, and looks again."""
    topology = topology_of(namespace, None, PAYMENT)
    async with on_stage(topology, open_broker(topology)) as stage:
        await stage.start()
        await stage.tracker.catch_up()
        await stage.write("money", "Paid")
        await stage.new_tracker().catch_up()
        # As if it had read the deadline before that.
        partition = topology.keys.partition("s1")
        await stage.broker.connection.call("ZADD", topology.keys.deadlines(partition), START, "s1")
        stage.clock.now += DAY
        assert await stage.tracker.expire() == 0
        assert await stage.timed_out() == []
        assert await stage.look() == 0
        assert await stage.armed() == {}


async def test_obstacles_do_not_hold_up_others(open_broker: OpenBroker, namespace: str) -> None:
    """Sagas that cannot be unwound, however many, are passed over, and time out when the way is free."""
    topology = topology_of(namespace, HOUR, partitions=1)
    async with on_stage(topology, open_broker(topology)) as stage:
        stuck = [f"a{number}" for number in range(60)]
        await stage.start(*stuck, "free")
        await stage.tracker.catch_up()
        works = [topology.keys.work(0, saga_id) for saga_id in stuck]
        for work in works:
            await stage.broker.connection.call("SET", work, "in the way")
        stage.clock.now += HOUR
        fired = [await stage.tracker.expire() for _ in range(2)]
        assert sum(fired) == 1
        assert await stage.timed_out() == ["free"]
        await stage.broker.connection.call("DEL", *works)
        stage.clock.now += 1000
        assert await stage.look() == 60
        assert await stage.timed_out() == sorted([*stuck, "free"])


async def test_a_crowd_is_let_pass_in_portions(open_broker: OpenBroker, namespace: str) -> None:
    """One script lets few sagas time out, so that nothing else waits for long."""
    topology = topology_of(namespace, HOUR, partitions=1)
    async with on_stage(topology, open_broker(topology)) as stage:
        await stage.start(*(f"s{number}" for number in range(120)))
        await stage.tracker.catch_up()
        stage.clock.now += HOUR
        assert [await stage.tracker.expire() for _ in range(4)] == [50, 50, 20, 0]


async def test_another_deadline_in_the_file(open_broker: OpenBroker, namespace: str) -> None:
    """A saga that is due by the deadline of an earlier file is judged by the one of today."""
    topology = topology_of(namespace, HOUR)
    async with on_stage(topology, open_broker(topology)) as stage:
        await stage.start()
        await stage.tracker.catch_up()
        order = topology.sagas["order"]
        for whole, armed in ((DAY, {"s1": START + DAY}), (None, {})):
            sagas = {"order": replace(order, deadlines=Deadlines(whole))}
            stage.topology = replace(topology, sagas=sagas)
            stage.tracker = stage.new_tracker()
            await stage.broker.connection.call(
                "ZADD", topology.keys.deadlines(topology.keys.partition("s1")), START + HOUR, "s1"
            )
            assert await stage.pass_time(HOUR) == 0
            assert await stage.armed() == armed


async def test_a_record_that_has_expired(open_broker: OpenBroker, namespace: str, cast: Cast) -> None:
    """Where a saga that was handled has no record any more, it ended long ago, whatever its facts say."""
    topology = topology_of(namespace, HOUR)
    async with on_stage(topology, open_broker(topology), [cast.payments()]) as stage:
        await stage.start()
        await stage.shows("Paid")
        partition = topology.keys.partition("s1")
        await stage.broker.connection.call(
            "DEL", topology.keys.record(partition, "s1"), topology.keys.work(partition, "s1")
        )
        assert await stage.pass_time(HOUR) == 0
        assert await stage.armed() == {}
        assert await stage.timed_out() == []


async def test_a_key_of_the_trackers_is_in_the_way(open_broker: OpenBroker, namespace: str) -> None:
    """The partition is left alone, and goes on when the key is gone."""
    topology = topology_of(namespace, HOUR, partitions=1)
    async with on_stage(topology, open_broker(topology)) as stage:
        await stage.start()
        await stage.tracker.catch_up()
        await stage.broker.connection.call("DEL", topology.keys.deadlines(0))
        await stage.broker.connection.call("SET", topology.keys.deadlines(0), "in the way")
        stage.clock.now += HOUR
        assert await stage.tracker.expire() == 0
        await stage.broker.connection.call("DEL", topology.keys.deadlines(0))
        await stage.new_tracker().rebuild()
        stage.tracker = stage.new_tracker()
        assert await stage.look() == 1


async def test_by_the_clock_of_the_server(
    server_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A tracker on a machine whose clock is a day ahead lets nothing pass too early, and what is due in time."""
    topology = topology_of(namespace, HOUR)
    rush = replace(topology.sagas["order"], name="rush", starts_with=frozenset({"Reserved"}))
    sagas = {**topology.sagas, "rush": replace(rush, deadlines=Deadlines(200))}
    topology = replace(topology, sagas=sagas)
    async with Broker.open(server_url, topology.keys) as client:
        choreo = Choreography(topology, client)
        await choreo.start(Placed(), saga_id="slow")
        await choreo.start_raw("Reserved", b"{}", saga_id="fast")
        right = time.time
        monkeypatch.setattr(time, "time", lambda: right() + DAY / 1000)
        async with Broker.open(server_url, topology.keys) as broker, anyio.create_task_group() as tasks:
            assert abs(broker.clock() / 1000 - right()) > HOUR / 1000
            await tasks.start(Tracker(topology, broker).run)
            view = await choreo.wait("fast", timeout=20)
            tasks.cancel_scope.cancel()
        assert view.completed is not None
        assert 200 <= view.completed - view.started < HOUR
        assert (await choreo.view("slow")).status is State.RUNNING
        assert await client.sagas.state("slow") is State.RUNNING
