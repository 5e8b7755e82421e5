"""A report of one run, as JSON: ``python -m airline.report booking-1``."""

from __future__ import annotations

import json
import sys
from typing import Any

import anyio

from choreo import Choreography


async def report(choreo: Choreography, booking: str) -> dict[str, Any]:
    """How a booking went: its end, why, and each step with what undid it. Times are milliseconds.

    Raises:
        SagaNotFound: if nothing is known of it.
    """
    trace = await choreo.trace(booking)
    steps = []
    waiting = list(trace.events)
    while waiting:
        event = waiting.pop(0)
        for reaction in event.reactions:
            undone = {each.order: each.undo for each in reaction.undone_by}
            steps.append({
                "step": f"{reaction.participant}/{reaction.step}",
                "outcome": reaction.outcome.value,
                "note": reaction.note,
                "worked_ms": reaction.worked_ms,
                "failed_attempts": len(reaction.failed),
                "undone": [{"order": order, "by": name} for order, name in undone.items()],
            })
            waiting += reaction.emitted
    view = trace.saga
    took = None if view.completed is None else view.completed - view.started
    return {
        "booking": booking, "status": view.status.value, "reason": view.reason,
        "took_ms": took, "steps": steps,
    }


async def main() -> None:
    async with Choreography.open() as choreo:
        print(json.dumps(await report(choreo, sys.argv[1]), indent=2))


if __name__ == "__main__":
    anyio.run(main)
