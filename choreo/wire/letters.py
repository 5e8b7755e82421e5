"""Dead letters as entries of a stream, and what they say of the delivery that is to be made again."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from choreo.model.letters import DeadLetter, LetterState
from choreo.wire.envelope import Envelope
from choreo.wire.inbox import Parked, unpack

#: What stands before the name of a refused entry's field.
FIELD = b"field:"


def decode_letter(place: str, entry: Mapping[bytes, bytes], state: str) -> DeadLetter:
    """A dead letter of its entry and of its state (``open``, or ``<what> <ms> <token> <who>``).

    Made for people and for JSON: bytes that are no text are shown as escapes.
    """
    text = {name.decode(errors="backslashreplace"): _text(value) for name, value in entry.items()}
    what, _, rest = state.partition(" ")
    settled, _, rest = rest.partition(" ")
    return DeadLetter(
        id=text.get("letter", ""), place=place, reason=text.get("reason", ""),
        time=_number(text.get("time", "")),
        state=LetterState(what) if what in set(LetterState) else LetterState.OPEN,
        settled=_number(settled), settled_by=rest.partition(" ")[2],
        saga=text.get("subject", ""), saga_type=text.get("sagatype", ""),
        participant=text.get("participant", ""), step=text.get("step", ""), undo=text.get("undo", ""),
        event=text.get("id", ""), type=text.get("type", ""), error=text.get("error", ""),
        traceback=text.get("traceback", ""), data=text.get("data", ""), stream=text.get("stream", ""),
        entry=text.get("entry", ""), cut=text.get("cut", "").split(),
        fields={_text(name.removeprefix(FIELD)): _text(value)
                for name, value in entry.items() if name.startswith(FIELD)},
    )  # fmt: skip


def _text(value: bytes) -> str:
    return value.decode(errors="backslashreplace")


def _number(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) <= 15 else 0


def attempt_of(entry: Mapping[bytes, bytes], data: bytes | None) -> tuple[bytes, list[tuple[str, bytes]]]:
    """The first attempt of a step that is a dead letter, as its inbox delivers it; and for a join its
    events: (field of the work hash behind ``x:``, packed event).

    ``data`` takes the place of the event's own.
    """
    names = ("id", "type", "subject", "source", "sagatype", "cause", "ledger", "phase", "traceparent")
    known = {name: entry.get(name.encode(), b"").decode() for name in names}
    event = Envelope(**known, data=entry.get(b"data", b"") if data is None else data)  # type: ignore[arg-type]
    participant, step = (entry.get(name, b"").decode() for name in (b"participant", b"step"))
    line = f"{participant}/{step}:{event.id}"
    packed = entry.get(b"parts", b"")
    parts = [
        msgspec.structs.replace(part, data=event.data) if part.id == event.id else part
        for part in (unpack(packed) if packed else [])
    ]
    return (
        Parked(1, event=event.pack(), step=step).pack(),
        [(f"{line}:{part.type}", part.pack()) for part in parts],
    )


def refused_fields(entry: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """The fields of a refused entry, as far as its letter has kept them."""
    return {
        name.removeprefix(FIELD): value for name, value in entry.items() if name.startswith(FIELD)
    }
