"""What must hold whatever goes wrong, tried under every single fault that choreo can think of."""

from pathlib import Path

import pytest
from mirror.contracts import SyncRequested
from mirror.warehouse import Warehouse

from choreo.testing import failure_matrix

pytestmark = pytest.mark.anyio

STREAMS = Path(__file__).parents[1] / "streams.yaml"
OLD = [{"name": "Zoe", "born": "1970"}]
NEW = [{"name": "Ann", "born": "1990"}, {"name": "Bob", "born": "1985"}]


@pytest.mark.parametrize("case", failure_matrix(STREAMS))
async def test_readers_see_the_old_rows_or_the_new_ones(case, warehouse: Warehouse) -> None:
    """The new ones if the synchronisation has completed, else the old ones, and no set is left behind."""
    before = warehouse.sets()
    async with case.harness() as mirror:
        sync = await mirror.start(SyncRequested("people"))
        await mirror.finish()
        sync.assert_status("completed", "compensated")
        completed = sync.status == "completed"
    assert warehouse.seen("people") == (NEW if completed else OLD)
    assert warehouse.sets() == (before + 3 if completed else before)
