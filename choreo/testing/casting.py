"""Who plays in a harness: participants and a topology, from streams.yaml or from code."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from choreo.errors import ConfigurationError
from choreo.loading import load_all
from choreo.model.event import Event, type_name
from choreo.model.participant import Participant
from choreo.wire.streams_yaml import load
from choreo.wire.topology import SagaType, Topology

#: The stream, the namespace and the saga of a choreography that has no streams.yaml.
STREAM, NAMESPACE, SAGA = "events", "test", "saga"


@dataclasses.dataclass(frozen=True)
class Ends:
    """How a saga begins and ends, for a choreography that is given in code. All are event types."""

    starts_with: Sequence[type[Event]] | type[Event] = ()
    """By default whatever is heard and never emitted."""
    completes_with: Sequence[type[Event]] | type[Event] = ()
    aborts_with: Sequence[type[Event]] | type[Event] = ()


@dataclasses.dataclass(frozen=True)
class Cast:
    """A choreography that is to be played."""

    topology: Topology
    participants: tuple[Participant, ...]


def cast(
    source: str | Path | Topology | None, participants: Sequence[Participant], ends: Ends, partitions: int
) -> Cast:
    """The choreography of ``source`` with ``participants`` in place of those of the same names; or of
    ``participants`` alone, if ``source`` is ``None``.

    Raises:
        ConfigurationError: if streams.yaml or a participant is wrong, or there is none.
    """
    if source is None:
        if not participants:
            raise ConfigurationError("a harness needs a streams.yaml, or participants=[...]")
        return Cast(derive(participants, ends, partitions), tuple(participants))
    topology = source if isinstance(source, Topology) else load(source)
    mine = {each.name: each for each in participants}
    rest = {name: spec for name, spec in topology.participants.items() if name not in mine}
    loaded = {each.name: each for each in load_all(dataclasses.replace(topology, participants=rest))}
    names = dict.fromkeys([*topology.participants, *mine])
    everyone = tuple(mine.get(name) or loaded[name] for name in names)
    return Cast(dataclasses.replace(topology, partitions=partitions), everyone)


def derive(participants: Sequence[Participant], ends: Ends, partitions: int) -> Topology:
    """A topology for participants that have none: one stream for all their events, and one saga."""
    heard: dict[str, None] = {}
    emitted: dict[str, None] = {}
    for step in (step for participant in participants for step in participant.steps):
        undo = step.compensation
        heard.update(dict.fromkeys(map(type_name, step.on)))
        types = step.outcome.types | (undo.outcome.types if undo else frozenset())
        emitted.update(dict.fromkeys(sorted(map(type_name, types))))
    saga = SagaType(
        SAGA,
        _names(ends.starts_with) or frozenset(name for name in heard if name not in emitted),
        _names(ends.completes_with),
        aborts_with=_names(ends.aborts_with),
    )
    ending = sorted(saga.starts_with | saga.completes_with | saga.aborts_with)
    every = dict.fromkeys([*heard, *emitted, *ending])
    return Topology(NAMESPACE, partitions, {STREAM: tuple(every)}, {}, {SAGA: saga})


def _names(events: Sequence[type[Event]] | type[Event]) -> frozenset[str]:
    return frozenset(map(type_name, [events] if isinstance(events, type) else events))
