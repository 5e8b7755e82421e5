"""What a saga waits for, in words: for its trace, and for the list of sagas that are stuck."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.text import Text

from choreo.drawing.durations import format_age, format_duration
from choreo.drawing.text import clean
from choreo.model.waits import Awaited, Reading, Where

#: Things waited for that are listed; beyond them there is a count.
MAX_AWAITED = 20
#: Milliseconds for which a worker may not be seen, or not renew a lease, before that is worth telling.
_SILENCE = 30_000
_DIM = "bright_black"
#: What nobody can read, and why.
_NOBODY = {
    Where.GROUPLESS: "{participant} has no consumer group there: its workers never ran, or it was destroyed",
    Where.GONE: "its entry is gone: unless the tracker is behind, somebody deleted it before it was handled",
}

#: Of a saga for which nothing is found.
NOTHING = (
    "Nothing that is known of will move this saga on: no step is left to react. Was a participant never"
    " started? See `choreo check`."
)


def format_waits(waits: Sequence[Awaited], now: int) -> Iterator[Text]:
    """One line for each; ``now`` is in milliseconds since the epoch."""
    for awaited in waits[:MAX_AWAITED]:
        yield format_wait(awaited, now)
    if len(waits) > MAX_AWAITED:
        yield Text(f"and {len(waits) - MAX_AWAITED} more", style=_DIM)


def format_wait(awaited: Awaited, now: int) -> Text:
    """``→ waits for payments/charge to react to OrderPlaced (for 3.0 s): no worker of payments is there``."""
    line = Text.assemble(("→ ", "cyan"), *_parts(awaited, now))
    if awaited.reading is not None:
        told = _told(awaited.reading, clean(awaited.handler.partition("/")[0]), now)
        line.append(f": {told}" if told else "")
    if awaited.note:
        line.append(f": {clean(awaited.note)}", style="red")
    return line


def _parts(awaited: Awaited, now: int) -> list[tuple[str, str]]:
    handler, event = clean(awaited.handler), clean(awaited.type)
    since = (f" (for {format_duration(now - awaited.since)})" if awaited.since else "", _DIM)
    match awaited.what:
        case "step":
            return [("waits for ", ""), (handler, "bold"), (f" to react to {event}", ""), since]
        case "join":
            return [("waits for ", ""), (event, "bold"), (f", which {handler} needs", ""), since]
        case "undo":
            return [("waits for ", ""), (handler, "bold"), (" to be undone", ""), since]
        case "retry":
            what = f"the undo of {handler}" if awaited.undo else handler
            attempt = (f"waits for attempt {awaited.attempt} of ", "")
            return [attempt, (what, "bold"), (_due(awaited.due, now), _DIM)]
        case "plan":
            plan = f", planned by {handler}"
            return [("waits for ", ""), (event, "bold"), (plan, ""), (_due(awaited.due, now), _DIM)]
        case "operator":
            return [(handler, "bold"), (" has failed, and waits for an operator", "")]
        case "letter":
            return [("waits for an operator: ", ""), (handler or event, "bold"), (" is a dead letter", "")]
        case "damage":
            return [("is damaged", "bold"), (", and waits for an operator", "")]
        case "listener":
            return [("nobody listens to ", ""), (event, "bold")]
        case other:
            return [(f"waits for {clean(other)} {handler} {event}", ""), since]


def _due(due: int, now: int) -> str:
    if due > now:
        return f" (in {format_duration(due - now)})"
    return " (due now)" if now - due < 1000 else f" (was due {format_age(now - due)})"


def _told(reading: Reading, participant: str, now: int) -> str:
    """What is known of whoever is to handle it; empty if all is as it should be."""
    if reading.where in _NOBODY:
        return _NOBODY[reading.where].format(participant=participant)
    if reading.where is Where.HELD:
        return _held(reading, now)
    if reading.paused_by:
        return f"not read yet; {_pause(reading, participant, now)}"
    if reading.where is Where.HANDLED:
        return "it was read and acknowledged, and what it came to is not known yet"
    silent = reading.seen_ms is None or reading.seen_ms > _SILENCE
    if reading.where is Where.TIMER:
        return "no worker runs that would move it" if silent else ""
    lag = "" if reading.lag is None else f", as one of {reading.lag:,} entries"
    return f"not read yet{lag}; {_absence(reading, participant)}" if silent else f"not read yet{lag}"


def _held(reading: Reading, now: int) -> str:
    text = f"in the hands of {clean(reading.consumer)}"
    if reading.idle_ms > _SILENCE:
        text += f", who was last heard of {format_age(reading.idle_ms)}"
    return f"{text}, delivered {reading.deliveries} times" if reading.deliveries > 1 else text


def _pause(reading: Reading, participant: str, now: int) -> str:
    return f"{participant} was paused by {clean(reading.paused_by)} {format_age(now - reading.paused_at)}"


def _absence(reading: Reading, participant: str) -> str:
    if reading.seen_ms is None:
        return f"{participant} has no worker"
    return f"no worker of {participant} was seen for {format_duration(reading.seen_ms)}"
