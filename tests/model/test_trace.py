"""The trace: the causal tree of one saga, made from its facts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from stories import Story, stories

from choreo.model.facts import Fact, Kind, add, in_order, project
from choreo.model.saga import State
from choreo.model.trace import EventNode, Reaction, Trace, build_trace
from choreo.model.waits import Awaited, Listeners

LISTENERS: Listeners = {
    "Placed": [("inventory", "reserve"), ("payments", "charge")],
    "Paid": [("shipping", "send")],
    "Reserved": [("shipping", "send")],
    "Shipped": [("orders", "mark")],
    "Declined": [("orders", "mark")],
}


def trace_of(facts: Sequence[Fact], listeners: Listeners = LISTENERS) -> Trace:
    timeline: dict[str, Fact] = {}
    for fact in facts:
        add(timeline, fact)
    return build_trace(project("saga-1", timeline), in_order(timeline), listeners)


def events_of(trace: Trace) -> Iterator[EventNode]:
    """Every event of the tree, wherever it hangs."""
    open_nodes = list(trace.events)
    while open_nodes:
        node = open_nodes.pop()
        yield node
        for reaction in _reactions(node.reactions):
            open_nodes.extend(reaction.emitted)


def _reactions(reactions: Sequence[Reaction]) -> Iterator[Reaction]:
    for reaction in reactions:
        yield reaction
        yield from _reactions(reaction.undone_by)


def draw(trace: Trace) -> list[str]:
    """A tree as indented lines: events as their type, reactions as handler and outcome."""
    lines: list[str] = []

    def event(node: EventNode, depth: int) -> None:
        lines.append("  " * depth + node.type)
        for each in node.reactions:
            reaction(each, depth + 1)

    def reaction(each: Reaction, depth: int) -> None:
        name = f"{each.step}/{each.undo} #{each.order}" if each.undo else each.step
        lines.append(
            "  " * depth + f"{each.participant}/{name} {each.outcome}" + (f": {each.note}" * bool(each.note))
        )
        for node in each.emitted:
            event(node, depth + 1)
        for undo in each.undone_by:
            reaction(undo, depth + 1)

    for root in trace.events:
        event(root, 0)
    return lines


# -- the tree ----------------------------------------------------------------------------------------


def test_a_chain_hangs_below_its_start() -> None:
    """Each event hangs below the step that emitted it, with the times that it waited and took."""
    story = Story()
    placed = story.begin()
    story.wait(20)
    (paid,) = story.step(placed, "payments/charge", ["Paid"], worked=30)
    story.wait(5)
    (shipped,) = story.step(paid, "shipping/send", ["Shipped"], worked=7, ends=State.COMPLETED)
    story.step(shipped, "orders/mark")
    trace = trace_of(story.facts)
    assert draw(trace) == [
        "Placed",
        "  payments/charge event",
        "    Paid",
        "      shipping/send event",
        "        Shipped",
        "          orders/mark done",
    ]
    charge = trace.events[0].reactions[0]
    assert (charge.waited_ms, charge.worked_ms) == (20, 30)
    assert charge.emitted[0].at_ms == 50
    send = charge.emitted[0].reactions[0]
    assert (send.waited_ms, send.worked_ms) == (5, 7)
    assert send.emitted[0].state == State.COMPLETED
    assert trace.awaits == []


def test_branches_and_several_events_of_one_step_stand_side_by_side() -> None:
    """An event shows everyone who reacted to it, and a step everything that it emitted."""
    story = Story()
    placed = story.begin()
    story.wait(1)
    story.step(placed, "payments/charge", ["Paid", "Noted"])
    story.wait(1)
    story.step(placed, "inventory/reserve", ["Reserved"])
    assert draw(trace_of(story.facts)) == [
        "Placed",
        "  payments/charge event",
        "    Paid",
        "    Noted",
        "  inventory/reserve event",
        "    Reserved",
    ]


def test_a_join_shows_what_it_waits_for() -> None:
    """A join that lacks an event says so where it waits, and in what the saga awaits."""
    story = Story()
    placed = story.begin()
    (paid,) = story.step(placed, "payments/charge", ["Paid"])
    story.wait(3)
    waiting = story.keep_for_join(paid, "shipping/send", "Reserved")
    trace = trace_of(story.facts)
    assert draw(trace)[-1] == "      shipping/send waiting: Reserved"
    assert Awaited("join", "Reserved", "shipping/send", waiting.time) in trace.awaits
    assert Awaited("step", "Placed", "inventory/reserve", placed.time, event=placed.id) in trace.awaits
    assert len(trace.awaits) == 2


def test_a_join_that_fired_waits_no_more() -> None:
    """Once the last event has come, the join hangs below that event and nothing is awaited."""
    story = Story()
    placed = story.begin()
    (paid,) = story.step(placed, "payments/charge", ["Paid"])
    (reserved,) = story.step(placed, "inventory/reserve", ["Reserved"])
    story.keep_for_join(paid, "shipping/send", "Reserved")
    story.wait(1)
    story.step(reserved, "shipping/send", ["Parcel"])
    trace = trace_of(story.facts, {**LISTENERS, "Parcel": [("orders", "mark")]})
    assert "      shipping/send event" in draw(trace)
    assert [each.what for each in trace.awaits] == ["step"]
    assert trace.awaits[0].handler == "orders/mark"


def test_the_way_back_shows_its_order() -> None:
    """Undos hang below the step that they undo and are numbered in the order in which they ran."""
    story = Story()
    placed = story.begin()
    story.wait(1)
    (paid,) = story.step(placed, "payments/charge", ["Paid"], undoable=True)
    story.wait(1)
    (reserved,) = story.step(paid, "inventory/reserve", ["Reserved"], undoable=True)
    story.wait(1)
    story.abort(reserved, "shipping/send", "no courier")
    story.wait(1)
    story.undo(f"inventory/reserve:{paid.id}", "release", ["Released"], worked=2)
    story.wait(4)
    story.undo(f"payments/charge:{placed.id}", "refund", ["Refunded"], worked=3)
    trace = trace_of(story.facts)
    assert draw(trace) == [
        "Placed",
        "  payments/charge event",
        "    Paid",
        "      inventory/reserve event",
        "        Reserved",
        "          shipping/send aborted: no courier",
        "        inventory/reserve/release #1 undone",
        "          Released",
        "    payments/charge/refund #2 undone",
        "      Refunded",
    ]
    charge = trace.events[0].reactions[0]
    refund = charge.undone_by[0]
    assert (refund.waited_ms, refund.worked_ms) == (4, 3), "since it was asked for, not since the event"
    assert refund.emitted[0].back


def test_failed_attempts_stand_with_their_step() -> None:
    """Attempts that another one followed are listed with error and due time; the last is the outcome."""
    story = Story()
    placed = story.begin()
    story.wait(10)
    story.retry(placed, "payments/charge", 1, "bank busy")
    story.wait(200)
    story.retry(placed, "payments/charge", 2, "bank closed")
    story.wait(200)
    story.step(placed, "payments/charge", ["Paid"], worked=5)
    trace = trace_of(story.facts)
    assert draw(trace) == ["Placed", "  payments/charge event", "    Paid"]
    charge = trace.events[0].reactions[0]
    assert [(each.number, each.note, each.due - each.ended) for each in charge.failed] == [
        (1, "bank busy", 200), (2, "bank closed", 200),
    ]  # fmt: skip
    assert charge.worked_ms == 5, "of the last attempt"
    assert trace.saga.retries == 2


def test_a_step_between_attempts_is_awaited() -> None:
    """A saga whose step waits for its next attempt says that it waits for that."""
    story = Story()
    placed = story.begin()
    story.retry(placed, "payments/charge", 1, "bank busy")
    trace = trace_of(story.facts, {"Placed": [("payments", "charge")]})
    assert draw(trace) == ["Placed", "  payments/charge retrying"]
    assert [(each.what, each.handler) for each in trace.awaits] == [("retry", "payments/charge")]


def test_what_went_wrong_stands_where_it_happened() -> None:
    """Steps that failed, came late or were skipped hang below their event, with error and traceback."""
    story = Story()
    placed = story.begin()
    story.wait(1)
    (paid,) = story.step(placed, "payments/charge", ["Paid"])
    story.wait(1)
    story.fail(paid, "shipping/send", "boom")
    story.wait(1)
    story.step(placed, "inventory/reserve", ["Reserved"], undoable=True)
    story.skip(paid, "orders/mark")
    story.wait(1)
    story.undo(f"inventory/reserve:{placed.id}", "release", fails=True)
    trace = trace_of(story.facts)
    assert draw(trace) == [
        "Placed",
        "  payments/charge event",
        "    Paid",
        "      shipping/send dead: boom",
        "      orders/mark skipped",
        "  inventory/reserve late: Reserved",
        "    inventory/reserve/release #1 stuck: jammed",
    ]
    assert trace.events[0].reactions[0].emitted[0].reactions[0].detail == "Traceback: boom"
    assert trace.saga.status is State.COMPENSATED or trace.saga.status is State.FAILED


def test_incidents_of_the_whole_saga_stand_apart() -> None:
    """An operator's order and a refused entry are no step's: they are listed beside the tree."""
    story = Story()
    story.begin()
    story.wait(9)
    story.order("wrong address", "ann")
    story.wait(1)
    story.refuse("orders:1-1")
    trace = trace_of(story.facts)
    assert [(each.kind, each.at_ms, each.note) for each in trace.incidents] == [
        (Kind.ORDERED, 9, "wrong address"),
        (Kind.REFUSED, 10, "data-not-json: bad"),
    ]
    assert trace.incidents[0].detail == "ann"
    assert trace.incidents[0].state == State.COMPENSATED


# -- what is awaited ---------------------------------------------------------------------------------


def test_a_saga_says_which_steps_it_waits_for() -> None:
    """Whoever listens to an event and has not reacted is awaited, since the event was published."""
    story = Story()
    placed = story.begin()
    assert trace_of(story.facts).awaits == [
        Awaited("step", "Placed", "inventory/reserve", placed.time, event=placed.id),
        Awaited("step", "Placed", "payments/charge", placed.time, event=placed.id),
    ]


def test_an_event_that_nobody_hears_is_awaited() -> None:
    """While a saga runs, an event without listeners is shown: that may be why it does not go on."""
    story = Story()
    placed = story.begin("Mistyped")
    assert trace_of(story.facts).awaits == [Awaited("listener", "Mistyped", since=placed.time)]


def test_an_undo_under_way_is_awaited() -> None:
    """An undo that was asked for and has not run is what a compensating saga waits for."""
    story = Story()
    placed = story.begin()
    story.step(placed, "payments/charge", ["Paid"], undoable=True)
    story.abort(placed, "inventory/reserve")
    awaits = trace_of(story.facts).awaits
    assert awaits == [Awaited("undo", handler="payments/charge", since=story.now, event=placed.id)]


def test_steps_on_the_way_back_are_awaited_while_forward_ones_are_not() -> None:
    """A saga with something to undo waits for that and for reactions to compensating events, not for forward steps."""
    story = Story()
    placed = story.begin()
    story.step(placed, "inventory/reserve", ["Reserved"], undoable=True)
    (declined,) = story.step(placed, "payments/charge", ["Declined"], ends=State.COMPENSATING)
    undo, step = trace_of(story.facts).awaits
    assert (undo.what, undo.handler) == ("undo", "inventory/reserve")
    assert step == Awaited("step", "Declined", "orders/mark", declined.time, event=declined.id)


@given(stories())
def test_an_ended_saga_waits_for_no_forward_step(story: Story) -> None:
    """Once a saga has ended, only reactions to events of the way back may still be due; a failed one also
    waits for an operator."""
    back = {event.type for event in story.events if event.back}
    if story.state.ended:
        for awaited in trace_of(story.facts).awaits:
            if awaited.what == "letter":
                assert story.state is State.FAILED
            else:
                assert awaited.what in ("step", "retry")
                assert awaited.type in back


# -- nothing is lost ---------------------------------------------------------------------------------


@given(stories())
def test_every_event_stands_in_the_tree_once(story: Story) -> None:
    """No event is missing from the tree and none stands in it twice."""
    found = [node.id for node in events_of(trace_of(story.facts))]
    assert sorted(found) == sorted(event.id for event in story.events)


@given(stories())
def test_every_reaction_stands_in_the_tree_once(story: Story) -> None:
    """Each step and undo that handled an event hangs in the tree, with the last word on its outcome."""
    expected = {
        (fact.handler, fact.undo, fact.cause) for fact in story.facts
        if fact.step and fact.kind not in (Kind.ORDERED, Kind.REFUSED)
    }  # fmt: skip
    trace = trace_of(story.facts)
    found = [
        (f"{reaction.participant}/{reaction.step}", reaction.undo)
        for node in events_of(trace)
        for reaction in _reactions(node.reactions)
    ]
    assert sorted(found) == sorted((handler, undo) for handler, undo, _ in expected)


@given(stories(), st.data())
def test_facts_that_have_not_come_yet_cost_no_event(story: Story, data: st.DataObject) -> None:
    """Whatever part of the facts is known: every known event stands in the tree once."""
    known = data.draw(st.lists(st.sampled_from(story.facts), min_size=1, unique_by=lambda fact: fact.id))
    found = [node.id for node in events_of(trace_of(known))]
    assert sorted(found) == sorted(fact.id for fact in known if fact.kind is Kind.EVENT)


def test_an_event_whose_cause_is_unknown_begins_a_tree_of_its_own() -> None:
    """A foreign event, or one whose cause was never seen, stands beside the saga's start."""
    story = Story()
    story.begin()
    orphan = Fact("orphan", Kind.EVENT, story.now + 1, "Paid", "gone", "payments", "charge")
    foreign = Fact("foreign", Kind.EVENT, story.now + 2, "Noted", participant="a script")
    trace = trace_of([*story.facts, orphan, foreign])
    assert [node.type for node in trace.events] == ["Placed", "Paid", "Noted"]
    assert [node.source for node in trace.events] == ["client", "payments/charge", "a script"]


