"""The books of a saga: what the server holds about it, and what must be true of that at any time."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, TypeAlias

from choreo.runtime.parked import Work
from choreo.wire.envelope import Envelope

Entry: TypeAlias = tuple[bytes, Envelope]


@dataclass(frozen=True)
class Step:
    """A step of a participant of the same number. It emits ``emits``, and its undo ``R`` and its number."""

    number: int
    on: str
    emits: str
    undoable: bool = True
    ends: str = ""
    plans: str = ""
    """Type of an event that it publishes later."""

    @property
    def participant(self) -> str:
        return f"p{self.number}"

    @property
    def name(self) -> str:
        return f"step{self.number}"

    def line(self, event_id: str) -> str:
        return f"{self.participant}/{self.name}:{event_id}"


#: A chain with a branch, an event that is planned, and a step that reacts to the way back.
STEPS = (
    Step(1, "E0", "E1", plans="P1"),
    Step(2, "E1", "E2"),
    Step(3, "E1", "E3", undoable=False),
    Step(4, "E2", "End", ends="c1"),
    Step(5, "R1", "B1", undoable=False),
    Step(6, "P1", "E6"),
)


@dataclass
class Books:
    """What the server holds about the saga."""

    record: dict[str, str]
    work: dict[str, str]
    timers: set[str]
    coming: set[str]
    """What unacknowledged deliveries will be about: ``line``, ``undo:line`` or ``plan:line``."""
    letters: dict[str, str]
    """What is a dead letter -> how that stands."""

    @property
    def state(self) -> str:
        return self.record.get("state", "running")

    @property
    def rows(self) -> dict[str, tuple[str, int, list[str]]]:
        found = {}
        for name, text in self.work.items():
            if name.startswith("e:"):
                status, children, *parents = text.split()
                found[name[2:]] = (status[0], int(children), parents)  # S is followed by a token
        return found

    def fields(self, prefix: str) -> set[str]:
        return {name.removeprefix(prefix) for name in self.work if name.startswith(prefix)}

    def check(self) -> None:
        """What must be true at any time."""
        rows, to_come = self.rows, self.coming | self.timers
        left = {entry for entry, (status, _, _) in rows.items() if status != "F"}
        assert "open" in self.record or not self.work, "nobody looks for work that the record does not tell of"
        assert int(self.record.get("open", 0)) == len(left), "entries that are not settled"
        assert int(self.work.get("f", 0)) == len(rows) - len(left), "entries that failed"
        causes = Counter(parent for entry in left for parent in rows[entry][2])
        for entry, (status, children, _) in rows.items():
            assert children == causes[entry] or status == "F", f"children of {entry}"
            if status == "D" and self.state != "running":
                assert children, f"nobody asks to undo {entry}"
            if status in "SB":
                assert entry in to_come, f"nobody will decide about {entry}"
            if status == "U":
                assert f"undo:{entry}" in to_come, f"nobody will undo {entry}"
        self._check_state(rows, left)
        planned = {each for each in to_come if each.startswith("plan:")}
        assert {f"plan:{each}" for each in self.fields("t:")} <= planned
        if self.state != "running":
            assert not self.fields("t:")
            assert not any(each.startswith("plan:") for each in self.timers), "a planned event is void"
        for turn in self.fields("a:"):
            assert turn in to_come or self.letters.get(turn) == "open", f"no attempt of {turn} will come"
        for turn in self.fields("b:"):
            assert turn in self.coming, f"nobody runs {turn} any more"

    def _check_state(self, rows: dict[str, Any], left: set[str]) -> None:
        match self.state:
            case "compensating":
                assert left, "it has nothing left to undo"
            case "compensated" | "completed" | "resolved":
                assert not rows
            case "failed":
                assert len(rows) > len(left), "nothing has failed"

    def check_end(self, effects: set[str]) -> None:
        """What must be true when nothing is left to happen. ``effects``: lines that may have taken effect."""
        assert not self.coming and not self.timers
        assert self.state != "compensating"
        if self.state in ("compensated", "failed"):
            stuck = {entry for entry, (status, _, _) in self.rows.items() if status == "F"}
            undone = {name[2:] for name in self.record if name.startswith("u:")}
            assert effects <= undone | stuck, "an effect was not undone"
        if self.state == "running":
            assert {status for status, _, _ in self.rows.values()} <= {"D"}
        elif self.state != "failed" and "open" not in self.letters.values():
            assert not self.work


def pairs_of(flat: list[bytes]) -> dict[bytes, bytes]:
    """Names and values that follow each other, as a map."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def texts_of(flat: list[bytes]) -> dict[str, str]:
    """As :func:`pairs_of`, as text."""
    return {name.decode(): value.decode() for name, value in pairs_of(flat).items()}


def order_of(entry: bytes) -> tuple[int, ...]:
    """What an entry's id is ordered by."""
    return tuple(map(int, entry.split(b"-")))


def about(step: Step, entry: Envelope) -> str:
    """What a delivery of this entry to the step's participant is about."""
    if entry.type == step.on:
        return step.line(entry.id)
    work = Work.of_inbox(entry, 0)
    line = f"{step.participant}/{work.step}:{work.envelope.id}"
    return f"undo:{work.undo}" if work.undo else f"plan:{line}" if work.planned else line
