"""What the whole picture shows: each finding, and that there is none where all is well."""

from __future__ import annotations

from dataclasses import replace

import pytest
from flow_kit import flow_of, node, plan
from hypothesis import given, settings
from hypothesis import strategies as st

from choreo.model.checks import Code, Finding, Severity, check
from choreo.model.deadlines import Deadlines, Expectation
from choreo.model.flow import SagaPlan, StepNode


def found(code: Code, saga: SagaPlan | None, *steps: StepNode, carried: str | None = None) -> list[Finding]:
    """The findings with this code."""
    return [finding for finding in check(flow_of(saga, *steps, carried=carried)) if finding.code == code]


SHOP = (
    node("payments/charge", "Placed", "Paid Declined", undo="Refunded"),
    node("stock/reserve", "Placed", "Reserved OutOfStock", undo="Released"),
    node("shipping/book", "Paid Reserved", "Booked", joins=True, undo=""),
    node("orders/confirm", "Booked", "Shipped", raises_abort=True),
    node("orders/close", "Shipped"),
    node("orders/note", "Declined OutOfStock Refunded"),
)
ORDER = plan("Placed", "Shipped", "Declined OutOfStock")


def test_a_sound_choreography_has_no_findings() -> None:
    """Ends need no hearers, and compensating events (here Released) need none either."""
    assert check(flow_of(ORDER, *SHOP)) == []


def test_all_findings_come_at_once_in_order_of_file_and_line() -> None:
    """Line 9 comes before line 10."""
    steps = [node("a/" + "x" * length, f"Never{length}") for length in (10, 9)]
    findings = check(flow_of(plan("Start", "End"), *steps, carried="Unused"))
    in_code = [finding.where for finding in findings if finding.where.startswith("a.py")]
    assert in_code == ["a.py:9", "a.py:9", "a.py:10", "a.py:10"]
    assert {finding.code for finding in findings} >= {
        Code.EVENT_UNKNOWN, Code.EVENT_UNCARRIED, Code.EVENT_UNEMITTED, Code.SAGA_WITHOUT_END,
    }  # fmt: skip


def test_a_finding_reads_as_one_line() -> None:
    """Place, how bad, the stable code, and what to do."""
    (finding,) = found(Code.EVENT_UNKNOWN, None, carried="Lonely")
    assert str(finding) == (
        "streams.yaml:10: warning event-unknown: stream all carries Lonely, which no participant hears or"
        " emits; take it out, or add the participant that does"
    )


