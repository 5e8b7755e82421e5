"""The embedded engine, run as a real server, on every server there is."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import anyio
import anyio.to_thread
import pytest
import redis

from choreo.broker.engine import Engine, EngineProcess, discover
from choreo.errors import EngineError

#: Seconds that anything here may take before the test fails.
PATIENCE = 20.0
OWNER_PROGRAM = """
import sys, time
from pathlib import Path
from choreo.broker.engine import EngineProcess
engine = EngineProcess(Path(sys.argv[1]), binary=Path(sys.argv[2]))
engine.start()
print(engine.url, flush=True)
time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "engine"


@contextmanager
def owning(folder: Path, binary: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that owns an engine in ``folder``, to be killed."""
    command = [sys.executable, "-c", OWNER_PROGRAM, str(folder), str(binary)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline().startswith("unix:///")
            yield process
        finally:
            process.kill()


@pytest.fixture
def owner(folder: Path, server_binary: Path) -> Iterator[subprocess.Popen[str]]:
    with owning(folder, server_binary) as process:
        yield process
    with EngineProcess(folder, binary=server_binary):
        pass  # it ends the server that the killed owner left behind


@pytest.fixture
def silent_server(tmp_path: Path) -> Path:
    """A program that never answers; it writes its pid beside itself."""
    program, pid = tmp_path / "silent", tmp_path / "pid"
    program.write_text(f"#!/bin/sh\necho $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 600\n")
    program.chmod(0o755)
    return program


def assert_gone(pid: int) -> None:
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def client(url: str) -> redis.Redis:
    return redis.Redis.from_url(url, protocol=2, decode_responses=True)


def value_at(url: str, key: str) -> str | None:
    with client(url) as server:
        return server.get(key)


def store(url: str, key: str, value: str) -> None:
    with client(url) as server:
        server.set(key, value)


def run_id(url: str) -> str:
    with client(url) as server:
        return server.info("server")["run_id"]


def wait_until(condition: Callable[[], bool]) -> None:
    patient_until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < patient_until, f"waited in vain for {condition}"
        time.sleep(0.01)


def setting(url: str, name: str) -> str:
    with client(url) as server:
        return server.config_get(name)[name]


@pytest.mark.anyio
async def test_the_engine_serves_with_an_append_only_file_on_a_socket_alone(
    folder: Path, server_binary: Path
) -> None:
    """It listens on no port, only on a socket of its user, and writes an append-only file each second."""
    async with Engine(folder, binary=server_binary) as engine:
        wanted = {
            "port": "0",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "dir": str(folder / "data"),
        }
        assert {name: setting(engine.url, name) for name in wanted} == wanted
        assert stat.S_IMODE((folder / "engine.sock").stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "data").stat().st_mode) == 0o700


def test_the_engine_says_which_server_it_runs(folder: Path, server_binary: Path, server_name: str) -> None:
    """``server`` is the server's name and version, ``pid`` its process."""
    with EngineProcess(folder, binary=server_binary) as engine:
        name, version = engine.server.split(" ")
        assert name == server_name
        with client(engine.url) as server:
            info = server.info("server")
        assert version == info[f"{name}_version"]
        assert engine.pid == info["process_id"]


@pytest.mark.anyio
async def test_others_find_the_engine_while_it_runs(folder: Path, server_binary: Path) -> None:
    """``discover`` gives the url from start to stop; no file is left that says otherwise."""
    assert discover(folder) is None
    async with Engine(folder, binary=server_binary) as engine:
        assert discover(folder) == engine.url
    assert discover(folder) is None
    assert not (folder / "engine.json").exists()
    assert not (folder / "engine.sock").exists()


@pytest.mark.anyio
async def test_data_survive_a_restart(folder: Path, server_binary: Path) -> None:
    """What one engine stored is there in the next one on the same folder."""
    async with Engine(folder, binary=server_binary) as engine:
        store(engine.url, "order", "shipped")
    async with Engine(folder, binary=server_binary) as engine:
        assert value_at(engine.url, "order") == "shipped"


def test_data_survive_a_killed_server(folder: Path, server_binary: Path) -> None:
    """SIGKILL for the server loses nothing that it has answered; the next engine needs no repair."""
    with EngineProcess(folder, binary=server_binary) as engine:
        for number in range(100):
            store(engine.url, f"order-{number}", "placed")
        os.kill(engine.pid, signal.SIGKILL)
        wait_until(lambda: not engine.alive)
        assert discover(folder) is None
    with EngineProcess(folder, binary=server_binary) as engine:
        assert all(value_at(engine.url, f"order-{number}") == "placed" for number in range(100))


def test_an_append_only_file_that_was_cut_off_is_loaded(folder: Path, server_binary: Path) -> None:
    """A power cut may leave half a command at the end; what stands before it is kept."""
    with EngineProcess(folder, binary=server_binary) as engine:
        store(engine.url, "order", "shipped")
    (increment,) = (folder / "data" / "appendonlydir").glob("*.incr.aof")
    with increment.open("ab") as file:
        file.write(b"*3\r\n$3\r\nSET\r\n$5\r\nor")
    with EngineProcess(folder, binary=server_binary) as engine:
        assert value_at(engine.url, "order") == "shipped"


def test_the_engine_waits_until_the_data_are_loaded(folder: Path, server_binary: Path) -> None:
    """A server that still loads its data refuses commands; the engine is not there before it serves."""
    with EngineProcess(folder, binary=server_binary) as engine, client(engine.url) as server:
        server.eval("for i = 1, 30000 do redis.call('SET', 'order-' .. i, 'placed') end", 0)
    slowly = {"key-load-delay": "-2"}  # the server rests after every second key
    started = time.monotonic()
    with EngineProcess(folder, binary=server_binary, extra=slowly) as engine:
        assert time.monotonic() - started > 0.5
        assert value_at(engine.url, "order-30000") == "placed"


def test_a_long_path_gets_its_socket_elsewhere(tmp_path: Path, server_binary: Path) -> None:
    """A path that is too long for a socket works, with blanks and signs that urls treat specially, too."""
    folder = tmp_path / ("a long path?#%20 " * 8) / "engine"
    with EngineProcess(folder, binary=server_binary) as engine:
        path = Path(unquote(urlsplit(engine.url).path))
        assert not path.is_relative_to(folder)
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert discover(folder) == engine.url
        store(engine.url, "order", "shipped")
    assert not path.parent.exists()
    with EngineProcess(folder, binary=server_binary) as engine:
        assert value_at(engine.url, "order") == "shipped"


def test_a_path_with_signs_that_urls_treat_specially(tmp_path: Path, server_binary: Path) -> None:
    """The socket's path is quoted in the url, so that every client finds it."""
    with EngineProcess(tmp_path / "a b?c#d%20é", binary=server_binary) as engine:
        store(engine.url, "order", "shipped")
        assert value_at(engine.url, "order") == "shipped"
        assert discover(tmp_path / "a b?c#d%20é") == engine.url


@pytest.mark.anyio
async def test_one_engine_per_folder(folder: Path, server_binary: Path) -> None:
    """A second engine on the folder is refused, also in the same process; the first goes on."""
    async with Engine(folder, binary=server_binary) as engine:
        store(engine.url, "order", "placed")
        with pytest.raises(EngineError, match=f"process {os.getpid()} already runs an engine in {folder}"):
            async with Engine(folder, binary=server_binary):
                pass
        assert value_at(engine.url, "order") == "placed"
        assert discover(folder) == engine.url


def test_the_owner_of_the_folder_is_named(
    folder: Path, server_binary: Path, owner: subprocess.Popen[str]
) -> None:
    """Who is told that the folder is taken is told by which process, and how to use the engine."""
    with pytest.raises(EngineError, match=rf"process {owner.pid} already runs .* use it as it is: unix:///"):
        EngineProcess(folder, binary=server_binary).start()


def test_a_killed_owner_leaves_a_server_that_the_next_engine_shuts_down(
    folder: Path, server_binary: Path, owner: subprocess.Popen[str]
) -> None:
    """Only one server ever writes to the data: the old one is ended, and all that it stored is there."""
    old_url = discover(folder)
    assert old_url is not None
    old_run = run_id(old_url)
    owner.kill()
    owner.wait(PATIENCE)
    store(old_url, "order", "stored after the owner was gone")
    with EngineProcess(folder, binary=server_binary) as engine:
        assert run_id(engine.url) != old_run
        assert value_at(engine.url, "order") == "stored after the owner was gone"
    assert (folder / "server.log").read_text().count("ready to exit, bye bye") == 2


def test_a_leftover_server_on_a_socket_elsewhere_is_shut_down(tmp_path: Path, server_binary: Path) -> None:
    """The next engine knows where a killed owner's server listens, and removes the socket's folder."""
    folder = tmp_path / ("long" * 30)
    with owning(folder, server_binary):
        url = discover(folder)
        assert url is not None
    store(url, "order", "shipped")
    with EngineProcess(folder, binary=server_binary) as engine:
        assert value_at(engine.url, "order") == "shipped"
    assert not Path(urlsplit(url).path).parent.exists()


def test_a_leftover_server_that_does_not_react_is_named(
    folder: Path, server_binary: Path, owner: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two servers on one append-only file would ruin it, so the engine does not start beside it."""
    monkeypatch.setattr("choreo.broker.engine_folder.STOP_SECONDS", 0.3)
    url = discover(folder)
    assert url is not None
    with client(url) as server:
        leftover = server.info("server")["process_id"]
    owner.kill()
    owner.wait(PATIENCE)
    os.kill(leftover, signal.SIGSTOP)
    try:
        with pytest.raises(EngineError, match=rf"\(process {leftover}\) still works in {folder}"):
            EngineProcess(folder, binary=server_binary).start()
    finally:
        os.kill(leftover, signal.SIGCONT)
    with EngineProcess(folder, binary=server_binary) as engine:
        assert engine.pid != leftover


@pytest.mark.parametrize(
    "left", ['{"url": "unix:///nowhere/engine.sock", "pid": 1, "server": "redis 7"}', "{", ""]
)
def test_what_a_crash_left_in_the_folder_is_no_obstacle(folder: Path, server_binary: Path, left: str) -> None:
    """Neither stale nor broken files keep an engine from starting, or others from the truth."""
    folder.mkdir()
    for name in ("engine.json", "engine.lock", "server.lock", "engine.sock"):
        (folder / name).write_text(left)
    assert discover(folder) is None
    with EngineProcess(folder, binary=server_binary) as engine:
        assert discover(folder) == engine.url


def test_a_socket_that_nobody_listens_on_is_not_an_engine(folder: Path, server_binary: Path) -> None:
    """A killed server leaves its socket and its announcement; ``discover`` is not taken in."""
    with EngineProcess(folder, binary=server_binary) as engine:
        os.kill(engine.pid, signal.SIGKILL)
        wait_until(lambda: not engine.alive)
        assert (folder / "engine.json").exists()
        assert (folder / "engine.sock").exists()
        assert discover(folder) is None


def test_a_server_that_does_not_start_says_why(folder: Path, server_binary: Path) -> None:
    """The error shows the end of this run's log; the folder is free for the next try."""
    folder.mkdir()
    (folder / "server.log").write_text("what an earlier run said\n")
    with pytest.raises(EngineError, match=r"ended with code 1 .*server\.log") as caught:
        EngineProcess(folder, binary=server_binary, extra={"maxmemory-policy": "nonsense"}).start()
    assert "maxmemory-policy" in str(caught.value)
    assert "earlier run" not in str(caught.value)
    with EngineProcess(folder, binary=server_binary):
        pass


def test_data_that_cannot_be_loaded_are_kept(folder: Path, server_binary: Path) -> None:
    """A server that cannot read the data does not start and changes nothing.

    The error names the file, and the server that wrote it: perhaps only the server has changed.
    """
    with EngineProcess(folder, binary=server_binary) as engine:
        store(engine.url, "order", "shipped")
        last_server = engine.server
    (increment,) = (folder / "data" / "appendonlydir").glob("*.incr.aof")
    broken = b"this is no append-only file\r\n" + increment.read_bytes()
    increment.write_bytes(broken)
    with pytest.raises(EngineError, match=increment.name) as caught:
        EngineProcess(folder, binary=server_binary).start()
    assert f"last used by {last_server}" in str(caught.value)
    assert increment.read_bytes() == broken


def test_a_server_that_never_answers(
    folder: Path, silent_server: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A program that is no server is given up, and does not stay behind."""
    monkeypatch.setattr("choreo.broker.engine.START_SECONDS", 0.5)
    with pytest.raises(EngineError, match="did not answer"):
        EngineProcess(folder, binary=silent_server).start()
    assert_gone(int(silent_server.with_name("pid").read_text()))


@pytest.mark.parametrize("name", ["missing", "not-a-program"])
def test_a_binary_that_cannot_be_run(folder: Path, name: str) -> None:
    """A wrong path to the server is an error that names it."""
    folder.mkdir()
    (folder / "not-a-program").write_text("x")
    with pytest.raises(EngineError, match=name):
        EngineProcess(folder, binary=folder / name).start()


def test_a_folder_that_cannot_be_used(folder: Path, server_binary: Path) -> None:
    """A file where the folder should be is an error that names it."""
    folder.write_text("a file")
    with pytest.raises(EngineError, match=str(folder)):
        EngineProcess(folder, binary=server_binary).start()


def test_a_server_that_ignores_the_request_to_end_is_killed(
    folder: Path, server_binary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopping takes seconds at most, whatever the server does."""
    monkeypatch.setattr("choreo.broker.engine.STOP_SECONDS", 0.2)
    engine = EngineProcess(folder, binary=server_binary)
    engine.start()
    pid = engine.pid
    os.kill(pid, signal.SIGSTOP)
    engine.stop()
    assert_gone(pid)


def test_ctrl_c_does_not_reach_the_server(folder: Path, server_binary: Path) -> None:
    """The server has a session of its own: signals from the terminal go to the owner alone."""
    with EngineProcess(folder, binary=server_binary) as engine:
        assert os.getsid(engine.pid) == engine.pid


def test_an_engine_can_be_started_again(folder: Path, server_binary: Path) -> None:
    """After ``stop`` the same object starts anew, on the same data; stopping twice does no harm."""
    engine = EngineProcess(folder, binary=server_binary)
    engine.start()
    store(engine.url, "order", "shipped")
    engine.stop()
    engine.stop()
    assert not engine.alive
    with engine:
        assert value_at(engine.url, "order") == "shipped"


def test_an_engine_that_was_not_started_has_no_url(folder: Path, server_binary: Path) -> None:
    """Asking too early is an error, and so is starting twice, which leaves the engine running."""
    engine = EngineProcess(folder, binary=server_binary)
    with pytest.raises(EngineError, match="has not been started"):
        _ = engine.url
    with engine:
        with pytest.raises(EngineError, match="already been started"):
            engine.start()
        assert engine.alive


@pytest.mark.anyio
async def test_a_cancelled_start_leaves_nothing_behind(folder: Path, silent_server: Path) -> None:
    """Cancelling while the server starts ends it at once, and frees the folder."""
    begun = silent_server.with_name("pid")
    with anyio.fail_after(PATIENCE):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Engine(folder, binary=silent_server).__aenter__)
            await anyio.to_thread.run_sync(wait_until, begun.exists)
            tasks.cancel_scope.cancel()
    assert_gone(int(begun.read_text()))


def test_of_many_at_once_one_gets_the_folder(folder: Path, server_binary: Path) -> None:
    """Eight engines race for one folder: one starts, seven are told that it is taken."""
    engines = [EngineProcess(folder, binary=server_binary) for _ in range(8)]
    refused: list[EngineError] = []

    def start(engine: EngineProcess) -> None:
        try:
            engine.start()
        except EngineError as error:
            refused.append(error)

    threads = [threading.Thread(target=start, args=[engine]) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    alive = [engine for engine in engines if engine.alive]
    for engine in engines:
        engine.stop()
    assert len(alive) == 1
    assert len(refused) == 7
    assert all("already runs an engine" in str(error) for error in refused)
