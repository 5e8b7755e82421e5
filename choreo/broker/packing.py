"""Commands as the bytes that the server reads. The client library's own way takes several times as long."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, cast

from redis.exceptions import DataError

#: A command's name and its arguments.
Command: TypeAlias = Sequence[str | bytes | int]

_Pack: TypeAlias = Callable[[tuple[Any, ...]], bytes]


def _pack_in_python(command: tuple[Any, ...]) -> bytes:
    parts = [b"*%d\r\n" % len(command)]
    for each in command:
        if isinstance(each, str):
            each = each.encode()
        elif not isinstance(each, bytes):
            each = _number(each)
        parts.append(b"$%d\r\n%b\r\n" % (len(each), each))
    return b"".join(parts)


def _number(value: object) -> bytes:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{type(value).__name__} cannot be sent")
    return str(value).encode()


def _find_packer() -> _Pack:
    try:
        from hiredis import pack_command
    except ImportError:
        return _pack_in_python
    return cast("_Pack", pack_command)


_pack = _find_packer()


def pack(command: tuple[Any, ...]) -> bytes:
    """A command of strings, bytes and numbers.

    Raises:
        DataError: if something is of another type.
        UnicodeError: if a string cannot be UTF-8.
    """
    try:
        return _pack(command)
    except TypeError as error:
        raise DataError(f"this cannot be sent: {error}") from error
