"""Answers from the bytes that the server sends (RESP2), in whatever pieces they arrive."""

from __future__ import annotations

from typing import Any, Final, Protocol

from redis.exceptions import InvalidResponse, ResponseError

#: Stands for an answer that has not arrived in full.
MISSING: Final[Any] = object()


class Unpacker(Protocol):
    """Takes bytes, and gives answers: bytes, numbers, ``None``, lists of such, and errors of the server's."""

    def feed(self, data: bytes, /) -> None:
        """Take what has arrived."""

    def gets(self) -> Any:
        """The next answer, or ``MISSING``.

        Raises:
            InvalidResponse: if what has arrived is no answer.
        """

    def has_data(self) -> bool:
        """Whether more has arrived than was given."""


class _UnpackerInPython:
    """For where hiredis is not installed."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at = 0
        #: Lists that are not complete yet, the inner behind the outer, and how long each will be.
        self._lists: list[tuple[list[Any], int]] = []

    def feed(self, data: bytes, /) -> None:
        del self._buffer[: self._at]
        self._at = 0
        self._buffer += data

    def has_data(self) -> bool:
        return len(self._buffer) > self._at

    def gets(self) -> Any:
        while (item := self._next_item()) is not MISSING:
            while self._lists:
                items, size = self._lists[-1]
                if item is not items:  # else it has just begun
                    items.append(item)
                if len(items) < size:
                    break
                self._lists.pop()
                item = items
            else:
                return item
        return MISSING

    def _next_item(self) -> Any:
        """The next value that is no list, or a list of which nothing is there yet."""
        buffer, begin = self._buffer, self._at
        end = buffer.find(b"\r\n", begin)
        if end < 0:
            return MISSING
        kind, line, after = buffer[begin : begin + 1], buffer[begin + 1 : end], end + 2
        item: Any
        if kind == b"$":
            size = _number(line)
            stop = after + size
            if size < 0:
                item = None
            elif len(buffer) < stop + 2:
                return MISSING
            else:
                item, after = bytes(buffer[after:stop]), stop + 2
        elif kind == b"*":
            item = self._begin_list(_number(line))
        elif kind == b":":
            item = _number(line)
        elif kind == b"+":
            item = bytes(line)
        elif kind == b"-":
            item = ResponseError(line.decode("utf-8", "replace"))
        else:
            raise InvalidResponse(f"the server's answer begins with {bytes(buffer[begin:end])!r:.50}")
        self._at = after
        return item

    def _begin_list(self, size: int) -> list[Any] | None:
        if size < 0:
            return None
        items: list[Any] = []
        self._lists.append((items, size))
        return items


def _number(line: bytearray) -> int:
    try:
        return int(line)
    except ValueError:
        raise InvalidResponse(f"the server's answer has {bytes(line)!r:.50} for a number") from None


def make_unpacker() -> Unpacker:
    """One for a new connection. In C if hiredis is installed."""
    try:
        from hiredis import Reader
    except ImportError:
        return _UnpackerInPython()
    reader: Unpacker = Reader(protocolError=InvalidResponse, replyError=ResponseError, notEnoughData=MISSING)
    return reader
