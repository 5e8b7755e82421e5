"""The graph that follows from who hears and who emits what."""

from __future__ import annotations

import pytest

import choreo
from choreo import Abort, Context, Event, Participant
from choreo.model.flow import Flow, Plan, SagaPlan, derive


class Placed(Event):
    pass


class Paid(Event):
    pass


class Declined(Event):
    pass


class Refunded(Event):
    pass


class Reserved(Event):
    pass


class Shipped(Event):
    pass


class Noted(Event):
    pass


ORDER = SagaPlan(
    name="order",
    starts_with=frozenset({"Placed"}),
    completes_with=frozenset({"Shipped"}),
    aborts_with=frozenset({"Declined"}),
    where="streams.yaml:9",
)


@pytest.fixture
def shop() -> Flow:
    """Payment and stock side by side, shipping waits for both, an audit of what was refunded."""
    payments, stock = Participant("payments"), Participant("stock")
    shipping, audit = Participant("shipping"), Participant("audit")

    @payments.on(Placed)
    def charge(event: Placed) -> Paid | Declined:
        raise Abort("no")

    @charge.undo
    def refund(event: Placed, paid: Paid | None) -> Refunded | None:
        raise NotImplementedError

    @stock.on(Placed)
    def reserve(event: Placed) -> list[Reserved]:
        raise NotImplementedError

    @shipping.on_all(Paid, Reserved)
    def ship(paid: Paid, reserved: Reserved) -> Shipped:
        raise NotImplementedError

    @audit.on(Refunded, Declined)
    def note(event: Refunded | Declined) -> Noted | None:
        raise NotImplementedError

    return derive([payments, stock, shipping, audit], Plan(sagas=(ORDER,)))


def names(flow: Flow, events: frozenset[str]) -> set[str]:
    """The labels of the steps that run forward in the flow's saga, with these events as starts."""
    saga = SagaPlan("x", events, frozenset(), "")
    return {step.label for step in flow.forward(saga).steps}


def test_a_step_is_a_node_with_what_it_hears_and_emits(shop: Flow) -> None:
    """A node says what the step's decorator and signature say."""
    charge = shop.steps[0]
    assert (charge.participant, charge.name, charge.label) == ("payments", "charge", "payments/charge")
    assert charge.hears == ("Placed",)
    assert charge.emits == ("Declined", "Paid")
    assert charge.where.startswith(__file__ + ":")
    assert not charge.joins


def test_an_undo_hangs_on_its_step(shop: Flow) -> None:
    """The undo's node says what it undoes and what it emits."""
    undo = shop.steps[0].undo
    assert undo is not None
    assert (undo.name, undo.emits, undo.covers) == ("refund", ("Refunded",), ("Paid",))
    assert undo.where.startswith(__file__ + ":")
    assert undo.where != shop.steps[0].where
    assert shop.steps[1].undo is None


def test_a_join_hears_all_of_its_events(shop: Flow) -> None:
    """`on_all` is kept apart from `on`: it is set off by the last of its events."""
    ship = shop.steps[2]
    assert ship.joins
    assert not ship.hears_enough({"Paid"})
    assert ship.hears_enough({"Paid", "Reserved"})
    assert ship.hears_enough({"Paid"}, already={"Reserved"})
    assert not ship.hears_enough(set(), already={"Paid", "Reserved"})
    assert shop.steps[3].hears_enough({"Declined"})


def test_whether_alternatives_exclude_one_another(shop: Flow) -> None:
    """One of a union, several of a list, or any number by `ctx.emit`."""
    assert [step.emits_one for step in shop.steps] == [True, False, True, True]
    assert [step.may_emit_nothing for step in shop.steps] == [False, True, False, True]
    more = Participant("more")

    @more.on(Placed)
    def emits(event: Placed, ctx: Context) -> Paid | Declined:
        ctx.emit(Paid())
        return Declined()

    assert not derive([more], Plan()).steps[0].emits_one


def test_a_step_whose_code_names_abort_may_raise_it(shop: Flow) -> None:
    """Also in a function within the handler, or as an attribute of the package."""
    assert [step.raises_abort for step in shop.steps] == [True, False, False, False]
    other = Participant("other")

    @other.on(Placed)
    def outer(event: Placed) -> None:
        def inner() -> None:
            raise Abort

        inner()

    @other.on(Paid)
    def qualified(event: Paid) -> None:
        raise choreo.Abort

    assert all(step.raises_abort for step in derive([other], Plan()).steps)


def test_every_event_knows_who_hears_and_who_emits_it(shop: Flow) -> None:
    """Emission by a step and by an undo are told apart."""
    assert set(shop.events) == {"Placed", "Paid", "Declined", "Refunded", "Reserved", "Shipped", "Noted"}
    assert [step.label for step in shop.hearers["Placed"]] == ["payments/charge", "stock/reserve"]
    assert [step.label for step in shop.emitters["Paid"]] == ["payments/charge"]
    assert [step.label for step in shop.undoers["Refunded"]] == ["payments/charge"]
    assert shop.emitters["Refunded"] == ()
    assert shop.hearers["Shipped"] == ()


def test_the_way_forward_stops_at_an_abort(shop: Flow) -> None:
    """Who hears an abort's event does not go forward, though the event is emitted."""
    found = shop.forward(ORDER)
    assert found.events == {"Placed", "Paid", "Declined", "Reserved", "Shipped"}
    assert {step.label for step in found.steps} == {"payments/charge", "stock/reserve", "shipping/ship"}


def test_the_way_back_begins_with_aborts_and_undos(shop: Flow) -> None:
    """What follows from an abort's event and from what undos emit."""
    found = shop.back(ORDER)
    assert found.events == {"Declined", "Refunded", "Noted"}
    assert {step.label for step in found.steps} == {"audit/note"}


def test_a_join_needs_every_input(shop: Flow) -> None:
    """From one input alone nothing follows."""
    assert names(shop, frozenset({"Paid"})) == set()
    assert names(shop, frozenset({"Paid", "Reserved"})) == {"shipping/ship"}


def test_every_class_of_an_event_type_is_known_once(shop: Flow) -> None:
    """Participants that share a class share one use."""
    assert [use.participant for use in shop.uses["Placed"]] == ["payments"]
    assert shop.uses["Placed"][0].event is Placed


def test_the_graph_of_nothing() -> None:
    """No participants and no plan make an empty graph."""
    flow = derive([], Plan())
    assert (flow.steps, flow.events) == ((), ())
