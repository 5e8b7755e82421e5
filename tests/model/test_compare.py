"""Two participants that mean different things by one event type."""

from __future__ import annotations

from typing import Any

from choreo import Event, Participant
from choreo.model.checks import Code, Finding, Severity, check
from choreo.model.flow import Plan, derive


def event_class(name: str, **fields: Any) -> Any:
    """A new event class with these fields."""
    return type(name, (Event,), {"__annotations__": fields, "__module__": __name__})


def findings(*classes: type[Event]) -> list[Finding]:
    """The findings when each class is heard by a participant of its own."""
    participants = []
    for number, each in enumerate(classes):
        participant = Participant(f"p{number}")

        def hear(event: Event) -> None:
            raise NotImplementedError

        hear.__annotations__["event"] = each
        participant.on(each)(hear)
        participants.append(participant)
    return [each for each in check(derive(participants, Plan())) if each.code == Code.CONTRACTS_DIFFER]


def test_equal_classes_of_two_modules() -> None:
    """Copies of a class are fine, also with nested types and another order of fields."""


    def lines(sku: type) -> Any:
        line: Any = event_class("Line", sku=sku)
        return list[line]

    ours = event_class("Placed", lines=lines(str), note=str | int)
    assert findings(ours, event_class("Placed", note=int | str, lines=lines(str))) == []
    (finding,) = findings(ours, event_class("Placed", note=int | str, lines=lines(int)))
    assert finding.severity is Severity.ERROR


def test_fields_that_cannot_be_read() -> None:
    """An annotation that names nothing is told, not raised."""
    (finding,) = findings(event_class("Placed"), event_class("Placed", lines="Nowhere"))
    assert "name 'Nowhere' is not defined" in finding.what


def test_a_type_within_itself() -> None:
    """Recursive types are compared as far as they go."""

    def tree() -> Any:
        return event_class("Tree", left="Tree | None", right="Tree | None")

    globals()["Tree"] = tree()
    try:
        assert findings(tree(), tree()) == []
    finally:
        del globals()["Tree"]


def test_a_field_of_another_type() -> None:
    """One side cannot read what the other writes: an error."""
    (finding,) = findings(event_class("Placed", amount=int), event_class("Placed", amount=str))
    assert finding.severity is Severity.ERROR
    assert finding.where.startswith(__file__)
    assert finding.what.startswith("Placed of p1 (")
    assert "amount is str there, int here" in finding.what


def test_a_required_field_on_one_side() -> None:
    """The side that needs it cannot read what the other writes."""
    (finding,) = findings(event_class("Placed"), event_class("Placed", amount=int))
    assert finding.severity is Severity.ERROR
    assert "amount (required) is only in" in finding.what


def test_a_field_with_a_default_on_one_side() -> None:
    """That is how a contract grows: it works, but should be known."""

    class Placed(Event):
        amount: int = 0

    (finding,) = findings(event_class("Placed"), Placed)
    assert finding.severity is Severity.WARNING


def test_each_differing_class_is_a_finding() -> None:
    """All are compared with the first."""
    classes = [event_class("Placed", amount=kind) for kind in (int, str, int, bytes)]
    assert len(findings(*classes)) == 2
