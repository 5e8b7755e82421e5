"""What the decisions of one call of the gate have in common, each said once and then called by its number."""

from __future__ import annotations

from typing import TypeVar

from choreo.broker.connection import Argument

_Key = TypeVar("_Key")


class Numbers(dict[_Key, int]):
    """Numbers what it is asked for, each once."""

    def __init__(self, first: int = 1) -> None:
        self._first = first

    def __missing__(self, key: _Key) -> int:
        number = self[key] = self._first + len(self)
        return number


class Shared:
    """Numbered: the streams, where deliveries come from, and where events go."""

    __slots__ = ("outlets", "routes", "streams")

    def __init__(self, first_stream: int = 0) -> None:
        self.streams: Numbers[str] = Numbers(first_stream)
        #: Kind of decision, stream that the delivery comes from, saga type, step, event type, way back.
        self.routes: Numbers[tuple[str, str, str, str, str, bool]] = Numbers()
        #: Stream that an event goes to, its type, what it ends.
        self.outlets: Numbers[tuple[str, str, str]] = Numbers()

    def arguments(self) -> list[Argument]:
        """The arguments that say it."""
        arguments: list[Argument] = [len(self.routes)]
        for kind, stream, saga_type, step, event_type, back in self.routes:
            arguments += (kind, self.streams[stream], saga_type, step, event_type, "1" if back else "")
        arguments.append(len(self.outlets))
        for stream, event_type, ends in self.outlets:
            arguments += (self.streams[stream], event_type, ends)
        return arguments