class TestEvents:
    """Who emits, who hears, which stream carries."""

    def test_an_event_nobody_hears(self) -> None:
        """An event that ends nothing and interests nobody is probably a mistake."""
        (finding,) = found(Code.EVENT_UNHEARD, plan("A", "C"), node("x/y", "A", "B C"))
        assert finding.severity is Severity.WARNING
        assert finding.where == "x.py:1"
        assert finding.what.startswith("nobody hears B, which x/y may emit, and no saga ends with it")

    def test_a_start_nobody_hears(self) -> None:
        """Then nothing follows from it."""
        (finding,) = found(Code.EVENT_UNHEARD, plan("A", "C"), node("x/y", "B", "C"))
        assert finding.where == "streams.yaml:12"
        assert finding.what.startswith("nobody hears A, with which saga order starts")

    def test_what_only_the_way_back_emits_need_not_be_heard(self) -> None:
        """Compensating events, by undos or by hand, are often the last word."""
        by_hand = node("x/back", "Bad", "Refunded")
        steps = node("x/y", "A", "C Bad", undo="Undone"), by_hand
        assert found(Code.EVENT_UNHEARD, plan("A", "C", "Bad"), *steps) == []

    def test_what_a_step_emits_forward_too_should_be_heard(self) -> None:
        """That an undo emits it as well makes no difference."""
        step = node("x/y", "A", "B C", undo="B")
        assert len(found(Code.EVENT_UNHEARD, plan("A", "C"), step)) == 1

    def test_an_event_nobody_emits(self) -> None:
        """The step that hears it waits in vain; a start comes from outside."""
        (finding,) = found(Code.EVENT_UNEMITTED, plan("A", "C"), node("x/y", "A B", "C"))
        assert finding.severity is Severity.WARNING
        assert finding.what.startswith("nobody emits B, which x/y waits for")

    def test_an_end_nobody_emits(self) -> None:
        """An abort that cannot happen stands in the plan for nothing."""
        (finding,) = found(Code.EVENT_UNEMITTED, plan("A", "C", "Bad"), node("x/y", "A", "C"))
        assert finding.what.startswith("nobody emits Bad, which saga order waits for")

    def test_an_undo_emits_too(self) -> None:
        """What an undo emits is emitted."""
        steps = node("x/y", "A", "C", undo="B"), node("z/w", "B")
        assert check(flow_of(plan("A", "C"), *steps)) == []

    def test_a_timeout_that_never_comes(self) -> None:
        """choreo itself publishes SagaTimedOut, but only where a saga has a deadline."""
        steps = node("x/y", "A", "C"), node("x/apologise", "SagaTimedOut")
        (finding,) = check(flow_of(plan("A", "C"), *steps))
        assert (finding.code, finding.where) == (Code.EVENT_UNEMITTED, "x.py:9")
        assert finding.what.startswith("no saga has a deadline, so SagaTimedOut never comes")
        timed = replace(plan("A", "C"), deadlines=Deadlines(whole=1000))
        assert check(flow_of(timed, *steps)) == []

    def test_what_follows_a_timeout_runs_on_the_way_back(self) -> None:
        """An event that only such a step emits need not be heard."""
        steps = node("x/y", "A", "C"), node("x/apologise", "SagaTimedOut", "Apologised")
        timed = replace(plan("A", "C"), deadlines=Deadlines(whole=1000))
        assert check(flow_of(timed, *steps)) == []

    def test_an_expectation_that_nothing_leads_to(self) -> None:
        """It could never begin to wait, or would always time out."""
        saga, step = plan("A", "C"), node("x/y", "A", "B C")
        for expected, said in (
            (Expectation("B", 1000, ("C",)), None),
            (Expectation("Z", 1000, ("C",)), "nothing leads from its start to Z; take"),
            (Expectation("B", 1000, ("Y", "Z")), "nothing leads from its start to Y or Z, so it would"),
        ):
            timed = replace(saga, deadlines=Deadlines(expects=(expected,)))
            findings = [finding.what for finding in found(Code.EXPECTED_UNREACHED, timed, step)]
            assert [said in finding for finding in findings] == ([True] if said else []), findings

    def test_an_event_no_stream_carries(self) -> None:
        """It could not be published: an error, at the step or the undo that names it."""
        steps = node("x/y", "A", "C", undo="B"), node("z/longer", "C")
        first, second = found(Code.EVENT_UNCARRIED, plan("A", "C"), *steps, carried="A")
        assert first.severity is Severity.ERROR
        assert (first.where, second.where) == ("undo.py:1", "z.py:6")
        assert first.what.startswith("no stream carries B, which x/y uses;")
        assert second.what.startswith("no stream carries C, which z/longer and x/y use;")

    def test_an_event_no_participant_knows(self) -> None:
        """One finding is enough: not also that nobody hears or emits it."""
        step = node("x/y", "A", "C")
        (finding,) = check(flow_of(plan("A", "C"), step, carried="A C Lonely"))
        assert (finding.code, finding.where) == (Code.EVENT_UNKNOWN, "streams.yaml:12")


class TestEnds:
    """Whether a saga can complete."""

    def test_no_way_leads_to_the_end(self) -> None:
        """The finding says where the way stops."""
        steps = node("x/y", "A", "B"), node("z/w", "D", "C")
        (finding,) = found(Code.SAGA_WITHOUT_END, plan("A", "C"), *steps)
        assert finding == Finding(
            "streams.yaml:90", Severity.ERROR, Code.SAGA_WITHOUT_END,
            "saga order starts with A, but nothing leads from there to C; the way stops at B",
        )  # fmt: skip

    def test_a_join_that_lacks_an_input(self) -> None:
        """All inputs of a join must be possible."""
        steps = node("x/y", "A", "B"), node("z/w", "B D", "C", joins=True)
        (finding,) = found(Code.SAGA_WITHOUT_END, plan("A", "C"), *steps)
        assert finding.what.endswith("; z/w waits for D in vain")

    def test_one_end_of_several_is_enough(self) -> None:
        """Unless all of them are asked for."""
        step = node("x/y", "A", "C")
        assert found(Code.SAGA_WITHOUT_END, plan("A", "C D"), step) == []
        (finding,) = found(Code.SAGA_WITHOUT_END, plan("A", "C D", every=True), step)
        assert "nothing leads from there to D" in finding.what

    def test_each_start_must_lead_to_the_end(self) -> None:
        """Each start that does not is a finding."""
        (finding,) = found(Code.SAGA_WITHOUT_END, plan("A B", "C"), node("x/y", "A", "C"), node("z/w", "B"))
        assert "starts with B" in finding.what

    def test_the_way_does_not_lead_through_an_abort(self) -> None:
        """After an abort a saga can no longer complete."""
        steps = node("x/y", "A", "Bad"), node("z/w", "Bad", "C")
        assert len(found(Code.SAGA_WITHOUT_END, plan("A", "C", "Bad"), *steps)) == 1


