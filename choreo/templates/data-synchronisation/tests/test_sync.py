"""Synchronisations: readers see the old rows or the new ones, and never anything between."""

import pytest
from mirror.contracts import SyncRequested
from mirror.warehouse import Warehouse

pytestmark = pytest.mark.anyio

OLD = [{"name": "Zoe", "born": "1970"}]
NEW = [{"name": "Ann", "born": "1990"}, {"name": "Bob", "born": "1985"}]


async def test_a_synchronisation(choreo_harness, warehouse: Warehouse) -> None:
    """Readers see the new rows."""
    async with choreo_harness() as mirror:
        sync = await mirror.start(SyncRequested("people"))
        await mirror.settle()
        sync.assert_status("completed")
    assert warehouse.seen("people") == NEW


@pytest.mark.parametrize(
    ("dataset", "why", "undone"),
    [
        ("broken", "a row of broken makes no sense", ["snapshots/take"]),
        ("twins", "two rows of twins have one name", ["transforms/transform", "snapshots/take"]),
    ],
)
async def test_rows_that_cannot_be_loaded(
    choreo_harness, warehouse: Warehouse, dataset: str, why: str, undone: list[str]
) -> None:
    """Readers see the old rows, and nothing is left of the new ones."""
    before = warehouse.sets()
    async with choreo_harness() as mirror:
        sync = await mirror.start(SyncRequested(dataset))
        await mirror.settle()
        sync.assert_status("compensated")
        sync.assert_undone(*undone)
        assert why in sync.view.reason
    assert warehouse.seen(dataset) == OLD
    assert warehouse.sets() == before


async def test_readers_are_switched_back(choreo_harness, warehouse: Warehouse) -> None:
    """The switch was made, and then nobody knows whether it was: readers see the old rows again."""
    async with choreo_harness() as mirror:
        mirror.fail("loads/switch", times=4, when="after effect", error=ConnectionError("no answer"))
        sync = await mirror.start(SyncRequested("people"))
        await mirror.settle()
        assert warehouse.seen("people") == NEW
        await mirror.finish()
        sync.assert_status("compensated")
        assert sync.undone[0] == "loads/switch"
    assert warehouse.seen("people") == OLD


async def test_a_restore_does_not_touch_a_newer_version(choreo_harness, warehouse: Warehouse) -> None:
    """Another synchronisation has switched in the meantime: its rows stay."""
    async with choreo_harness() as mirror:
        mirror.fail("loads/switch", times=4, when="after effect", error=ConnectionError("no answer"))
        first = await mirror.start(SyncRequested("people"))
        await mirror.settle()
        warehouse.put("newest", [{"name": "Kim", "born": "2001"}])
        warehouse.switch("newest switch", "people", "newest")
        await mirror.finish()
        first.assert_status("compensated")
    assert warehouse.seen("people") == [{"name": "Kim", "born": "2001"}]


async def test_a_database_that_hangs(choreo_harness, warehouse: Warehouse) -> None:
    """After five minutes the attempt is given up, and another one succeeds."""
    async with choreo_harness() as mirror:
        mirror.hang("loads/load")
        sync = await mirror.start(SyncRequested("people"))
        await mirror.finish()
        sync.assert_status("completed")
        assert sync.view.retries == 1
    assert warehouse.seen("people") == NEW
