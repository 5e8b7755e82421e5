"""Steps that failed for good and leave their saga to an operator, instead of unwinding it."""

from __future__ import annotations

import pytest
from retry_kit import Declined, Paid, Placed, Refunded, Reserved, Shipped, Stage, quick, until_view

from choreo import Abort, Choreography, Participant
from choreo.errors import ContractError
from choreo.model.facts import Kind
from choreo.model.policy import Policy, Retry
from choreo.wire.streams_yaml import parse
from choreo.wire.topology import Topology

pytestmark = pytest.mark.anyio


def parking(error: Exception, undone: list[Paid | None]) -> Participant:
    payments = Participant("payments")

    @payments.on(Placed, retry=quick(2), on_failure="park")
    async def charge(placed: Placed) -> Paid | Declined:
        raise error

    @charge.undo
    async def refund(placed: Placed, paid: Paid | None) -> None:
        undone.append(paid)

    return payments


async def parked(choreo: Choreography) -> None:
    await choreo.start(Placed(), saga_id="s1")
    await until_view(choreo, "s1", lambda view: view.parked == ["payments/charge"], "a parked step")


async def test_the_saga_waits(stage: Stage) -> None:
    """When the attempts are used up there is a dead letter; the saga goes on running, and says why it stands."""
    async with stage.playing(parking(OSError("no line"), [])) as choreo:
        await parked(choreo)
        view, trace = await choreo.view("s1"), await choreo.trace("s1")
    assert (view.status, view.dead_letters, view.retries) == ("running", 1, 1)
    assert view.last_error is not None
    assert (view.last_error.message, view.last_error.step) == ("OSError: no line", "payments/charge")
    assert "Traceback" in view.last_error.traceback
    assert trace.events[0].reactions[0].outcome is Kind.PARKED
    assert [(each.what, each.handler) for each in trace.awaits] == [("operator", "payments/charge")]
    assert [letter["reason"] for letter in await stage.letters()] == ["step-failed"]
    assert await stage.pending() == []
    assert await stage.due() == []


async def test_an_operator_compensates_it(stage: Stage) -> None:
    """The step may have taken effect: it is undone, without a result."""
    undone: list[Paid | None] = []
    async with stage.playing(parking(OSError("no line"), undone)) as choreo:
        await parked(choreo)
        await choreo.compensate("s1")
        view = await choreo.wait("s1", timeout=20)
    assert (view.status, undone) == ("compensated", [None])
    assert view.parked == []


async def test_other_branches_go_on(stage: Stage) -> None:
    """A parked step holds up what follows from it, and nothing else."""
    stock = Participant("stock")

    @stock.on(Placed)
    async def reserve(placed: Placed) -> Reserved:
        return Reserved()

    @stock.on(Reserved)
    async def ship(reserved: Reserved) -> Shipped:
        return Shipped()

    async with stage.playing(parking(OSError("no line"), []), stock) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        view = await choreo.wait("s1", timeout=20)
        view = await until_view(choreo, "s1", lambda each: each.dead_letters == 1, "the dead letter")
    assert view.status == "completed"


async def test_a_business_failure_unwinds_it_nevertheless(stage: Stage) -> None:
    """``Abort`` is an answer and not a failure: nobody has to look."""
    async with stage.playing(parking(Abort("declined"), [])) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        assert (await choreo.wait("s1", timeout=20)).status == "compensated"
    assert await stage.letters() == []


async def test_delivered_again(stage: Stage) -> None:
    """A group that is set back does not run a parked step again."""
    async with stage.playing(parking(OSError("no line"), [])) as choreo:
        await parked(choreo)
        await stage.call("XGROUP", "SETID", stage.topology.keys.stream(0, "orders"), "payments", "0")
        await choreo.start(Placed(2), saga_id="s2")
        await until_view(choreo, "s2", lambda view: bool(view.parked), "the next one to be parked")
        assert (await choreo.view("s1")).retries == 1
    assert len(await stage.letters()) == 2


async def test_the_default_of_the_choreography(stage: Stage) -> None:
    """``defaults`` of streams.yaml hold for steps that do not say otherwise."""
    payments = Participant("payments")

    @payments.on(Placed)
    async def charge(placed: Placed) -> Paid:
        raise OSError("no line")

    stage.topology.__dict__["defaults"] = Policy(Retry(attempts=1), on_failure="park")
    async with stage.playing(payments) as choreo:
        await parked(choreo)


async def test_an_abort_after_an_attempt_that_failed(stage: Stage) -> None:
    """Nobody knows what the first attempt did, so it is undone although the second one aborted."""
    payments, undone, attempts = Participant("payments"), [], []

    @payments.on(Placed, retry=quick(2))
    async def charge(placed: Placed) -> Paid:
        attempts.append(1)
        raise OSError("cut off") if len(attempts) == 1 else Abort("declined")

    @charge.undo
    async def refund(placed: Placed, paid: Paid | None) -> Refunded:
        undone.append(paid)
        return Refunded()

    async with stage.playing(payments) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        view = await choreo.wait("s1", timeout=20)
    assert (view.status, undone) == ("compensated", [None])
    assert view.reason == "payments/charge: declined"


def test_yaml_may_say_so() -> None:
    """``defaults: {on_failure: park}``; anything else is refused with what is allowed."""
    text = "namespace: shop\nstreams: {orders: {events: [Placed]}}\ndefaults: {on_failure: park}\n"
    topology: Topology = parse(text)
    assert topology.defaults.on_failure == "park"
    with pytest.raises(Exception, match="`on_failure` must be `abort` or `park`"):
        parse(text.replace("park", "ignore"))


def test_a_decorator_refuses_other_words() -> None:
    """With the place where it stands."""
    with pytest.raises(ContractError, match=r"test_parked_sagas.py:\d+: on_failure is 'wait'; it must be 'abort' or 'park'"):
        Participant("payments").on(Placed, on_failure="wait")  # type: ignore[arg-type]
