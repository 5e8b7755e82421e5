"""The topology: what streams.yaml says, checked and ready to be asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from choreo.errors import UnroutableEvent
from choreo.model.deadlines import NO_DEADLINES, Deadlines
from choreo.model.event import OWN_EVENTS
from choreo.model.policy import Policy, Retry
from choreo.wire.keys import Keys
from choreo.wire.limits import DEFAULT_KEEP, MAX_INBOX_KEEP

#: What holds where neither a handler nor streams.yaml says anything.
DEFAULT_POLICY = Policy(retry=Retry())
#: The stream that carries the events which choreo itself publishes.
OWN_STREAM = "choreo"


@dataclass(frozen=True, slots=True)
class SagaType:
    """One kind of saga: which events begin it and which end it."""

    name: str
    starts_with: frozenset[str]
    completes_with: frozenset[str]
    completes_when_all: bool = False
    """Whether every event of ``completes_with`` must have been emitted, or any one is enough."""
    aborts_with: frozenset[str] = frozenset()
    deadlines: Deadlines = NO_DEADLINES
    keep: float | None = None
    """Seconds for which what is known of it is kept when it has ended; ``None``: as for all."""
    line: int = 0
    """Where it stands in the file."""


@dataclass(frozen=True)
class Topology:
    """What streams.yaml says. Two processes that share a namespace should have the same one."""

    namespace: str
    partitions: int
    streams: dict[str, tuple[str, ...]]
    """Stream name -> the event types it carries; choreo's own stream, which no file names, included."""
    participants: dict[str, str] = field(default_factory=dict)
    """Participant name -> ``module:attribute`` where it is found."""
    sagas: dict[str, SagaType] = field(default_factory=dict)
    defaults: Policy = DEFAULT_POLICY
    """What holds for handlers that do not say otherwise."""
    keep: float = DEFAULT_KEEP
    """Seconds for which entries of streams, and what is known of ended sagas, are kept at least."""
    stream_keeps: dict[str, float] = field(default_factory=dict)
    """Stream name -> the same for its entries, where it differs."""
    redis: str | None = None
    """The server's URL, if the file names one."""
    source: Path | None = None
    """The file that this was read from; its folder is where ``module:attribute`` is imported from."""
    lines: dict[str, int] = field(default_factory=dict)
    """Where things stand in the file, by ``event:<type>``, ``stream:<name>``, ``participant:<name>``,
    ``saga:<name>``."""

    def __post_init__(self) -> None:
        # Whoever looks at every stream must not overlook this one.
        object.__setattr__(self, "streams", {**self.streams, OWN_STREAM: tuple(sorted(OWN_EVENTS))})

    @cached_property
    def keys(self) -> Keys:
        """The key names of this namespace."""
        return Keys(self.namespace, self.partitions)

    @cached_property
    def routes(self) -> dict[str, str]:
        """Event type -> the one stream that carries it."""
        return {event: stream for stream, events in self.streams.items() for event in events}

    @cached_property
    def starts(self) -> dict[str, SagaType]:
        """Event type -> the saga type that it starts."""
        return {event: saga for saga in self.sagas.values() for event in saga.starts_with}

    def stream_of(self, event_type: str) -> str:
        """The stream that carries ``event_type``.

        Raises:
            UnroutableEvent: if none does.
        """
        try:
            return self.routes[event_type]
        except KeyError:
            raise UnroutableEvent(
                f"no stream carries {event_type}; add it to `events` of a stream in"
                f" {self.source or 'the topology'}"
            ) from None

    def saga_type_of(self, event_type: str, declared: str = "") -> SagaType | None:
        """The saga type of an event: the one its envelope declares, else the one that its type starts."""
        return self.sagas.get(declared) or self.starts.get(event_type)

    def keep_of_stream(self, name: str) -> float:
        """Seconds for which entries of a topic are kept at least."""
        return self.stream_keeps.get(name, self.keep)

    def keep_of_saga(self, saga_type: str) -> float:
        """Seconds for which what is known of a saga is kept at least, when it has ended."""
        saga = self.sagas.get(saga_type)
        return self.keep if saga is None or saga.keep is None else saga.keep

    @property
    def keep_of_inboxes(self) -> float:
        """Seconds for which handled deliveries for one participant only are kept."""
        return min(self.keep, MAX_INBOX_KEEP)
