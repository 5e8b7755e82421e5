"""Choreographed sagas on Redis Streams.

Participants import what they declare themselves with from here; programs that start sagas and look
at them use :class:`Choreography`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from choreo.errors import Abort, ChoreoError
from choreo.model.context import Context
from choreo.model.event import Event, SagaTimedOut
from choreo.model.participant import Participant
from choreo.model.policy import Retry

if TYPE_CHECKING:
    from choreo.choreography import Choreography

__all__ = [
    "Abort", "ChoreoError", "Choreography", "Context", "Event", "Participant", "Retry", "SagaTimedOut",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    # The client brings in redis; a module that only declares contracts should not pay for it.
    if name == "Choreography":
        from choreo.choreography import Choreography

        return Choreography
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
