"""A deadline passes: what happens to the saga, by whatever it was held up."""

from __future__ import annotations

import anyio
import pytest
from deadline_kit import (
    DAY,
    HOUR,
    MINUTE,
    PAYMENT,
    START,
    Cast,
    OpenBroker,
    on_stage,
    topology_of,
    types,
    until,
)

from choreo import Retry
from choreo.model.deadlines import Expectation
from choreo.model.saga import State
from choreo.runtime.worker import Worker, WorkerOptions

pytestmark = pytest.mark.anyio


async def test_a_saga_that_ends_in_time(open_broker: OpenBroker, namespace: str, cast: Cast) -> None:
    """Its deadline shows in the view while it runs, and is forgotten when it has ended."""
    topology = topology_of(namespace, HOUR)
    async with on_stage(topology, open_broker(topology)) as stage:
        await stage.start()
        assert (await stage.view()).deadline == START + HOUR
        assert await stage.armed() == {"s1": START + HOUR}
        await stage.add(cast.payments(), cast.stock(), cast.shipping())
        await stage.reaches(State.COMPLETED)
        assert (await stage.view()).deadline is None
        assert await stage.armed() == {}
        assert await stage.pass_time(DAY) == 0
        assert await stage.timed_out() == []


async def test_a_saga_that_does_not(open_broker: OpenBroker, namespace: str, cast: Cast) -> None:
    """When its time is over, what was done is undone; the view says which deadline passed, and when."""
    topology = topology_of(namespace, HOUR)
    async with on_stage(topology, open_broker(topology), [cast.payments()]) as stage:
        await stage.start()
        await stage.shows("Paid")
        assert await stage.pass_time(HOUR - 1) == 0
        assert await stage.pass_time(1) == 1
        await stage.reaches(State.COMPENSATED)
        view = await stage.view()
        assert view.reason == "deadline passed at 2027-01-15T09:00:00.000Z"
        assert (view.status, view.deadline, view.undone) == (State.COMPENSATED, None, {"payments/charge": 1})
        assert cast.diary == ["charge", "refund"]
        assert await stage.armed() == {}


async def test_what_participants_are_told(open_broker: OpenBroker, namespace: str, cast: Cast) -> None:
    """They may react to SagaTimedOut while the saga unwinds, and emit events about it."""
    topology = topology_of(namespace, HOUR, PAYMENT)
    async with on_stage(topology, open_broker(topology), [cast.stock(), cast.support()]) as stage:
        await stage.start()
        await stage.shows("Reserved")
        assert await stage.pass_time(MINUTE) == 1
        await stage.reaches(State.COMPENSATED)
        await stage.shows("Apologised")
        (told,) = cast.told
        assert (told.saga_type, told.deadline, told.due) == (
            "order", "Paid, Declined after Placed", START + MINUTE,
        )  # fmt: skip
        view = await stage.view()
        assert view.reason == "no Paid, Declined after Placed by 2027-01-15T08:01:00.000Z"
        assert types(await stage.published()) == ["Apologised", "Placed", "Reserved", "SagaTimedOut"]
        (fact,) = [each for each in await stage.published() if each["type"] == "SagaTimedOut"]
        assert (fact["source"], fact["phase"], fact["state"]) == ("choreo", "back", "compensating")
        trace = await stage.choreo.trace("s1")
        (event,) = [event for event in trace.events if event.type == "SagaTimedOut"]
        assert [reaction.step for reaction in event.reactions] == ["apologise"]
        assert cast.diary == ["reserve", "release"]


async def test_nothing_to_undo(open_broker: OpenBroker, namespace: str) -> None:
    """A saga that nobody has touched is compensated by the deadline itself; its steps run no more."""
    topology = topology_of(namespace, HOUR)
    async with on_stage(topology, open_broker(topology)) as stage:
        await stage.start()
        assert await stage.pass_time(HOUR) == 1
        assert (await stage.view()).status is State.COMPENSATED


async def test_a_saga_begun_by_another_program(open_broker: OpenBroker, namespace: str, cast: Cast) -> None:
    """It has no record before somebody handles it, and times out like any other."""
    topology = topology_of(namespace, HOUR)
    async with on_stage(topology, open_broker(topology)) as stage:
        await stage.write("orders", "Placed", data='{"amount": 3}')
        assert await stage.broker.sagas.state("s1") is None
        assert await stage.pass_time(HOUR) == 1
        assert await stage.broker.sagas.state("s1") is State.COMPENSATED
        await stage.add(cast.payments(), cast.support())
        await stage.shows("Apologised")
        assert cast.diary == []


async def test_what_is_expected_comes_in_time(open_broker: OpenBroker, namespace: str, cast: Cast) -> None:
    """Either of the events disarms the deadline; the next one is that of the whole saga."""
    topology = topology_of(namespace, HOUR, PAYMENT)
    async with on_stage(topology, open_broker(topology), [cast.payments()]) as stage:
        await stage.start()
        await stage.shows("Paid")
        assert (await stage.view()).deadline == START + HOUR
        assert await stage.pass_time(MINUTE) == 0
        assert await stage.pass_time(HOUR) == 1


async def test_an_expectation_begins_with_its_event(
    open_broker: OpenBroker, namespace: str, cast: Cast
) -> None:
    """What is expected after a later event is waited for from then on."""
    topology = topology_of(namespace, None, Expectation("Paid", MINUTE, ("Shipped",)))
    async with on_stage(topology, open_broker(topology)) as stage:
        await stage.start()
        assert await stage.pass_time(DAY) == 0
        await stage.add(cast.payments())
        await stage.shows("Paid")
        assert await stage.pass_time(MINUTE - 1) == 0
        assert (await stage.view()).deadline == START + DAY + MINUTE
        assert await stage.pass_time(1) == 1
        await stage.reaches(State.COMPENSATED)


