"""Finding sagas that have not moved for longer than they should."""

from __future__ import annotations

from choreo.model.facts import View
from choreo.model.saga import State
from choreo.model.waits import Listeners, Stuck, awaited, is_explained, may_be_stuck
from choreo.tracker.queries import Queries
from choreo.tracker.readings import look_up

#: Sagas that may be stuck: those that have not come to an end.
_OPEN = (State.FAILED, State.COMPENSATING, State.RUNNING)
#: Open sagas that are looked at, the oldest first; it bounds what one search costs.
MAX_LOOKED_AT = 10_000
#: Views, and sagas whose facts are read, in one go.
_VIEWS, _SAGAS = 500, 50


async def find_stuck(
    queries: Queries, listeners: Listeners, now: int, *, longest: int, saga_type: str | None, limit: int
) -> list[Stuck]:
    """Open sagas that have not moved for ``longest`` (ms), those that began first before others.

    Of the oldest ``MAX_LOOKED_AT`` open sagas, at most ``limit`` are found; those that have waited longest
    come first. Sagas that failed or are left to an operator count at once. A saga that waits for something
    that is due later, as planned, does not count.

    Raises:
        BrokerUnavailable: if the server cannot be reached.
    """
    found: list[Stuck] = []
    oldest = await queries.oldest(saga_type, _OPEN, MAX_LOOKED_AT)
    for at in range(0, len(oldest), _VIEWS):
        views = await queries.several(oldest[at : at + _VIEWS])
        suspects = [view for view in views if may_be_stuck(view, now, longest)]
        for first in range(0, len(suspects), _SAGAS):
            found += await _stuck(queries, suspects[first : first + _SAGAS], listeners, now)
            if len(found) >= limit:
                break
        if len(found) >= limit:
            break
    found = sorted(found, key=lambda each: each.saga.updated)[:limit]
    waits = [(each.saga.id, one) for each in found for one in each.waits]
    await look_up(queries.topology, queries.broker, waits, now)
    return found


async def _stuck(queries: Queries, views: list[View], listeners: Listeners, now: int) -> list[Stuck]:
    found = []
    for view in views:
        waits = list(awaited(view, await queries.facts(view.id), listeners))
        if not is_explained(view, waits, now):
            found.append(Stuck(view, waits))
    return found
