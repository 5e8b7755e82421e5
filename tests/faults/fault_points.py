"""Places in the life of a delivery at which a process kills itself, once."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fault_diary import Handler, around, wrap_handlers

from choreo import Participant
from choreo.broker.gate import Decision, Done, Failed, Gate, Undone
from choreo.broker.groups import Delivery, Groups

#: In the order in which a delivery comes by.
POINTS = ("read", "before the effect", "after the effect", "before the commit", "commit sent", "commit answered")


class Failpoint:
    """Kills this process at one point of one handler, unless the file ``marker`` says that it happened.

    ``handler`` is ``participant/step``, or ``participant/step/undo``.
    """

    def __init__(self, handler: str, point: str, marker: Path) -> None:
        self.participant, self.step, *undo = handler.split("/")
        self.handler = handler
        self.undo = bool(undo)
        self.point = point
        self.marker = marker
        self._token = b""

    def arm(self, participants: Sequence[Participant]) -> None:
        """Put this failpoint into the process, before its workers are made."""
        participant = next(each for each in participants if each.name == self.participant)
        types = {name for name, step in participant.reactions.items() if step.name == self.step}
        match self.point:
            case "read":
                self._watch_reads({each.encode() for each in types})
            case "before the effect" | "after the effect":
                wrap_handlers(participant, self._wrap)
            case _:
                self._watch_commits()

    def _die(self) -> None:
        try:
            os.close(os.open(self.marker, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(10)  # in a thread it may take a moment

    def _watch_reads(self, types: set[bytes]) -> None:
        read = Groups.read

        def concerns(delivery: Delivery) -> bool:
            fields = delivery.fields or {}
            if self.undo:
                request = f"{self.participant}/{self.step}:".encode()
                return fields.get(b"type") == b"choreo.undo" and fields[b"data"].startswith(request)
            return fields.get(b"type") in types

        async def watched(groups: Groups, identity: Any, *arguments: Any, **named: Any) -> list[Delivery]:
            found = await read(groups, identity, *arguments, **named)
            if identity.participant == self.participant and any(map(concerns, found)):
                self._die()
            return found

        Groups.read = watched  # type: ignore[method-assign]

    def _wrap(self, function: Handler, name: str) -> Handler:
        if name != self.handler:
            return function
        if self.point == "before the effect":
            return around(function, lambda _: self._die(), lambda _: None)
        return around(function, lambda _: None, lambda _: self._die())

    def _watch_commits(self) -> None:
        decide = Gate.decide

        async def watched(gate: Gate, identity: Any, now: int, batches: Any) -> Any:
            found = [each for _, batch in batches for each in batch if self._ends(identity.participant, each)]
            if found and self.point == "before the commit":
                self._die()
            if found and self.point == "commit sent":
                self._token = found[0].head.token.encode()
            answers = await decide(gate, identity, now, batches)
            if found:
                self._die()
            return answers

        Gate.decide = watched  # type: ignore[method-assign]
        if self.point == "commit sent":
            self._watch_sockets()

    def _ends(self, participant: str, decision: Decision) -> bool:
        kinds = Undone if self.undo else (Done, Failed)
        return (
            isinstance(decision, kinds) and participant == self.participant and decision.head.step == self.step
        )

    def _watch_sockets(self) -> None:
        """Die when the commit has left through a socket: nobody can take it back, or hear the answer."""
        send = socket.socket.send

        def watched(sock: socket.socket, data: Any, *flags: int) -> int:
            sent = send(sock, data, *flags)
            if self._token and self._token in bytes(data):
                self._die()
            return sent

        socket.socket.send = watched  # type: ignore[method-assign, assignment]