class TestCycles:
    """Events that cause one another."""

    def test_a_cycle_without_exit(self) -> None:
        """The circle is shown in the order in which its events cause one another."""
        steps = node("p/a", "A", "B C"), node("q/bee", "B", "D"), node("r/deer", "D", "B")
        (finding,) = found(Code.CYCLE_WITHOUT_EXIT, plan("A", "C"), *steps)
        assert finding == Finding(
            "q.py:3", Severity.ERROR, Code.CYCLE_WITHOUT_EXIT,
            "B → D → B go round without an exit: saga order can end from none of them;"
            " let one of q/bee and r/deer emit what leads to an end",
        )  # fmt: skip

    def test_an_event_that_causes_itself(self) -> None:
        """The smallest circle."""
        (finding,) = found(Code.CYCLE_WITHOUT_EXIT, plan("A", "C"), node("p/a", "A", "A"))
        assert finding.what.startswith("A → A go round")

    @pytest.mark.parametrize("exit_to", ["C", "Bad"])
    def test_a_cycle_with_an_exit(self, exit_to: str) -> None:
        """To try again until the saga completes, or aborts, is fine."""
        steps = node("p/a", "A", "B"), node("q/b", "B", f"A {exit_to}")
        assert found(Code.CYCLE_WITHOUT_EXIT, plan("A", "C", "Bad"), *steps) == []

    def test_a_step_that_cannot_run_turns_no_circle(self) -> None:
        """A join whose other input never comes stops it."""
        steps = node("p/a", "A", "B C"), node("q/b", "B Never", "B", joins=True)
        assert found(Code.CYCLE_WITHOUT_EXIT, plan("A", "C"), *steps) == []

    def test_a_circle_on_the_way_back(self) -> None:
        """Compensations that answer one another for ever; an answer that may fail to come breaks it."""
        steps = [node("p/a", "A", "C", undo="U"), node("q/b", "U", "V"), node("r/c", "V", "U")]
        (finding,) = found(Code.CYCLE_WITHOUT_EXIT, plan("A", "C"), *steps)
        assert finding.what.startswith("V → U → V go round") or finding.what.startswith("U → V → U go round")
        steps[2] = node("r/c", "V", "U", may_emit_nothing=True)
        assert found(Code.CYCLE_WITHOUT_EXIT, plan("A", "C"), *steps) == []

    def test_a_circle_through_an_abort(self) -> None:
        """An abort's event that leads to itself goes round on the way back."""
        steps = node("p/a", "A", "C Bad"), node("q/b", "Bad", "V"), node("r/c", "V", "Bad")
        assert len(found(Code.CYCLE_WITHOUT_EXIT, plan("A", "C", "Bad"), *steps)) == 1


def test_a_step_without_undo() -> None:
    """The finding names the step, what can abort, and both remedies."""
    steps = node("p/pay", "A", "B"), node("q/ship", "B", "C Bad")
    (finding,) = found(Code.STEP_WITHOUT_UNDO, plan("A", "C", "Bad"), *steps)
    assert finding == Finding(
        "p.py:3", Severity.WARNING, Code.STEP_WITHOUT_UNDO,
        "p/pay has no undo, but saga order can still abort after it: q/ship may emit Bad."
        " Declare one with @pay.undo, or let p react to what aborts",
    )  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_graph_can_be_checked(data: st.DataObject) -> None:
    """Circles, steps that nothing reaches, ends that nobody emits: the checks always come to an answer."""
    names = st.lists(st.sampled_from("ABCDEFG"), max_size=3, unique=True).map(" ".join)
    some = names.filter(bool)
    steps = []
    for number in range(data.draw(st.integers(0, 5))):
        more = {"undo": data.draw(st.none() | names), "joins": data.draw(st.booleans())}
        steps.append(node(f"p{number}/s", data.draw(some), data.draw(names), **more))
    flow = flow_of(plan(data.draw(some), data.draw(some), data.draw(names)), *steps, carried=data.draw(names))
    findings = check(flow)
    assert len(set(findings)) == len(findings)
    assert check(flow) == findings
