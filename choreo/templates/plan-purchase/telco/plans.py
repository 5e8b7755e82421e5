"""Plans: looks whether there is such a plan. That changes nothing, so there is nothing to undo."""

from __future__ import annotations

from choreo import Abort, Participant

from .contracts import PlanChosen, PlanValidated

plans = Participant("plans")

OFFERED = {"small", "large"}


@plans.on(PlanChosen)
async def validate(chosen: PlanChosen) -> PlanValidated:
    if chosen.plan not in OFFERED:
        raise Abort(f"there is no plan {chosen.plan}")
    return PlanValidated(chosen.plan, chosen.customer, chosen.device, chosen.cents)
