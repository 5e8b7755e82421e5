"""Contract cards: what a participant reacts to and emits, as its workers tell it to the namespace.

They let readers (`trace`, `sagas`) say who listens, without the participants' code.
"""

from __future__ import annotations

from typing import Any

import msgspec

from choreo.model.event import type_name
from choreo.model.participant import Participant, Step


class StepCard(msgspec.Struct, frozen=True, omit_defaults=True):
    """One step: the event types it reacts to, those it may emit, and its undo."""

    name: str
    on: tuple[str, ...]
    join: bool = False
    emits: tuple[str, ...] = ()
    undo: str | None = None
    undo_emits: tuple[str, ...] = ()


class Card(msgspec.Struct, frozen=True):
    """One participant."""

    participant: str
    steps: tuple[StepCard, ...]


def card_of(participant: Participant) -> Card:
    """The card of a participant, from its code."""
    return Card(participant.name, tuple(_step_card(step) for step in participant.steps))


def _step_card(step: Step[Any]) -> StepCard:
    undo = step.compensation
    return StepCard(
        name=step.name,
        on=tuple(type_name(event) for event in step.on),
        join=step.is_join,
        emits=tuple(sorted(type_name(event) for event in step.outcome.types)),
        undo=undo.name if undo else None,
        undo_emits=tuple(sorted(type_name(event) for event in undo.outcome.types)) if undo else (),
    )


encode_card = msgspec.json.Encoder(order="deterministic").encode
decode_card = msgspec.json.Decoder(Card).decode