async def test_a_success_after_the_deadline(open_broker: OpenBroker, namespace: str, cast: Cast) -> None:
    """A step that was under way is undone at once, and what it emitted is withheld."""
    topology = topology_of(namespace, HOUR)
    async with on_stage(topology, open_broker(topology), [cast.payments(slow=True)]) as stage:
        await stage.start()
        await cast.paying.wait()
        assert await stage.pass_time(HOUR) == 1
        await stage.reaches(State.COMPENSATING)
        cast.paid.set()
        await stage.reaches(State.COMPENSATED)
        assert types(await stage.published()) == ["Placed", "SagaTimedOut"]
        assert cast.diary == ["charge", "refund"]
        assert (await stage.view()).undone == {"payments/charge": 1}


async def test_an_attempt_is_parked(open_broker: OpenBroker, namespace: str, cast: Cast) -> None:
    """A step that waits for its next attempt does not run again: it may have taken effect, and is undone now."""
    topology = topology_of(namespace, HOUR)
    patient = Retry(attempts=9, first=DAY / 1000, limit=DAY / 1000, jitter=0)
    async with on_stage(topology, open_broker(topology), [cast.payments(patient, fails=True)]) as stage:
        await stage.start()

        async def parked() -> bool:
            return (await stage.view()).retries == 1

        await until(parked, "an attempt to be parked")
        assert await stage.pass_time(HOUR) == 1
        await stage.reaches(State.COMPENSATED)
        assert cast.diary == ["charge", "refund perhaps"]


async def test_a_join_is_half_filled(open_broker: OpenBroker, namespace: str, cast: Cast) -> None:
    """A join that waits with one of its events is dropped; the other one, coming late, does not set it off."""
    topology = topology_of(namespace, HOUR)
    async with on_stage(topology, open_broker(topology), [cast.stock(), cast.shipping()]) as stage:
        await stage.start()

        async def waiting() -> bool:
            await stage.tracker.catch_up()
            return any(each.what == "join" for each in (await stage.choreo.trace("s1")).awaits)

        await until(waiting, "the join to wait")
        assert await stage.pass_time(HOUR) == 1
        await stage.reaches(State.COMPENSATED)
        await stage.write("money", "Paid")
        work = topology.keys.work(topology.keys.partition("s1"), "s1")

        async def dropped() -> bool:
            trace = await stage.choreo.trace("s1")
            await stage.tracker.catch_up()
            paid = [event for event in trace.events if event.type == "Paid"]
            return bool(paid and paid[0].reactions)

        await until(dropped, "the join to skip what came late")
        assert not await stage.broker.connection.call("EXISTS", work)
        assert "send" not in cast.diary


async def test_the_last_step_wins_or_loses_as_a_whole(
    open_broker: OpenBroker, namespace: str, cast: Cast
) -> None:
    """A saga that has completed cannot time out, even if the tracker has not read that it has."""
    topology = topology_of(namespace, HOUR)
    company = [cast.payments(), cast.stock(), cast.shipping()]
    async with on_stage(topology, open_broker(topology)) as stage:
        await stage.start()
        await stage.tracker.catch_up()
        await stage.add(*company)
        await stage.reaches(State.COMPLETED)
        stage.clock.now += HOUR
        assert await stage.tracker.expire() == 0
        assert await stage.armed() == {}
        assert (await stage.view()).status is State.COMPLETED
        assert await stage.timed_out() == []


async def test_a_step_of_which_nobody_knows(open_broker: OpenBroker, namespace: str, cast: Cast) -> None:
    """Its worker died in the middle: whoever takes it over does not run it, and undoes what it may have done."""
    topology = topology_of(namespace, HOUR)
    async with on_stage(topology, open_broker(topology)) as stage:
        async with anyio.create_task_group() as dying:
            options = WorkerOptions(lease=0.2)
            payments = cast.payments(slow=True)
            worker = Worker(payments, topology, stage.broker, options=options, clock=stage.clock)
            await dying.start(worker.run)
            await stage.start()
            await cast.paying.wait()
            dying.cancel_scope.cancel()
        assert await stage.pass_time(HOUR) == 1
        assert await stage.broker.sagas.state("s1") is State.COMPENSATING
        async with anyio.create_task_group() as living:
            worker = Worker(payments, topology, stage.broker, options=options, clock=stage.clock)
            await living.start(worker.run)
            await stage.reaches(State.COMPENSATED)
            living.cancel_scope.cancel()
        assert cast.diary == ["charge", "refund perhaps"]


async def test_a_saga_that_waits_for_an_operator(
    open_broker: OpenBroker, namespace: str, cast: Cast
) -> None:
    """A deadline does not wait for operators: what was left to them is undone, for it may have taken effect."""
    topology = topology_of(namespace, HOUR)
    async with on_stage(topology, open_broker(topology), [cast.payments(fails=True, park=True)]) as stage:
        await stage.start()

        async def parked() -> bool:
            return (await stage.view()).parked == ["payments/charge"]

        await until(parked, "the step to be left to an operator")
        assert (await stage.view()).deadline == START + HOUR
        assert await stage.pass_time(HOUR) == 1
        await stage.reaches(State.COMPENSATED)
        assert cast.diary == ["charge", "refund perhaps"]
