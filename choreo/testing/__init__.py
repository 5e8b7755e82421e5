"""The test kit: a choreography beside a test, with time, faults and crashes at the test's command."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from choreo.testing.alone import given
    from choreo.testing.casting import Ends
    from choreo.testing.exploration import Exploration, InvariantViolated, explore
    from choreo.testing.faults import (
        Crash,
        Delay,
        Disconnect,
        Duplicate,
        Fail,
        Fault,
        Hang,
        Jump,
        PlannedFailure,
        Reorder,
        Unwind,
    )
    from choreo.testing.harness import FaultDidNotHappen, Harness
    from choreo.testing.matrix import Case, NotReached, failure_matrix
    from choreo.testing.sagas import DeadLetter, SagaHandle
    from choreo.testing.trials import Trial, rehearse

#: Public name -> the module that it stands in.
_HOMES = {
    "Case": "matrix",
    "Crash": "faults",
    "DeadLetter": "sagas",
    "Delay": "faults",
    "Disconnect": "faults",
    "Duplicate": "faults",
    "Ends": "casting",
    "Exploration": "exploration",
    "Fail": "faults",
    "Fault": "faults",
    "FaultDidNotHappen": "harness",
    "Hang": "faults",
    "Harness": "harness",
    "InvariantViolated": "exploration",
    "Jump": "faults",
    "NotReached": "matrix",
    "PlannedFailure": "faults",
    "Reorder": "faults",
    "SagaHandle": "sagas",
    "Trial": "trials",
    "Unwind": "faults",
    "explore": "exploration",
    "failure_matrix": "matrix",
    "given": "alone",
    "rehearse": "trials",
}

__all__ = [
    "Case",
    "Crash",
    "DeadLetter",
    "Delay",
    "Disconnect",
    "Duplicate",
    "Ends",
    "Exploration",
    "Fail",
    "Fault",
    "FaultDidNotHappen",
    "Hang",
    "Harness",
    "InvariantViolated",
    "Jump",
    "NotReached",
    "PlannedFailure",
    "Reorder",
    "SagaHandle",
    "Trial",
    "Unwind",
    "explore",
    "failure_matrix",
    "given",
    "rehearse",
]


def __getattr__(name: str) -> Any:
    # pytest imports the plugin in every test run, also in those that need nothing of this.
    if name in _HOMES:
        return getattr(import_module(f"choreo.testing.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
