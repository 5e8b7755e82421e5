"""Choreographed sagas on Redis Streams.

Participants import what they declare themselves with from here; programs that start sagas and look
at them use :class:`Choreography`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from choreo.choreography import Choreography
    from choreo.errors import Abort, ChoreoError
    from choreo.model.context import Context
    from choreo.model.event import Event, SagaTimedOut
    from choreo.model.participant import Participant
    from choreo.model.policy import Retry

#: Public name -> the module that it stands in.
_HOMES = {
    "Abort": "errors",
    "ChoreoError": "errors",
    "Choreography": "choreography",
    "Context": "model.context",
    "Event": "model.event",
    "Participant": "model.participant",
    "Retry": "model.policy",
    "SagaTimedOut": "model.event",
}

__all__ = [
    "Abort", "ChoreoError", "Choreography", "Context", "Event", "Participant", "Retry", "SagaTimedOut",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    # The client brings in redis; a module that only declares contracts should not pay for it. And pytest
    # imports this package in every test run, for its plugin, also where nothing of choreo is used.
    if name in _HOMES:
        return getattr(import_module(f"choreo.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
