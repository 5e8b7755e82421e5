"""An append-only file that ends in the middle of something, as after a loss of power."""

from __future__ import annotations

import os
import random
import shutil
import signal
from pathlib import Path

import pytest
from conftest import OwnBank, bank_stage
from fault_bank import Asked
from fault_services import Nursery
from fault_stage import Stage, until

from choreo.broker.engine import EngineProcess

pytestmark = [pytest.mark.anyio, pytest.mark.processes]

IDS = [f"s{number}" for number in range(60)]
#: How many bytes are missing at the end at most, and how many such ends are looked at.
LAST_BYTES, CUTS = 4096, int(os.environ.get("CHOREO_TEST_CUTS", "6"))


async def write_some(bank: Stage, server: EngineProcess) -> None:
    """Let sagas run, and kill the server in the midst of it."""
    service = bank.start_bank(lease=60, concurrency=4)
    for saga_id in IDS:
        await bank.choreo.start(Asked(), saga_id=saga_id)

    async def some_ended() -> bool:
        return sum(state == "completed" for state in (await bank.states(IDS)).values()) > 10

    await until(some_ended, "some sagas to end")
    os.kill(server.pid, signal.SIGKILL)
    service.kill()
    server.stop()


def cut_short(server: EngineProcess, folder: Path, missing: int) -> None:
    """Copy the server's data to ``folder``, without the last ``missing`` bytes that it wrote."""
    shutil.copytree(server.folder / "data", folder / "data")
    written = max((folder / "data").rglob("*.aof"), key=lambda path: path.stat().st_size)
    os.truncate(written, written.stat().st_size - missing)


async def torn(bank: Stage) -> list[str]:
    """Commits of which only a part is there: what was published, what is marked as done, what is pending."""
    keys, call = bank.topology.keys, bank.broker.connection.call
    found = []
    pending = {(each.stream, each.entry) for each in await bank.pending()}
    for participant, reads, writes in (("tills", "asks", "tills"), ("books", "tills", "books")):
        published = {each["cause"] for each in await bank.entries(keys.stream(0, writes))}
        for entry, flat in await call("XRANGE", keys.stream(0, reads), "-", "+"):
            event = dict(zip(flat[::2], flat[1::2], strict=True))
            saga_id, event_id = event[b"subject"].decode(), event[b"id"].decode()
            marked = await call("HEXISTS", keys.record(0, saga_id), f"d:{participant}:{event_id}")
            waits = (keys.stream(0, reads), entry.decode()) in pending
            if bool(marked) != (event_id in published) or (marked and waits):
                found.append(f"{participant} {saga_id}: done {marked}, published {event_id in published}, pending {waits}")
    return found


async def test_no_saga_is_torn(
    own_bank: OwnBank, tmp_path: Path, nursery: Nursery, server_binary: Path
) -> None:
    """Wherever the file ends, each commit is there as a whole or not at all, and every saga goes on to its end."""
    bank, server = own_bank
    await write_some(bank, server)
    chance, outcomes = random.Random(3), set()
    for missing in (0, LAST_BYTES, *chance.sample(range(1, LAST_BYTES), CUTS - 2)):
        folder = tmp_path / f"cut-{missing}"
        cut_short(server, folder, missing)
        with EngineProcess(folder, binary=server_binary) as copy:
            async with bank_stage(copy.url, "bank", folder / "bank", nursery) as rest:
                assert await torn(rest) == [], f"{missing} bytes are missing"
                known = await rest.emitted("Asked")
                outcomes.add(len(await rest.emitted("Taken")) + len(await rest.emitted("Noted")))
                rest.start_bank(lease=0.3)
                await rest.until_ended(known)
                assert await rest.emitted("Noted") == known == sorted(IDS)
                assert await rest.doubled() == []
                assert await rest.letters() == []
    assert len(outcomes) > 1, "no cut has cost a commit"
