"""The failure matrix: every single fault that is worth trying, derived from a choreography's handlers."""

from __future__ import annotations

import unittest
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from choreo.errors import Abort
from choreo.model.event import type_name
from choreo.model.participant import Participant, Step, Undo
from choreo.testing.casting import Cast, Ends, cast
from choreo.testing.faults import (
    MOMENTS,
    Crash,
    Delay,
    Disconnect,
    Duplicate,
    Fail,
    Fault,
    Hang,
    Reorder,
    Unwind,
)
from choreo.testing.harness import FaultDidNotHappen, Harness
from choreo.wire.topology import Topology

#: Seconds by which an event of the matrix is late, where no deadline is to be missed.
_LATE = 60.0


class NotReached(unittest.SkipTest):
    """A fault of the matrix had no chance to happen: the handler does not run in this test's sagas.

    pytest and unittest take it for a skipped test.
    """


@dataclass(frozen=True, eq=False)
class Case:
    """One fault of the matrix, with what it takes to have it happen."""

    name: str
    faults: tuple[Fault, ...]
    source: str | Path | Topology | None = None
    """What a harness of this case plays, if its maker does not say."""

    def __str__(self) -> str:
        return self.name

    def harness(self, source: str | Path | Topology | None = None, **arguments: Any) -> Harness:
        """A harness in which this fault happens; arguments are those of :class:`~choreo.testing.Harness`."""
        if source is None and not arguments.get("participants"):
            source = self.source
        return _CaseHarness(source, faults=[*arguments.pop("faults", ()), *self.faults], **arguments)

    @property
    def line(self) -> str:
        """The line of a test that has it happen again."""
        return f"faults=[{', '.join(map(repr, self.faults))}]"


class _CaseHarness(Harness):
    """A harness whose test is skipped if its fault has not happened."""

    def check_faults(self) -> None:
        try:
            super().check_faults()
        except FaultDidNotHappen as error:
            raise NotReached(str(error)) from None


def cases_of(choreography: Cast, source: str | Path | Topology | None = None) -> list[Case]:
    """The matrix of a choreography, in the order of its declarations."""
    every: list[tuple[str, tuple[Fault, ...]]] = []
    for participant in choreography.participants:
        for step in participant.steps:
            every += _of_step(choreography, step)
            if step.compensation is not None:
                every += _of_undo(choreography, step, step.compensation)
        every.append((f"{participant.name} loses the server", (Disconnect(participant.name),)))
    every += _of_events(choreography)
    every.append(("events are reordered", (Reorder(),)))
    return [Case(name, faults, source) for name, faults in every]


def failure_matrix(
    source: str | Path | Topology | None = None, *, participants: Sequence[Participant] = (),
    ends: Ends | None = None,
) -> list[Any]:  # fmt: skip
    """The matrix as pytest's parameters, each a :class:`Case` with a readable id::

        @pytest.mark.parametrize("case", failure_matrix("streams.yaml"))
        async def test_money_is_conserved(case):
            await money_is_conserved(case.harness)

    Arguments are those of :class:`~choreo.testing.Harness`. A case whose handler does not run in the
    sagas of the test is skipped, so the report says what was not tried.

    Raises:
        ConfigurationError: if streams.yaml or a participant is wrong.
    """
    import pytest

    choreography = cast(source, participants, ends)
    return [pytest.param(case, id=case.name.replace(" ", "-")) for case in cases_of(choreography, source)]


def _of_step(choreography: Cast, step: Step[Any]) -> Iterator[tuple[str, tuple[Fault, ...]]]:
    label = f"{step.participant}/{step.name}"
    policy = step.policy.over(choreography.topology.defaults)
    attempts = policy.retry.attempts if policy.retry else 1
    if attempts > 1:
        yield f"{label} fails once", (Fail(label),)
        yield f"{label} fails once after its effect", (Fail(label, when="after effect"),)
    yield f"{label} fails for good", (Fail(label, times=attempts),)
    yield f"{label} aborts", (Fail(label, Abort("rehearsed")),)
    if policy.timeout is not None:
        if attempts > 1:
            yield f"{label} hangs once", (Hang(label),)
        yield f"{label} hangs for good", (Hang(label, times=attempts),)
    for moment in MOMENTS:
        yield f"{label} crashes {_said(moment)}", (Crash(label, moment),)
    yield f"unwound after {label}", (Unwind(label),)
    if step.compensation is not None:
        # What an undo gets that does not know whether its step took effect.
        yield f"{label} fails for good after its effect", (Fail(label, when="after effect", times=attempts),)
        unwound = Unwind(label, "after effect")
        yield f"unwound while {label} runs", (unwound,)
        yield f"unwound while {label} runs and crashes", (unwound, Crash(label, "after effect"))


def _of_undo(choreography: Cast, step: Step[Any], undo: Undo) -> Iterator[tuple[str, tuple[Fault, ...]]]:
    """Faults of an undo. That it fails for good is none of them: then an operator has to look."""
    done = f"{step.participant}/{step.name}"
    label = f"{done}/{undo.name}"
    unwound = Unwind(done)
    policy = undo.policy.over(choreography.topology.defaults)
    if policy.retry is not None and policy.retry.attempts > 1:
        yield f"{label} fails once", (unwound, Fail(label))
        yield f"{label} fails once after its effect", (unwound, Fail(label, when="after effect"))
        if policy.timeout is not None:
            yield f"{label} hangs once", (unwound, Hang(label))
    for moment in MOMENTS:
        yield f"{label} crashes {_said(moment)}", (unwound, Crash(label, moment))


def _said(moment: str) -> str:
    return {"before": "before it runs", "after effect": "after its effect"}.get(moment, moment)


def _of_events(choreography: Cast) -> Iterator[tuple[str, tuple[Fault, ...]]]:
    steps = [step for participant in choreography.participants for step in participant.steps]
    heard = list(dict.fromkeys(type_name(event) for step in steps for event in step.on))
    for event in heard:
        yield f"{event} comes twice", (Duplicate(event),)
        yield f"{event} comes late", (Delay(event, _LATE),)
    for saga in choreography.topology.sagas.values():
        if saga.deadlines.whole is not None:
            for event in heard:
                late = Delay(event, saga.deadlines.whole / 1000 + 1)
                yield f"{event} comes after the deadline of {saga.name}", (late,)
        for each in saga.deadlines.expects:
            yield f"{each.name} comes too late", (Delay(each.after, each.within / 1000 + 1),)
