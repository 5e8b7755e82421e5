"""A failed attempt is acknowledged and parked in one commit."""

from __future__ import annotations

from contextlib import suppress

import msgspec
import pytest
from retry_kit import NOW, until
from retry_seat import Seat

from choreo.broker.answers import Verdict
from choreo.errors import BrokerUnavailable
from choreo.wire.inbox import Parked

pytestmark = pytest.mark.anyio


async def test_acknowledged_parked_and_told_at_once(seat: Seat) -> None:
    """After the commit nothing is pending, the timer is there with the event, and the journal tells."""
    await seat.park(due=NOW + 700)
    stage = seat.stage
    assert await stage.pending() == []
    assert await stage.due() == [NOW + 700]
    (fact,) = await stage.journal()
    assert fact["kind"] == "retrying"
    assert (fact["attempt"], fact["due"], fact["note"]) == ("1", str(NOW + 700), "OSError: no line")
    assert (fact["participant"], fact["step"], fact["cause"]) == ("payments", "charge", "e1")
    assert await stage.letters() == []
    assert await stage.broker.sagas.state("s1") == "running"


async def test_what_was_parked_comes_back_when_it_is_due(seat: Seat) -> None:
    """The inbox delivers the same event as the next attempt, once; then nothing is parked any more."""
    first = await seat.park()
    assert await seat.stage.move_due(NOW + 1000) == (1, None)
    second = await seat.take()
    assert second.fields is not None
    assert seat.head(second).event == seat.head(first).event == "e1"
    assert await seat.stage.due() == []
    assert await seat.stage.call("EXISTS", seat.stage.topology.keys.parked(0)) == 0
    assert await seat.verdict(seat.begin(second)) is Verdict.RUN
    assert await seat.verdict(seat.done(second)) is Verdict.COMMITTED
    assert len(await seat.stage.emitted("Paid")) == 1


async def test_sent_twice_it_is_parked_once(seat: Seat) -> None:
    """A commit whose reply was lost is sent again with its token: nothing changes, and it was committed."""
    await seat.publish()
    delivery = await seat.take()
    retry = seat.retry(delivery)
    assert await seat.verdict(retry) is Verdict.COMMITTED
    before = await seat.stage.dump()
    assert await seat.verdict(retry) is Verdict.COMMITTED
    assert await seat.stage.dump() == before


@pytest.mark.parametrize("then", ["moved", "running", "done", "parked again"])
async def test_sent_again_later_it_does_no_harm(seat: Seat, then: str) -> None:
    """Whatever has become of the next attempt meanwhile, the late repetition changes nothing."""
    await seat.publish()
    delivery = await seat.take()
    retry = seat.retry(delivery)
    await seat.verdict(retry)
    await seat.stage.move_due(NOW + 1000)
    if then != "moved":
        second = await seat.take()
        await seat.verdict(seat.begin(second))
        if then == "done":
            await seat.verdict(seat.done(second))
        if then == "parked again":
            await seat.verdict(seat.retry(second, due=NOW + 9000))
    before = await seat.stage.dump()
    await seat.verdict(retry)
    assert await seat.stage.dump() == before


@pytest.mark.parametrize("obstacle", ["timers", "parked", "journal"])
async def test_an_obstacle_blocks_the_whole_commit(seat: Seat, obstacle: str) -> None:
    """A key of the wrong type is named, and nothing is changed; when it is gone, the commit goes through."""
    await seat.publish()
    delivery = await seat.take()
    await seat.verdict(seat.begin(delivery))
    key = getattr(seat.stage.topology.keys, obstacle)(0)
    await seat.stage.call("SET", key, "in the way")
    before = await seat.stage.dump()
    (answer,) = await seat.decide(seat.retry(delivery))
    assert answer.verdict is Verdict.BLOCKED
    assert answer.rest == (key.encode(),)
    assert await seat.stage.dump() == before
    await seat.stage.call("DEL", key)
    assert await seat.verdict(seat.retry(delivery)) is Verdict.COMMITTED
    assert await seat.stage.due() == [NOW + 1000]


async def test_a_zombies_retry_is_stale(seat: Seat) -> None:
    """Another worker took the delivery over: the old one cannot park it, and the new one can."""
    await seat.publish()
    delivery = await seat.take()
    heir = await Seat.at(seat.stage, "two")
    inherited = await heir.claim(delivery)
    before = await seat.stage.dump()
    assert await seat.verdict(seat.retry(delivery)) is Verdict.STALE
    assert await seat.stage.dump() == before
    assert await heir.verdict(heir.retry(inherited)) is Verdict.COMMITTED
    before = await seat.stage.dump()
    assert await seat.verdict(seat.retry(delivery)) is not Verdict.COMMITTED
    assert await seat.stage.dump() == before


