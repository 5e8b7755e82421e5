"""Commands as bytes: the same with hiredis and without, and what cannot be sent is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from redis.asyncio.connection import Connection
from redis.exceptions import DataError

from choreo.broker import packing

COMMANDS = [
    ("PING",),
    ("XADD", "{shop:1}:stream:payments", "*", "data", b"\x00\xff\r\n", "größe", 17, -1, 0),
    ("SET", "key", b""),
    ("CLIENT", "SETINFO", "LIB-NAME", "choreo"),
]


@pytest.fixture(params=["C", "Python"])
def pack(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[[tuple[Any, ...]], bytes]:
    """Packing with hiredis, and without."""
    if request.param == "C":
        pytest.importorskip("hiredis")
    else:
        monkeypatch.setattr(packing, "_pack", packing._pack_in_python)
    return packing.pack


@pytest.mark.parametrize("command", COMMANDS)
def test_packs_as_the_client_library_does(pack: Callable[[tuple[Any, ...]], bytes], command: Any) -> None:
    """The server gets the bytes that the client library would have sent."""
    assert pack(command) == b"".join(Connection().pack_command(*command))


@pytest.mark.parametrize("wrong", [None, True, [1], {"a": 1}, object()])
def test_refuses_what_is_no_text_and_no_number(pack: Callable[[tuple[Any, ...]], bytes], wrong: Any) -> None:
    """It is the same error as the client library's, so that one bad decision is told from a lost server."""
    with pytest.raises(DataError):
        pack(("SET", "key", wrong))


def test_refuses_what_utf8_cannot_carry(pack: Callable[[tuple[Any, ...]], bytes]) -> None:
    """A lone surrogate, as file names may hold."""
    with pytest.raises(UnicodeError):
        pack(("SET", "key", "\ud800"))