#: What foreign events may claim: id, cause, step and undo.
claims = st.tuples(
    *map(st.sampled_from, ("abcdef", "abcdefx", ("", "s", "t"), ("", "u"))),
)


@given(st.lists(claims, min_size=1, unique_by=lambda row: row[0]))
def test_causes_that_run_in_circles_lose_no_event(rows: list[tuple[str, str, str, str]]) -> None:
    """Hostile events that name themselves or one another as cause all stand in the tree, once each."""
    facts = [
        Fact(name, Kind.EVENT, number, "T", cause, "p", step, undo if step else "")
        for number, (name, cause, step, undo) in enumerate(rows)
    ]
    trace = trace_of(facts)
    msgspec.json.encode(trace)
    assert sorted(node.id for node in events_of(trace)) == sorted(fact.id for fact in facts)


def test_a_long_chain_can_be_written() -> None:
    """A saga of thousands of events in a row has a trace that can be written as JSON and read back."""
    facts = [Fact("e0", Kind.EVENT, 0, "Ticked")]
    for number in range(1, 3_000):
        facts.append(Fact(f"e{number}", Kind.EVENT, number, "Ticked", f"e{number - 1}", "clock", "tick"))
    trace = msgspec.json.decode(msgspec.json.encode(trace_of(facts)), type=Trace)
    assert sorted(node.id for node in events_of(trace)) == sorted(fact.id for fact in facts)