async def test_a_retry_by_an_earlier_life_of_the_same_consumer_is_stale(seat: Seat) -> None:
    """A worker that claimed its own delivery again must not park it by what it began before."""
    await seat.publish()
    delivery = await seat.take()
    again = await seat.claim(delivery)
    assert await seat.verdict(seat.retry(delivery)) is Verdict.STALE
    assert await seat.verdict(seat.retry(again)) is Verdict.COMMITTED


async def test_a_retry_after_the_step_was_done_is_a_duplicate(seat: Seat) -> None:
    """What has taken effect is not tried again."""
    await seat.publish()
    delivery = await seat.take()
    await seat.verdict(seat.begin(delivery))
    await seat.verdict(seat.done(delivery))
    before = await seat.stage.dump()
    assert await seat.verdict(seat.retry(delivery)) is Verdict.DUPLICATE
    assert await seat.stage.dump() == before


async def test_retries_of_sagas_with_equal_event_ids_do_not_meet(seat: Seat) -> None:
    """An event id is unique within its saga only: each saga has a timer, and gets its own event back."""
    await seat.park("s1", "1")
    await seat.park("s2", "1", due=NOW + 2000)
    assert await seat.stage.due() == [NOW + 1000, NOW + 2000]
    moved, _ = await seat.stage.move_due(NOW + 5000)
    assert moved == 2
    assert sorted(seat.head(each).saga_id for each in await seat.read()) == ["s1", "s2"]


async def test_a_step_and_its_undo_are_parked_apart(seat: Seat) -> None:
    """Retries of a step and of its undo for the same event are two timers and two facts of the journal."""
    await seat.park()
    await seat.stage.move_due(NOW + 1000)
    second = await seat.take()
    await seat.verdict(seat.begin(second))
    await seat.verdict(seat.dead(second))
    request = await seat.take()
    assert await seat.verdict(seat.begin_undo(request)) is Verdict.RUN
    assert await seat.verdict(seat.retry_undo(request, due=NOW + 3000)) is Verdict.COMMITTED
    assert await seat.stage.pending() == []
    assert await seat.stage.due() == [NOW + 3000]
    facts = await seat.stage.journal("retrying")
    assert [fact.get("undo", "") for fact in facts] == ["", "refund"]
    assert len({fact["id"] for fact in facts}) == 2


async def test_an_undos_retry_sent_twice_is_parked_once(seat: Seat) -> None:
    """As for steps."""
    await seat.publish()
    delivery = await seat.take()
    await seat.decide(seat.begin(delivery), seat.dead(delivery))
    request = await seat.take()
    retry = seat.retry_undo(request)
    assert await seat.verdict(retry) is Verdict.COMMITTED
    before = await seat.stage.dump()
    assert await seat.verdict(retry) is Verdict.COMMITTED
    assert await seat.stage.dump() == before


async def test_a_zombies_retry_of_an_undo_is_stale(seat: Seat) -> None:
    """As for steps."""
    await seat.publish()
    delivery = await seat.take()
    await seat.decide(seat.begin(delivery), seat.dead(delivery))
    request = await seat.take()
    heir = await Seat.at(seat.stage, "two")
    await heir.claim(request)
    before = await seat.stage.dump()
    assert await seat.verdict(seat.retry_undo(request)) is Verdict.STALE
    assert await seat.stage.dump() == before


async def test_a_full_server_changes_nothing(real_seat: Seat) -> None:
    """Out of memory, the commit is refused whole; with memory again, it goes through."""
    await real_seat.publish()
    delivery = await real_seat.take()
    await real_seat.verdict(real_seat.begin(delivery))
    before = await real_seat.stage.dump()
    await real_seat.stage.call("CONFIG", "SET", "maxmemory", "1")
    try:
        with pytest.raises(BrokerUnavailable):
            await real_seat.verdict(real_seat.retry(delivery))
        assert await real_seat.stage.dump() == before
    finally:
        await real_seat.stage.call("CONFIG", "SET", "maxmemory", "0")
    assert await real_seat.verdict(real_seat.retry(delivery)) is Verdict.COMMITTED


async def test_a_full_server_moves_no_timer(real_seat: Seat) -> None:
    """Out of memory, a due timer stays parked; with memory again, it is moved."""
    stage = real_seat.stage
    await real_seat.park()
    before = await stage.dump()
    await stage.call("CONFIG", "SET", "maxmemory", "1")
    try:
        with pytest.raises(BrokerUnavailable, match="OOM"):
            await stage.move_due(NOW + 1000)
        assert await stage.dump() == before
    finally:
        await stage.call("CONFIG", "SET", "maxmemory", "0")

    async def moved() -> bool:
        with suppress(BrokerUnavailable):
            return (await stage.move_due(NOW + 1000))[0] == 1
        return False

    await until(moved, "the timer to be moved")


def test_what_is_parked_survives_its_packing() -> None:
    """Attempt, undo and event come back as they were."""
    parked = Parked(3, undo="payments/charge:e1", event=b"\x00\xff")
    assert msgspec.msgpack.decode(parked.pack(), type=Parked) == parked
