"""Facts and views: the view of a saga is a function of the set of its facts, and says what is true of it."""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import pairwise

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from stories import Story, stories

from choreo.model.facts import (
    Fact,
    Kind,
    View,
    add,
    decode_fact,
    decode_view,
    encode_fact,
    encode_view,
    in_order,
    project,
)
from choreo.model.saga import TRANSITIONS, State

ID = "saga-1"


def timeline(facts: Iterable[Fact]) -> dict[str, Fact]:
    """The timeline that comes of facts in this order."""
    found: dict[str, Fact] = {}
    for fact in facts:
        add(found, fact)
    return found


def view_of(facts: Iterable[Fact]) -> View:
    return project(ID, timeline(facts))


# -- a function of the set ---------------------------------------------------------------------------


@given(stories(), st.randoms(use_true_random=False), st.integers(1, 4))
def test_order_and_repetition_do_not_show(story: Story, chance: random.Random, times: int) -> None:
    """Facts that arrive shuffled and several times make the same view, byte for byte."""
    arrived = story.facts * times
    chance.shuffle(arrived)
    assert encode_view(view_of(arrived)) == encode_view(view_of(story.facts))


@given(stories(), st.randoms(use_true_random=False), st.lists(st.integers(0, 40), max_size=5))
def test_splitting_does_not_show(story: Story, chance: random.Random, cuts: list[int]) -> None:
    """Facts that are projected in portions, and are read back packed in between, make the same view."""
    arrived = story.facts + chance.sample(story.facts, len(story.facts) // 2)
    chance.shuffle(arrived)
    edges = [0, *sorted(cut % (len(arrived) + 1) for cut in cuts), len(arrived)]
    known: dict[str, Fact] = {}
    for start, end in pairwise(edges):
        known = timeline(decode_fact(encode_fact(fact)) for fact in known.values())
        for fact in arrived[start:end]:
            add(known, fact)
    assert encode_view(project(ID, known)) == encode_view(view_of(story.facts))


@given(stories(), st.randoms(use_true_random=False))
def test_the_order_of_facts_is_one(story: Story, chance: random.Random) -> None:
    """The canonical order does not depend on the order of arrival."""
    arrived = chance.sample(story.facts, len(story.facts))
    assert in_order(timeline(arrived)) == in_order(story.facts)


namesakes = st.builds(Fact, st.just("same"), st.sampled_from(Kind), st.integers(0, 3), st.sampled_from("AB"))


@given(st.lists(namesakes, min_size=1), st.randoms(use_true_random=False))
def test_different_facts_of_one_id_are_settled_alike(facts: list[Fact], chance: random.Random) -> None:
    """If a producer gave one id to different events, every order of arrival keeps the same one."""
    shuffled = chance.sample(facts, len(facts))
    assert timeline(shuffled) == timeline(facts)


_entries = st.lists(st.sampled_from(["p/s:a", "p/s:b"]), max_size=2).map(tuple)
strangers = st.builds(
    Fact, id=st.sampled_from("abcde"), kind=st.sampled_from([Kind.EVENT, Kind.UNDONE]), time=st.just(0),
    cause=st.sampled_from("abc"), participant=st.just("p"), step=st.just("s"), undo=st.sampled_from(["", "u"]),
    began=st.integers(0, 2), asks=_entries,
)  # fmt: skip


@given(st.lists(strangers, min_size=4, max_size=5, unique_by=lambda fact: fact.id), st.randoms(use_true_random=False))
def test_the_order_does_not_show_in_facts_of_any_make(facts: list[Fact], chance: random.Random) -> None:
    """Any program may write into the streams: two facts of one millisecond may even ask for the same undo."""
    shuffled = chance.sample(facts, len(facts))
    assert encode_view(view_of(shuffled)) == encode_view(view_of(facts))


def test_adding_says_whether_anything_changed() -> None:
    """A fact that is known already changes nothing; a smaller one of the same id takes its place."""
    early, late = Fact("x", Kind.DONE, 1), Fact("x", Kind.DONE, 2)
    known: dict[str, Fact] = {}
    assert add(known, late)
    assert not add(known, late)
    assert add(known, early)
    assert not add(known, late)
    assert known == {"x": early}


@given(stories())
def test_causes_stand_before_effects_at_the_same_time(story: Story) -> None:
    """Where clocks agree, an event stands before what it caused, also within one millisecond."""
    ticking = [msgspec.structs.replace(fact, time=1, began=min(fact.began, 1)) for fact in story.facts]
    order = {fact.id: number for number, fact in enumerate(in_order(ticking))}
    for fact in ticking:
        if fact.cause in order:
            assert order[fact.cause] < order[fact.id], f"{fact} stands before its cause"


# -- what a view says --------------------------------------------------------------------------------


@given(stories())
def test_a_view_agrees_with_what_happened(story: Story) -> None:
    """State, steps done and undone, events, dead letters and undos under way are those of the saga."""
    view = view_of(story.facts)
    assert view.status is story.state
    assert view.type == story.saga_type
    assert view.done == dict(story.done)
    assert view.undone == dict(story.undone)
    assert view.events == len(story.events)
    assert view.dead_letters == story.letters
    assert view.retries == story.retries
    assert view.undoing == sorted(entry.partition(":")[0] for entry in story.asked)


@given(stories())
def test_the_times_of_a_view_span_its_facts(story: Story) -> None:
    """A view spans its facts; it is over once the saga has ended."""
    view = view_of(story.facts)
    assert view.started <= min(fact.time for fact in story.facts)
    assert view.updated == max(fact.time for fact in story.facts)
    assert (view.completed is not None) == story.state.ended
    if view.completed is not None:
        assert view.started <= view.completed <= view.updated


@given(stories())
def test_a_saga_that_unwinds_says_why(story: Story) -> None:
    """Every saga that unwinds or unwound has a reason; one that does not has none."""
    assert bool(view_of(story.facts).reason) == story.unwinds


@given(stories())
def test_a_view_always_says_what_happened_last(story: Story) -> None:
    """`current` names a step or an event, whatever kind of fact came last."""
    assert view_of(story.facts).current


@given(stories())
def test_views_and_facts_survive_their_encoding(story: Story) -> None:
    """What is packed and unpacked is equal, and equal views give equal bytes."""
    view = view_of(story.facts)
    assert decode_view(encode_view(view)) == view
    assert [decode_fact(encode_fact(fact)) for fact in story.facts] == story.facts


def test_an_abort_is_the_reason_and_the_last_error() -> None:
    """The view names the step that aborted and what it said."""
    story = Story()
    placed = story.begin()
    story.abort(placed, "inventory/reserve", "sold out")
    view = view_of(story.facts)
    assert view.status is State.COMPENSATED
    assert view.reason == "inventory/reserve: sold out"
    assert view.last_error is not None
    assert (view.last_error.step, view.last_error.message) == ("inventory/reserve", "sold out")
    assert view.last_error.traceback == ""


def test_a_dead_letter_keeps_its_traceback() -> None:
    """A step that failed for good shows its error with the traceback, and counts as a dead letter."""
    story = Story()
    story.fail(story.begin(), "shipping/send", "boom")
    view = view_of(story.facts)
    assert view.dead_letters == 1
    assert view.last_error is not None
    assert view.last_error.traceback == "Traceback: boom"


def test_an_aborting_event_is_the_reason() -> None:
    """A saga that unwinds because of an event names the event and who emitted it."""
    story = Story()
    placed = story.begin()
    story.step(placed, "payments/charge", ["Declined"], ends=State.COMPENSATING)
    assert view_of(story.facts).reason == "Declined from payments/charge"


def test_an_operator_is_the_reason() -> None:
    """A saga that an operator unwound says why and on whose word."""
    story = Story()
    story.begin()
    story.order("wrong address", "ann")
    view = view_of(story.facts)
    assert view.reason == "wrong address (ann)"
    assert view.current == "Placed"


def test_a_failed_undo_leaves_the_saga_failed() -> None:
    """An undo that failed is not under way any more, is a dead letter, and makes the saga failed."""
    story = Story()
    placed = story.begin()
    story.step(placed, "payments/charge", ["Paid"], undoable=True)
    story.abort(placed, "inventory/reserve")
    assert view_of(story.facts).undoing == ["payments/charge"]
    story.undo(story.asked[0], "refund", fails=True)
    view = view_of(story.facts)
    assert view.status is State.FAILED
    assert view.undoing == []
    assert view.undone == {}
    assert view.done == {"payments/charge": 1}


def test_a_step_that_ran_for_several_events_is_counted_each_time() -> None:
    """`done` counts effects, not facts: two emitted events are one, two handled events are two."""
    story = Story()
    placed = story.begin()
    first, second = story.step(placed, "payments/charge", ["Paid", "Reserved"])
    story.step(first, "orders/mark")
    story.step(second, "orders/mark")
    assert view_of(story.facts).done == {"payments/charge": 1, "orders/mark": 2}


def test_a_producer_that_gives_no_type_of_saga_is_shown_all_the_same() -> None:
    """A saga whose start is not known has an empty type until a fact tells it."""
    lone = Fact("a", Kind.EVENT, 5, "Paid")
    assert view_of([lone]).type == ""
    assert view_of([lone, Fact("b", Kind.EVENT, 9, "Placed", saga_type="order")]).type == "order"


# -- states ------------------------------------------------------------------------------------------


def test_every_state_stands_in_the_table() -> None:
    """The table of transitions names every state, and every state but the first can be reached."""
    assert set(TRANSITIONS) == set(State)
    reached = {State.RUNNING}
    for _ in State:
        reached |= {state for known in reached for state in TRANSITIONS[known]}
    assert reached == set(State)


@given(stories())
def test_sagas_change_state_only_as_the_table_says(story: Story) -> None:
    """The states that a saga's facts tell of follow one another as the table allows."""
    turns = [State(fact.state) for fact in sorted(story.facts, key=lambda fact: fact.seq) if fact.state]
    for before, after in zip([State.RUNNING, *turns], turns, strict=False):
        # One commit may turn a saga twice, if there is nothing to undo; its fact tells of the last turn.
        assert after in TRANSITIONS[before] or any(after in TRANSITIONS[each] for each in TRANSITIONS[before])
