"""Who plays in a harness: participants and a topology, from streams.yaml or from code."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from choreo.errors import ConfigurationError
from choreo.model.event import Event, type_name
from choreo.model.participant import Participant
from choreo.wire.topology import SagaType, Topology

#: The namespace and the saga of a choreography that has no streams.yaml, and the stream of what comes from
#: outside. Participants have a stream each, called like themselves.
NAMESPACE, SAGA, OUTSIDE = "test", "saga", "choreo-outside"
#: Partitions of what is played. Each more would only be another place to look for the same.
PARTITIONS = 1


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
    source: str | Path | Topology | None, participants: Sequence[Participant] = (), ends: Ends | None = None
) -> Cast:
    """The choreography of ``source`` with ``participants`` in place of those of the same names; or of
    ``participants`` alone, if ``source`` is ``None``.

    Raises:
        ConfigurationError: if streams.yaml or a participant is wrong, or there is none.
    """
    if source is None:
        if not participants:
            raise ConfigurationError("a harness needs a streams.yaml, or participants=[...]")
        return Cast(_derive(participants, ends or Ends()), tuple(participants))
    # What follows brings in YAML, which a choreography that is given in code does not need.
    from choreo.loading import load_all

    topology = source if isinstance(source, Topology) else _load(Path(source))
    mine = {each.name: each for each in participants}
    rest = {name: spec for name, spec in topology.participants.items() if name not in mine}
    loaded = {each.name: each for each in load_all(dataclasses.replace(topology, participants=rest))}
    names = dict.fromkeys([*topology.participants, *mine])
    everyone = tuple(mine.get(name) or loaded[name] for name in names)
    return Cast(dataclasses.replace(topology, partitions=PARTITIONS), everyone)


def _load(path: Path) -> Topology:
    """What streams.yaml says. It is read once for any number of harnesses, unless it changes."""
    try:
        stamp = path.stat().st_mtime_ns
    except OSError:
        stamp = 0
    return _load_once(path.absolute(), path, stamp)


@lru_cache(maxsize=16)
def _load_once(absolute: Path, path: Path, stamp: int) -> Topology:
    from choreo.wire.streams_yaml import load

    return load(path)


def _derive(participants: Sequence[Participant], ends: Ends) -> Topology:
    """A topology for participants that have none: a stream for what each of them emits, and one saga."""
    streams: dict[str, list[str]] = {each.name: [] for each in participants}
    heard: dict[str, None] = {}
    for participant in participants:
        for step in participant.steps:
            undo = step.compensation
            heard.update(dict.fromkeys(map(type_name, step.on)))
            types = step.outcome.types | (undo.outcome.types if undo else frozenset())
            streams[participant.name] += sorted(map(type_name, types))
    emitted = {name for names in streams.values() for name in names}
    saga = SagaType(
        SAGA,
        _names(ends.starts_with) or frozenset(name for name in heard if name not in emitted),
        _names(ends.completes_with),
        aborts_with=_names(ends.aborts_with),
    )
    streams[OUTSIDE] = [*heard, *sorted(saga.starts_with | saga.completes_with | saga.aborts_with)]
    return Topology(NAMESPACE, PARTITIONS, _each_once(streams), {}, {SAGA: saga})


def _each_once(streams: dict[str, list[str]]) -> dict[str, tuple[str, ...]]:
    """Each event type in the first stream that has it; no empty streams."""
    found: dict[str, str] = {}
    for stream, names in streams.items():
        for name in names:
            found.setdefault(name, stream)
    carried = {stream: tuple(name for name, where in found.items() if where == stream) for stream in streams}
    return {stream: names for stream, names in carried.items() if names}


def _names(events: Sequence[type[Event]] | type[Event]) -> frozenset[str]:
    return frozenset(map(type_name, [events] if isinstance(events, type) else events))
