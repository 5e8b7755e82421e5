"""The states of a saga, in the one table that the gate, the tracker and the docs' diagram follow."""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a saga stands."""

    RUNNING = "running"
    COMPLETED = "completed"
    COMPENSATING = "compensating"
    COMPENSATED = "compensated"
    FAILED = "failed"
    RESOLVED = "resolved"

    @property
    def ended(self) -> bool:
        """Whether nothing more happens by itself; a failed saga waits for an operator."""
        return self not in (State.RUNNING, State.COMPENSATING)


#: The states of sagas that need nobody any more, so that they may be forgotten in time.
FINAL = (State.COMPLETED, State.COMPENSATED, State.RESOLVED)

#: Each transition, with what causes it.
TRANSITIONS: dict[State, dict[State, str]] = {
    State.RUNNING: {
        State.COMPLETED: "an event of completes_with is emitted",
        State.COMPENSATING: (
            "an event of aborts_with is emitted, a step aborts or fails for good, a deadline passes,"
            " an operator says so"
        ),
    },
    State.COMPENSATING: {
        State.COMPENSATED: "nothing is left to undo",
        State.FAILED: "nothing is left to undo but what could not be undone",
        State.RESOLVED: "an operator says that it was put right by hand, and will never be undone",
    },
    State.FAILED: {
        State.COMPENSATING: "an operator replays what failed on the way back",
        State.RESOLVED: "an operator says that it was put right by hand",
    },
    State.COMPLETED: {},
    State.COMPENSATED: {
        State.FAILED: "a step that reacts on the way back fails for good",
    },
    State.RESOLVED: {},
}
