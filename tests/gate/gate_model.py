"""What the gate must answer, in plain Python: a reference to compare the gate with, decision by decision.

A choreography here is a row of steps, each of a participant of its own. Step ``n`` emits events of type
``En`` (or ``An``, which aborts the saga), its undo ``Rn``. The saga begins with ``E0``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from hypothesis import strategies as st

from choreo.broker.answers import Verdict
from choreo.broker.gate import Head

AT_THE_END = 98
NEVER = 99


class Outcome(StrEnum):
    """What a step comes to."""

    KEEPS = "keeps"
    """It took effect; its undo, if it has one, is concerned."""
    UNCOVERED = "uncovered"
    """It took effect in a way that needs no undo."""
    ENDS = "ends"
    """As ``KEEPS``, and its event is one of those that complete the saga."""
    REFUSES = "refuses"
    """It emits an event that aborts the saga."""
    ABORTS = "aborts"
    """It raises Abort."""
    FAILS = "fails"
    """It raises an error."""


@dataclass(frozen=True)
class Plan:
    """One step."""

    number: int
    on: tuple[str, ...]
    outcome: Outcome
    undoable: bool
    copies: int
    """How many events it emits."""
    undo_emits: bool
    undo_fails: bool

    @property
    def participant(self) -> str:
        return f"p{self.number}"

    @property
    def step(self) -> str:
        return f"step{self.number}"

    @property
    def is_join(self) -> bool:
        return len(self.on) > 1

    @property
    def keeps(self) -> bool:
        """Whether there is something to undo when it succeeds."""
        return self.undoable and self.outcome is not Outcome.UNCOVERED

    @property
    def emits(self) -> str:
        return f"{'A' if self.outcome is Outcome.REFUSES else 'E'}{self.number}"

    def line(self, event: str) -> str:
        """The ledger's name for this step's reaction to an event."""
        return f"{self.participant}/{self.step}:{event}"


@dataclass(frozen=True)
class Choreography:
    """Steps, and whether all ends are needed or any one."""

    steps: tuple[Plan, ...]
    all_ends: bool
    ordered_after: int
    """After so many decisions an operator may unwind the saga; ``AT_THE_END``: when nothing else is left."""

    @property
    def ends_needed(self) -> int:
        return sum(step.outcome is Outcome.ENDS for step in self.steps) if self.all_ends else 1


@st.composite
def choreographies(draw: st.DrawFn) -> Choreography:
    """Random choreographies without cycles: chains, branches, joins, reactions to aborts and to undos."""
    forward, steps = ["E0"], []
    back: list[str] = []
    size = draw(st.integers(4, 8))
    # Most steps succeed and can be undone, or little would happen.
    special = draw(st.sets(st.integers(1, size), max_size=1)) | {size}
    for number in range(1, size + 1):
        on = _inputs(draw, forward, back)
        outcome = draw(st.sampled_from([*Outcome])) if number in special else Outcome.KEEPS
        undoable, emits, fails = draw(_often(5)), draw(st.booleans()), not draw(_often(11))
        copies = draw(st.sampled_from([1] * 8 + [2, 2, 0]))
        plan = Plan(number, on, outcome, undoable, copies, emits, fails)
        steps.append(plan)
        (back if on[0] in back or outcome is Outcome.REFUSES else forward).append(plan.emits)
        if undoable and emits:
            back.append(f"R{number}")
    ordered_after = draw(st.sampled_from([3, 6, 9, *[AT_THE_END] * 5, NEVER]))
    return Choreography(tuple(steps), draw(st.booleans()), ordered_after)


def _inputs(draw: st.DrawFn, forward: list[str], back: list[str]) -> tuple[str, ...]:
    if len(forward) > 2 and not draw(_often(2)):
        return tuple(draw(st.lists(st.sampled_from(forward), min_size=2, max_size=3, unique=True)))
    # Some more often than others, so that there are long chains and wide branches.
    return (draw(st.sampled_from([*forward, *forward[1:3], *forward[-2:], *back])),)


def _often(times: int) -> st.SearchStrategy[bool]:
    """True so many times as often as false."""
    return st.sampled_from([True] * times + [False])


@dataclass(frozen=True)
class Published:
    """An event as the model knows it."""

    id: str
    type: str
    back: bool = False
    ledger: frozenset[str] = frozenset()
    """The entries that caused it."""


@dataclass
class Row:
    """An entry that is not settled."""

    plan: Plan
    parents: frozenset[str]
    by: str
    """The token of who began it."""
    again: bool = False
    """Whether a later delivery has begun it, too."""
    done: bool = False


@dataclass
class Model:
    """One saga: what is true of it, and what the gate must answer next."""

    plan: Choreography
    state: str = "running"
    """``running``, ``completed`` or ``unwinding``."""
    decided: set[str] = field(default_factory=set)
    """Lines whose step is decided, and ``undo:`` lines likewise; waiting parts of joins count."""
    ledger: dict[str, Row] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    """Every entry whose undo was asked for, in order."""
    undone: list[str] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    must_undo: set[str] = field(default_factory=set)
    events: dict[str, Published] = field(default_factory=dict)
    parts: dict[int, dict[str, str]] = field(default_factory=dict)
    fired: dict[str, tuple[str, ...]] = field(default_factory=dict)
    letters: int = 0
    spoiled: list[str] = field(default_factory=list)
    """Steps of the way back that have failed."""
    seen: set[str] = field(default_factory=set)
    """Types of ends seen so far."""

    # -- steps -------------------------------------------------------------------------------------

    def begin(self, plan: Plan, event: Published, head: Head) -> Verdict:
        """What the gate must answer to a step that asks to begin."""
        line = plan.line(event.id)
        if line in self.decided:
            return Verdict.DUPLICATE
        row = self.ledger.get(line)
        if row and row.by != head.token and head.deliveries == 1:
            return Verdict.BUSY
        if self.state == "unwinding" and not event.back:
            if line in self.ledger:
                return Verdict.DOUBT
            self.decided.add(line)
            return Verdict.LATE
        if plan.is_join and line not in self.fired and not self._gather(plan, event):
            self.decided.add(line)
            return Verdict.WAITING
        if row:
            row.again = row.again or head.deliveries > 1
        elif plan.undoable and self.state == "running":
            parents = self._parents(plan, event) & self.ledger.keys()
            self.ledger[line] = Row(plan, parents, head.token, head.deliveries > 1)
        return Verdict.RUN

    def _gather(self, plan: Plan, event: Published) -> bool:
        parts = self.parts.setdefault(plan.number, {})
        parts[event.type] = event.id
        if len(parts) < len(plan.on):
            return False
        self.fired[plan.line(event.id)] = tuple(parts.pop(each) for each in plan.on)
        return True

    def inputs(self, plan: Plan, event: Published) -> tuple[Published, ...]:
        """The events that a step handles."""
        return tuple(self.events[each] for each in self.fired.get(plan.line(event.id), (event.id,)))

    def _parents(self, plan: Plan, event: Published) -> frozenset[str]:
        return frozenset().union(*[each.ledger for each in self.inputs(plan, event)])

    def commit(self, plan: Plan, event: Published, outcome: Outcome, *, doubtful: bool) -> Verdict:
        """What the gate must answer when the step's outcome (or that it is not known) is committed."""
        line = plan.line(event.id)
        if line in self.decided:
            return Verdict.DUPLICATE
        self.decided.add(line)
        if doubtful:
            return self._succeed(plan, event, keeps=True)
        if outcome in (Outcome.ABORTS, Outcome.FAILS):
            return self._fail(plan, event, dead=outcome is Outcome.FAILS)
        return self._succeed(plan, event, keeps=plan.keeps)

    def _succeed(self, plan: Plan, event: Published, *, keeps: bool) -> Verdict:
        line, before = plan.line(event.id), self.state
        ledger = self._parents(plan, event)
        if before != "completed" and not event.back:
            if keeps:
                self._took_effect(line)
                ledger = frozenset({line})
            else:
                self._drop(line)
        if before == "unwinding" and not event.back:
            self._ask()
            return Verdict.LATE
        refuses = plan.outcome is Outcome.REFUSES and plan.copies > 0
        for number in range(plan.copies):
            back = event.back or (refuses and before == "running")
            self._publish(Published(f"{plan.number}.{number}<{event.id}", plan.emits, back, ledger))
        if before == "running" and refuses:
            self.unwind()
        elif before == "running" and plan.outcome is Outcome.ENDS and plan.copies:
            self.seen.add(plan.emits)
            if len(self.seen) >= self.plan.ends_needed:
                self.state = "completed"
                self.ledger.clear()
        return Verdict.COMMITTED

    def _fail(self, plan: Plan, event: Published, *, dead: bool) -> Verdict:
        line, before = plan.line(event.id), self.state
        spoils = before == "unwinding" and event.back
        self.letters += dead or before == "completed" or spoils
        self.spoiled += [line] * spoils
        if before != "completed" and not event.back:
            if line in self.ledger and (dead or self.ledger[line].again):
                self._took_effect(line)
            else:
                self._drop(line)
        if before == "running":
            self.unwind()
            return Verdict.COMMITTED
        self._ask()
        return Verdict.LATE if before == "unwinding" else Verdict.CLOSED

    def _publish(self, event: Published) -> None:
        self.events[event.id] = event

    def _took_effect(self, line: str) -> None:
        self.ledger[line].done = True
        self.must_undo.add(line)

    def _drop(self, line: str) -> None:
        self.ledger.pop(line, None)
        self._ask()

    # -- the way back ------------------------------------------------------------------------------

    def unwind(self) -> None:
        """The saga aborts now."""
        self.state = "unwinding"
        self.parts.clear()
        self._ask()

    def _ask(self) -> None:
        """Whatever has caused nothing that is left to undo is asked for."""
        if self.state != "unwinding":
            return
        causes = set().union(*[row.parents for row in self.ledger.values()])
        for line, row in sorted(self.ledger.items()):
            if row.done and line not in causes and line not in self.asked:
                self.asked.append(line)

    def begin_undo(self, line: str) -> Verdict:
        """What the gate must answer to an undo that asks to begin."""
        assert line in self.asked, f"{line} must not be undone yet"
        return Verdict.DUPLICATE if f"undo:{line}" in self.decided else Verdict.RUN

    def commit_undo(self, line: str) -> Verdict:
        """What the gate must answer when an undo has ended."""
        if f"undo:{line}" in self.decided:
            return Verdict.DUPLICATE
        self.decided.add(f"undo:{line}")
        plan = self.ledger.pop(line).plan
        (self.stuck if plan.undo_fails else self.undone).append(line)
        if plan.undo_fails:
            self.letters += 1
        elif plan.undo_emits:
            self._publish(Published(f"u<{line}", f"R{plan.number}", True))
        self._ask()
        return Verdict.COMMITTED

    # -- the end -----------------------------------------------------------------------------------

    @property
    def expected_state(self) -> str:
        """What the record must say."""
        if self.state != "unwinding":
            return self.state
        return "compensating" if self.ledger else "failed" if self.stuck or self.spoiled else "compensated"

    def waiting_parts(self) -> Iterator[str]:
        """The fields that half-filled joins keep."""
        for step in self.plan.steps:
            for kind in self.parts.get(step.number, {}):
                for prefix in "jk":
                    yield f"{prefix}:{step.participant}/{step.step}:{kind}"
