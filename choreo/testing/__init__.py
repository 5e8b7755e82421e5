"""The test kit: a choreography beside a test, with time, faults and crashes at the test's command."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from choreo.testing.casting import Ends
    from choreo.testing.faults import (
        Crash,
        Delay,
        Disconnect,
        Duplicate,
        Fail,
        Fault,
        Hang,
        PlannedFailure,
        Reorder,
        Unwind,
    )
    from choreo.testing.harness import FaultDidNotHappen, Harness
    from choreo.testing.sagas import DeadLetter, SagaHandle

_HOMES = {
    "Crash": "faults", "DeadLetter": "sagas", "Delay": "faults", "Disconnect": "faults",
    "Duplicate": "faults", "Ends": "casting", "Fail": "faults", "Fault": "faults",
    "FaultDidNotHappen": "harness", "Hang": "faults", "Harness": "harness", "PlannedFailure": "faults",
    "Reorder": "faults", "SagaHandle": "sagas", "Unwind": "faults",
}  # fmt: skip

__all__ = [
    "Crash",
    "DeadLetter",
    "Delay",
    "Disconnect",
    "Duplicate",
    "Ends",
    "Fail",
    "Fault",
    "FaultDidNotHappen",
    "Hang",
    "Harness",
    "PlannedFailure",
    "Reorder",
    "SagaHandle",
    "Unwind",
]


def __getattr__(name: str) -> Any:
    # pytest imports the plugin in every test run, also in those that need nothing of this.
    if name in _HOMES:
        return getattr(import_module(f"choreo.testing.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
