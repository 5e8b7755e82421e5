"""The choreography as a tree, Mermaid, DOT and data."""

from __future__ import annotations

import json
import re
from io import StringIO

import pytest
from rich.console import Console

from choreo.cli.graph_format import to_data, to_dot, to_mermaid, to_tree
from choreo.model.flow import Flow, Plan, Route, SagaPlan, StepNode, UndoNode


def node(label: str, hears: str, emits: str = "", undo: str | None = None, joins: bool = False) -> StepNode:
    """A step; event types are separated by spaces, `undo="X"` gives it an undo that emits X."""
    participant, _, name = label.partition("/")
    undo_node = None if undo is None else UndoNode(f"undo_{name}", tuple(undo.split()), (), "shop.py:2")
    heard, emitted = tuple(hears.split()), tuple(sorted(emits.split()))
    return StepNode(participant, name, heard, emitted, "shop.py:1", joins=joins, undo=undo_node)


def saga(starts: str, completes: str, aborts: str = "", *, every: bool = False) -> SagaPlan:
    """A saga `order`."""
    ends = frozenset(completes.split()), frozenset(aborts.split())
    return SagaPlan("order", frozenset(starts.split()), ends[0], "streams.yaml:9", every, ends[1])


def flow_of(*steps: StepNode, sagas: tuple[SagaPlan, ...]) -> Flow:
    """A flow whose events are not carried by any stream."""
    return Flow(Plan(sagas=sagas), steps, {})


SHOP = Flow(
    Plan({"Placed": Route("orders", "streams.yaml:3")}, (saga("Placed", "Shipped", "Declined"),)),
    (
        node("payments/charge", "Placed", "Declined Paid", undo="Refunded"),
        node("stock/reserve", "Placed", "Reserved", undo=""),
        node("shipping/ship", "Paid Reserved", "Shipped", joins=True),
        node("audit/note", "Refunded Declined"),
    ),
    {},
)


