"""The reference shop under random schedules and faults: its books are right, whatever happens."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from shop_load import order, order_id, unbalanced

from choreo.testing import Harness, explore, rehearse
from choreo.testing.casting import cast
from choreo.testing.matrix import cases_of
from choreo.testing.trials import Invariant, MakeHarness, Verdict
from participants import inventory, orders, payments, shipping
from participants.store import FOLDER_VARIABLE

ROOT = Path(__file__).resolve().parents[2]

#: How many seeds there are, and in how many tests they are explored, for several processes to share.
SEEDS, SHARES = int(os.environ.get("CHOREO_SHOP_SEEDS", "2000")), 8
#: The orders of a run, in turn: such as ship, and such as fail, each at another step.
ORDERS = ((1,), (0,), (1,), (3,), (1, 2), (6,), (1,), (9,), (1,), (12, 1))


@pytest.fixture(scope="module")
def empty_books() -> Iterator[Path]:
    """Databases of all participants in which nothing has happened; in memory where the system has a place."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with TemporaryDirectory(dir=memory) as folder:
        for module in (orders, payments, inventory, shipping):
            module.open_store(Path(folder) / "empty").close()
        yield Path(folder) / "empty"


def books_are_right(empty: Path) -> Invariant:
    """The shop's invariant, on books that are copied anew for each run."""
    async def invariant(make: MakeHarness) -> None:
        books = empty.parent / "books"
        shutil.rmtree(books, ignore_errors=True)
        shutil.copytree(empty, books)
        os.environ[FOLDER_VARIABLE] = str(books)
        async with make() as shop:
            for number in ORDERS[shop.seed % len(ORDERS)]:
                await shop.start(order(number), saga_id=order_id(number))
            await shop.finish()
            check(shop, books)

    return invariant


def check(shop: Harness, books: Path) -> None:
    """Every saga has ended; where no operator is called for, exactly what was sold is paid and gone."""
    for saga in shop.sagas:
        # A step that gives up on the way back, or after the end, is an operator's business.
        saga.assert_status("completed", "compensated", *(["failed"] if saga.dead_letters else []))
    ended = {number: shop.saga(order_id(number)).status for number in ORDERS[shop.seed % len(ORDERS)]}
    shipped = [number for number, status in ended.items() if status == "completed"]
    assert payments.totals(books).conserved
    assert inventory.totals(books).conserved
    if not any(saga.dead_letters for saga in shop.sagas):
        assert unbalanced(books, shipped) == ""


@pytest.mark.parametrize("share", range(SHARES))
def test_the_shop_is_sound(share: int, empty_books: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Money, goods and carriers are accounted for under two thousand seeds."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(empty_books))
    seeds = range(share * SEEDS // SHARES, (share + 1) * SEEDS // SHARES)
    found = explore(books_are_right(empty_books), seeds, source=ROOT / "streams.yaml")
    assert found.runs == len(seeds)
    assert sum(found.faults.values()) > len(seeds)


def test_the_shop_is_sound_under_every_single_fault(
    empty_books: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each case of the shop's matrix that an order which ships comes across."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(empty_books))
    shop = cast(ROOT / "streams.yaml")
    trials = [
        (case.name, trial)
        for case, trial in rehearse(books_are_right(empty_books), cases_of(shop, shop.topology))
    ]
    violated = {name: trial.error for name, trial in trials if trial.verdict is Verdict.VIOLATED}
    assert violated == {}
    assert sum(trial.verdict is Verdict.HELD for _, trial in trials) > 100
