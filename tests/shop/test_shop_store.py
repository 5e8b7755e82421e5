"""A participant's database: shared by threads and processes, from the first moment on."""

from __future__ import annotations

import sqlite3
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import closing
from multiprocessing import get_context
from pathlib import Path

import pytest
from shop_calls import charge, money, order

from choreo import Participant
from participants import payments
from participants.inventory import inventory
from participants.orders import orders
from participants.shipping import shipping
from participants.store import Store

THREADS = 8
PROCESSES = 4


def charge_in_process(folder: Path, numbers: list[int]) -> None:
    """What a worker process of its own does: open the store, perhaps for the first time, and charge."""
    with closing(payments.open_store(folder)) as store:
        for number in numbers:
            charge(store, order(number))


def test_processes_share_a_new_database(tmp_path: Path) -> None:
    """Processes that open a new store at once, and charge the same orders, charge each once."""
    numbers = list(range(25))
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        workers = [pool.submit(charge_in_process, tmp_path / "new", numbers) for _ in range(PROCESSES)]
        for worker in workers:
            worker.result(timeout=60)
    assert money(tmp_path / "new") == {f"order-{number}": (2400,) for number in numbers}


def test_many_open_a_new_database(tmp_path: Path) -> None:
    """A database that many open for the first time at the same moment is locked for none of them."""
    barrier = threading.Barrier(THREADS)

    def open_and_close(folder: Path) -> None:
        barrier.wait()
        payments.open_store(folder).close()

    with ThreadPoolExecutor(THREADS) as pool:
        for number in range(40):
            for opener in [pool.submit(open_and_close, tmp_path / str(number)) for _ in range(THREADS)]:
                opener.result()


def test_transactions_follow_one_another(tmp_path: Path) -> None:
    """What a transaction has read is still true when it writes, whatever other threads do meanwhile."""
    with closing(Store("counter", "CREATE TABLE IF NOT EXISTS counter (n INTEGER)", tmp_path)) as store:
        with store.transaction() as db:
            db.execute("INSERT INTO counter VALUES (0)")

        def count(_: int) -> None:
            with store.transaction() as db:
                (n,) = db.execute("SELECT n FROM counter").fetchone()
                db.execute("UPDATE counter SET n = ?", (n + 1,))

        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(count, range(200)))
        with store.transaction() as db:
            assert db.execute("SELECT n FROM counter").fetchone() == (200,)


def test_failed_transaction_leaves_nothing(stores: dict[str, Store], tmp_path: Path) -> None:
    """A block that raises changes nothing, and does not keep the next one waiting."""
    with pytest.raises(RuntimeError), stores["payments"].transaction() as db:
        db.execute("UPDATE accounts SET cents = 1")
        raise RuntimeError
    assert payments.totals(tmp_path).merchant == 0
    charge(stores["payments"], order())
    assert money(tmp_path) == {"order-1": (2400,)}


@pytest.mark.anyio
@pytest.mark.parametrize(
    "participant", [orders, payments.payments, inventory, shipping], ids=lambda participant: participant.name
)
async def test_lifespan(participant: Participant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker's store lies under the current directory, and is closed when the worker ends."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CHOREO_SHOP_DATA", raising=False)
    assert participant.lifespan is not None
    async with participant.lifespan() as store:
        assert (tmp_path / ".choreo" / "shop" / f"{participant.name}.sqlite3").exists()
        with store.transaction() as db:
            pass
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        db.execute("SELECT 1")


def test_folder_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CHOREO_SHOP_DATA says in which folder the stores are."""
    monkeypatch.setenv("CHOREO_SHOP_DATA", str(tmp_path / "elsewhere"))
    assert payments.totals().conserved
    assert (tmp_path / "elsewhere" / "payments.sqlite3").exists()
