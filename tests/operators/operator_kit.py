"""A stage on which things go wrong until a test mends them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from choreo import Abort, Choreography, Context, Participant
from choreo.model.facts import View
from choreo.model.letters import DeadLetter
from choreo.model.trace import EventNode, Incident, Reaction
from tests.retries.retry_kit import (
    NEVER,
    Declined,
    HandClock,
    Paid,
    Placed,
    Refunded,
    Released,
    Reserved,
    Shipped,
    Stage,
    quick,
    topology_of,
    until,
    until_view,
)

__all__ = [
    "NEVER", "Declined", "HandClock", "Paid", "Placed", "Refunded", "Released", "Reserved", "Shipped", "Shop",
    "Stage", "quick", "reaction_of", "topology_of", "until", "until_view",
]  # fmt: skip


@dataclass
class Shop:
    """Payments that are refunded, inventory that reacts to refunds, and shipping that ends every saga:
    whatever is in ``broken`` fails."""

    broken: set[str] = field(default_factory=set)
    aborts: bool = False
    """Whether shipping aborts the saga."""
    runs: Counter[str] = field(default_factory=Counter)
    """How often each step and each undo ran."""
    seen: dict[str, list[Any]] = field(default_factory=dict)
    """The events and contexts that each was given."""

    def _run(self, name: str, event: Any, ctx: Context) -> None:
        self.runs[name] += 1
        self.seen.setdefault(name, []).append((event, ctx))
        if name in self.broken:
            raise OSError(f"{name} is broken")

    def participants(self) -> list[Participant]:
        payments, inventory, shipping = Participant("payments"), Participant("inventory"), Participant("shipping")

        @payments.on(Placed, retry=quick(2))
        async def charge(placed: Placed, ctx: Context) -> Paid:
            self._run("charge", placed, ctx)
            return Paid(placed.amount)

        @charge.undo(retry=quick(2))
        async def refund(placed: Placed, ctx: Context) -> Refunded:
            self._run("refund", placed, ctx)
            return Refunded(placed.amount)

        @inventory.on(Refunded, retry=quick(1))
        async def restock(refunded: Refunded, ctx: Context) -> Released:
            self._run("restock", refunded, ctx)
            return Released()

        @shipping.on(Paid, retry=quick(1))
        async def send(paid: Paid, ctx: Context) -> Shipped:
            self._run("send", paid, ctx)
            if self.aborts:
                raise Abort("no truck")
            return Shipped()

        return [payments, inventory, shipping]

    def audit(self) -> Participant:
        """One more participant, which reacts to what begins a saga."""
        audit = Participant("audit")

        @audit.on(Placed, retry=quick(1))
        async def note(placed: Placed, ctx: Context) -> None:
            self._run("note", placed, ctx)

        return audit


async def open_letter(choreo: Choreography, reason: str) -> DeadLetter:
    """The one letter that is open with a reason, when it is there."""
    found: list[DeadLetter] = []

    async def look() -> bool:
        found[:] = await choreo.dead_letters(reason=reason)
        return bool(found)

    await until(look, f"a letter with {reason}")
    (letter,) = found
    return letter


async def view_when(choreo: Choreography, saga_id: str, status: str, *, open_letters: int = 0) -> View:
    """The view of a saga when it stands so."""
    return await until_view(
        choreo, saga_id, lambda view: (view.status, view.open_letters) == (status, open_letters),
        f"{status} with {open_letters} open letters",
    )  # fmt: skip


def reaction_of(events: list[EventNode], step: str) -> Reaction:
    """The reaction of a step, anywhere in a trace."""
    waiting = [*events]
    while waiting:
        node = waiting.pop()
        for reaction in node.reactions:
            if reaction.step == step:
                return reaction
            waiting += [each for undo in (reaction, *reaction.undone_by) for each in undo.emitted]
    raise AssertionError(f"{step} has not reacted")


def orders(incidents: list[Incident]) -> list[tuple[str, str, str, str]]:
    """What was ordered, about what, why and by whom."""
    return [(each.order, each.about, each.note, each.detail) for each in incidents if each.order]
