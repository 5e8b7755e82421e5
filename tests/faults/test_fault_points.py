"""SIGKILL at every point in the life of a delivery, at every step and every undo of the shop."""

from __future__ import annotations

import signal

import pytest
from fault_diary import handlers_of
from fault_jobs import shop_participants
from fault_points import POINTS
from fault_stage import Stage, until

pytestmark = [pytest.mark.anyio, pytest.mark.processes]

HANDLERS = {name: undo for each in shop_participants() for name, undo in handlers_of(each).items()}
#: An order that is fulfilled, and one whose last step calls off everything that was done.
GOOD, LATE = 1, 12
#: Steps that only what goes wrong calls for.
SETBACKS = {"orders/note"}


def test_the_list_is_the_shops() -> None:
    """Eight steps, four of which can be undone."""
    assert len(HANDLERS) == 12
    assert sum(HANDLERS.values()) == 4


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("handler", HANDLERS)
async def test_killed_at(stage: Stage, server_name: str, handler: str, point: str) -> None:
    """The order ends as if nothing had happened, and the handler's effect is there once.

    Handlers run in threads on the one server, and many together on the other.
    """
    at_once = server_name == "redis"
    number = LATE if HANDLERS[handler] or handler in SETBACKS else GOOD
    marker = stage.folder / "killed"
    first = stage.start_shop(lease=0.3, failpoint=(handler, point, marker), at_once=at_once)
    await stage.place_orders([number])
    await until(lambda: first.ended is not None, lambda: f"the first process to die; it said {first.said}")
    assert first.ended == -signal.SIGKILL
    assert marker.exists(), first.said
    before = stage.diary.runs
    stage.start_shop(lease=0.3, failpoint=(handler, point, marker), at_once=at_once)
    await stage.until_orders_end([number])
    await stage.check_orders([number])
    runs_again(stage, handler, point, before)


def runs_again(stage: Stage, handler: str, point: str, before: dict[str, int]) -> None:
    """The handler ran once more after it was killed, unless its commit had been sent already."""
    if handler in SETBACKS:
        return  # it handles several events, and need not have been killed at the first

    def runs(times: dict[str, int]) -> int:
        return sum(count for line, count in times.items() if line.startswith(f"began {handler} "))

    assert runs(before) == (POINTS.index(point) > 0)
    assert runs(stage.diary.runs) - runs(before) == (not point.startswith("commit "))