def shown(flow: Flow) -> list[str]:
    """The tree as lines of text."""
    console = Console(file=StringIO(), width=200)
    console.print(to_tree(flow))
    assert isinstance(console.file, StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


class TestTree:
    """The picture in the terminal."""

    def test_a_saga_from_its_start(self) -> None:
        """Reactions, what they emit, joins, undos and ends, each in its place."""
        assert shown(SHOP) == [
            "choreography",
            "└── saga order",
            "    └── Placed",
            "        ├── payments/charge",
            "        │   ├── Declined ✗ aborts",
            "        │   │   └── audit/note",
            "        │   ├── Paid",
            "        │   │   └── shipping/ship ⧗ waits for Paid + Reserved ⋯ see below",
            "        │   └── ↶ undo_charge",
            "        │       └── Refunded",
            "        │           └── audit/note",
            "        └── stock/reserve",
            "            ├── Reserved",
            "            │   └── shipping/ship ⧗ waits for Paid + Reserved",
            "            │       └── Shipped ✓ completes",
            "            └── ↶ undo_reserve",
        ]

    def test_what_was_shown_is_referred_to(self) -> None:
        """A circle comes to an end, and a subtree stands there once."""
        steps = node("p/a", "A", "B C"), node("q/b", "B", "A D"), node("r/c", "C", "D")
        flow = flow_of(*steps, sagas=(saga("A", "D"),))
        assert shown(flow)[3:] == [
            "        └── p/a",
            "            ├── B",
            "            │   └── q/b",
            "            │       ├── A ⋯ see above",
            "            │       └── D ✓ completes",
            "            └── C",
            "                └── r/c",
            "                    └── D ✓ completes",
        ]

    def test_a_step_that_reacts_to_several_events(self) -> None:
        """It is shown in full at the first of them."""
        flow = flow_of(node("p/a", "A B", "C"), sagas=(saga("A B", "C"),))
        assert shown(flow)[2:] == [
            "    ├── A",
            "    │   └── p/a",
            "    │       └── C ✓ completes",
            "    └── B",
            "        └── p/a ⋯ see above",
        ]

    def test_a_join_that_waits_in_vain(self) -> None:
        """It says for what."""
        flow = flow_of(node("p/a", "A B", "C", joins=True), sagas=(saga("A", "C"),))
        assert shown(flow)[3:] == ["        └── p/a ⧗ waits for A + B ⋯ but nothing leads to B"]

    def test_ends_that_are_all_needed(self) -> None:
        """Each says with which others it completes the saga."""
        flow = flow_of(node("p/a", "A", "C D"), sagas=(saga("A", "C D", every=True),))
        assert shown(flow)[4:] == [
            "            ├── C ✓ completes, with D",
            "            └── D ✓ completes, with C",
        ]

    def test_steps_that_no_saga_reaches(self) -> None:
        """They are not left out, from where they begin."""
        flow = flow_of(node("q/b", "Y", "Z"), node("p/a", "X", "Y"), sagas=())
        assert shown(flow) == [
            "choreography",
            "└── no saga leads here",
            "    └── X",
            "        └── p/a",
            "            └── Y",
            "                └── q/b",
            "                    └── Z",
        ]

    def test_two_sagas_have_trees_of_their_own(self) -> None:
        """What one has shown the other shows again."""
        plans = saga("A", "C"), SagaPlan("other", frozenset({"B"}), frozenset({"C"}), "")
        assert sum("p/a" in line for line in shown(flow_of(node("p/a", "A B", "C"), sagas=plans))) == 2


class TestData:
    """The stable schema."""

    def test_an_event_says_who_emits_and_who_hears_it(self) -> None:
        """Undos are told apart from steps; a stream is null if none carries the event."""
        events = {event["name"]: event for event in to_data(SHOP)["events"]}
        assert events["Placed"] == {
            "name": "Placed",
            "stream": "orders",
            "emitted_by": [],
            "heard_by": ["payments/charge", "stock/reserve"],
            "starts": ["order"],
            "completes": [],
            "aborts": [],
        }
        assert events["Refunded"]["emitted_by"] == ["payments/charge/undo_charge"]
        assert events["Refunded"]["stream"] is None
        assert events["Declined"]["aborts"] == ["order"]
        assert events["Shipped"]["completes"] == ["order"]

    def test_steps_and_sagas(self) -> None:
        """With the places where they are written."""
        data = to_data(SHOP)
        assert data["version"] == 1
        assert data["steps"][0] == {
            "participant": "payments",
            "name": "charge",
            "where": "shop.py:1",
            "hears": ["Placed"],
            "waits_for_all": False,
            "emits": ["Declined", "Paid"],
            "undo": {"name": "undo_charge", "where": "shop.py:2", "undoes": [], "emits": ["Refunded"]},
        }
        assert data["steps"][2]["waits_for_all"]
        assert data["steps"][2]["undo"] is None
        assert data["sagas"] == [
            {
                "name": "order",
                "where": "streams.yaml:9",
                "starts_with": ["Placed"],
                "completes_with": ["Shipped"],
                "completes_when_all": False,
                "aborts_with": ["Declined"],
            }
        ]

    def test_it_is_json(self) -> None:
        """Nothing in it is of another kind."""
        assert json.loads(json.dumps(to_data(SHOP))) == to_data(SHOP)


class TestMermaid:
    """The Mermaid flowchart."""

    def test_the_shop(self) -> None:
        """Events, participants with their steps, and the arrows between them."""
        lines = to_mermaid(SHOP).splitlines()
        assert lines[0] == "flowchart LR"
        assert '  e0(["Placed ▶ order"])' in lines
        at = lines.index('  subgraph p0["payments"]')
        assert lines[at + 1 : at + 4] == ['    s0["charge"]', '    u0["↶ undo_charge"]', "  end"]
        assert "  e0 --> s0" in lines
        assert "  s0 -.-> u0" in lines
        assert sum(line.endswith('-->|"all"| s2') for line in lines) == 2

    def test_labels_are_escaped(self) -> None:
        """No name can end its label or become markup."""
        flow = flow_of(node('p"]/<b>#1\n', "A"), sagas=())
        assert '["p#quot;]"]' in to_mermaid(flow)
        assert '["#lt;b#gt;#35;1�"]' in to_mermaid(flow)


class TestDot:
    """The DOT file."""

    def test_the_shop(self) -> None:
        """Events, clusters with their steps, and the arrows between them."""
        lines = to_dot(SHOP).splitlines()
        assert lines[0] == "digraph choreography {"
        assert lines[-1] == "}"
        assert '  e0 [shape=oval, label="Placed ▶ order"];' in lines
        assert '    label="payments";' in lines
        assert '    s0 [shape=box, label="charge"];' in lines
        assert "  e0 -> s0;" in lines
        assert "  s0 -> u0 [style=dashed];" in lines
        assert sum(line.endswith('-> s2 [label="all"];') for line in lines) == 2

    def test_labels_are_escaped(self) -> None:
        """No name can end its string."""
        flow = flow_of(node('p"\\/x\n', "A"), sagas=())
        assert 'label="p\\"\\\\"' in to_dot(flow)
        assert 'label="x�"' in to_dot(flow)


@pytest.mark.parametrize("render", [to_mermaid, to_dot])
def test_every_id_that_an_arrow_names_is_declared(render: object) -> None:
    """Arrows only join nodes that are there."""
    text = render(SHOP)  # type: ignore[operator]
    declared = set(re.findall(r"^ +([esu]\d+)[ (\[]+(?!-)", text, re.MULTILINE))
    arrows = re.findall(r'^ +([esu]\d+) (?:-->|-\.->|->)(?:\|"all"\|)? ([esu]\d+)', text, re.MULTILINE)
    assert len(arrows) == 13
    assert {end for arrow in arrows for end in arrow} <= declared