# -- the schema --------------------------------------------------------------------------------------


@given(stories())
def test_a_trace_survives_json(story: Story) -> None:
    """A trace that was written as JSON and read back is equal."""
    trace = trace_of(story.facts)
    assert msgspec.json.decode(msgspec.json.encode(trace), type=Trace) == trace


def test_the_json_of_a_trace_is_stable() -> None:
    """The names in the JSON are an interface for scripts."""
    story = Story(now=1_000)
    placed = story.begin(event_id="e-1")
    story.wait(5)
    story.fail(placed, "payments/charge", "boom", undoable=True)
    story.wait(5)
    story.undo(story.asked[0], "refund", worked=1)
    assert msgspec.json.decode(msgspec.json.encode(trace_of(story.facts, {}))) == {
        "saga": {
            "id": "saga-1", "type": "order", "status": "compensated", "current": "payments/charge",
            "started": 1000, "updated": 1011, "completed": 1011, "events": 1, "dead_letters": 1,
            "open_letters": 1,
            "undone": {"payments/charge": 1}, "reason": "payments/charge: boom",
            "last_error": {
                "step": "payments/charge", "time": 1005, "message": "boom", "traceback": "Traceback: boom",
            },
        },
        "events": [
            {
                "id": "e-1", "type": "Placed", "time": 1000, "at_ms": 0, "source": "client",
                "reactions": [
                    {
                        "participant": "payments", "step": "charge", "outcome": "dead", "began": 1005,
                        "ended": 1005, "waited_ms": 5, "note": "boom", "detail": "Traceback: boom",
                        "undone_by": [
                            {
                                "participant": "payments", "step": "charge", "outcome": "undone",
                                "began": 1010, "ended": 1011, "waited_ms": 5, "worked_ms": 1,
                                "undo": "refund", "order": 1,
                            }
                        ],
                    }
                ],
            }
        ],
    }  # fmt: skip
