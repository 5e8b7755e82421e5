"""What the embedded engine keeps in its folder, and who holds it.

===============  =====================================================================================
``engine.lock``  locked by the process that owns the engine; names it and the socket of its server
``server.lock``  locked by the server itself, which inherits the lock, for as long as it lives
``engine.json``  how other processes find a running engine; see :func:`discover`
``engine.sock``  the server's socket; elsewhere, if this path is too long for a socket
``server.log``   what the server says, of all runs
``data/``        the append-only file, and the name of the server that last used it
===============  =====================================================================================

Two locks, because either process can be killed without the other. Both vanish with their holders, so
nothing that a crash leaves behind can keep an engine from starting, and never do two servers write to
one append-only file.

POSIX only: it needs unix sockets and ``flock``.
"""

from __future__ import annotations

import fcntl
import os
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO
from urllib.parse import unquote, urlsplit

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from choreo.errors import EngineError

#: Bytes that the path of a unix socket may have: 103 on macOS, 107 on Linux.
MAX_SOCKET_BYTES = 103
#: Seconds that a server gets to end by itself.
STOP_SECONDS = 5.0
#: Seconds between two looks at something that is waited for.
POLL_SECONDS = 0.02

_SOCKET_NAME = "engine.sock"
_SOCKET_FOLDER_PREFIX = "choreo-"


class Owner(msgspec.Struct):
    """What ``engine.lock`` says: the process that owns the engine, and where its server listens."""

    pid: int
    socket: str


class Announcement(msgspec.Struct):
    """What ``engine.json`` says: where the server listens, its process, its name and version."""

    url: str
    pid: int
    server: str


def discover(folder: Path) -> str | None:
    """The url of the engine that is running in ``folder``, or None. Told by its socket, not by its files."""
    try:
        url = _announcement(folder).url
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            probe.connect(unquote(urlsplit(url).path))
    except (OSError, ValueError):
        return None
    return url


@contextmanager
def announced(folder: Path, said: Announcement) -> Iterator[None]:
    """Let other processes find the engine. They see the whole file or none."""
    file = folder / "engine.json"
    new = file.with_suffix(".new")
    new.write_bytes(msgspec.json.encode(said))
    new.replace(file)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


@contextmanager
def owned(folder: Path) -> Iterator[IO[bytes]]:
    """Hold ``engine.lock``, as :func:`last_owner` and :func:`write_owner` take it.

    Children do not inherit it: it says that the *owner* lives.

    Raises:
        EngineError: another process holds it; the message names it.
    """
    with open(folder / "engine.lock", "a+b") as file:
        if not _lock(file):
            owner = last_owner(file)
            who = f"process {owner.pid}" if owner else "another process"
            url = discover(folder)
            raise EngineError(
                f"{who} already runs an engine in {folder}; stop it first, or "
                + (f"use it as it is: {url}" if url else "use another folder")
            )
        yield file
        file.truncate(0)


def last_owner(file: IO[bytes]) -> Owner | None:
    """Who held ``engine.lock`` last, if it was killed; who holds it, if someone does."""
    file.seek(0)
    try:
        return msgspec.json.decode(file.read(), type=Owner)
    except ValueError:
        return None


def write_owner(file: IO[bytes], owner: Owner) -> None:
    """Say in ``engine.lock``, which this process holds, who owns the engine."""
    file.truncate(0)
    file.write(msgspec.json.encode(owner))
    file.flush()


@contextmanager
def server_lock(folder: Path, last: Owner | None) -> Iterator[IO[bytes]]:
    """Hold ``server.lock``, for the server to inherit.

    Who holds it already is a server whose owner was killed: it is shut down.

    Raises:
        EngineError: it does not shut down.
    """
    path = Path(last.socket) if last else folder / _SOCKET_NAME
    patient_until = time.monotonic() + STOP_SECONDS
    with open(folder / "server.lock", "ab") as file:
        while not _lock(file):
            if time.monotonic() > patient_until:
                raise EngineError(
                    f"a server of an earlier run ({_leftover(folder, path)}) still works in {folder} "
                    "and does not shut down; end it first"
                )
            with suppress(RedisError, AttributeError), client(path) as leftover:
                leftover.shutdown()
            time.sleep(POLL_SECONDS)
        _remove_made_socket_folder(folder, path)
        yield file


def _leftover(folder: Path, path: Path) -> str:
    try:
        return f"process {_announcement(folder).pid}"
    except (OSError, ValueError):
        return f"listening on {path}"


def _remove_made_socket_folder(folder: Path, path: Path) -> None:
    """Remove what :func:`socket_path` made for an owner that was killed."""
    if path.parent != folder and path.parent.name.startswith(_SOCKET_FOLDER_PREFIX):
        with suppress(OSError):
            path.unlink(missing_ok=True)
            path.parent.rmdir()


@contextmanager
def socket_path(folder: Path) -> Iterator[Path]:
    """Where the server shall listen: in ``folder`` or, if that is too long, in a folder made for it.

    Raises:
        EngineError: the folder for temporary files is too long, too.
    """
    path = folder / _SOCKET_NAME
    with ExitStack() as stack:
        if len(os.fsencode(path)) > MAX_SOCKET_BYTES:
            made = tempfile.TemporaryDirectory(prefix=_SOCKET_FOLDER_PREFIX)  # mode 700
            path = Path(stack.enter_context(made)) / _SOCKET_NAME
        if len(os.fsencode(path)) > MAX_SOCKET_BYTES:
            raise EngineError(
                f"{path} is too long for a socket ({MAX_SOCKET_BYTES} bytes); set TMPDIR to a shorter folder"
            )
        yield path
        path.unlink(missing_ok=True)


def client(path: Path) -> redis.Redis:
    """A client of the server that listens on ``path``. It never sends a command twice."""
    return redis.Redis(
        unix_socket_path=str(path), socket_timeout=STOP_SECONDS, protocol=2, retry=Retry(NoBackoff(), 0)
    )


def _announcement(folder: Path) -> Announcement:
    return msgspec.json.decode((folder / "engine.json").read_bytes(), type=Announcement)


def _lock(file: IO[bytes]) -> bool:
    """Whether the lock on ``file`` could be had. ``flock`` also keeps one process from having it twice."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
