"""Answers from bytes: the same with hiredis and without, in whatever pieces they arrive."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import InvalidResponse, ResponseError

from choreo.broker.unpacking import MISSING, Unpacker, _UnpackerInPython, make_unpacker


def _in_c() -> Unpacker:
    pytest.importorskip("hiredis")
    return make_unpacker()


@pytest.fixture(params=[_in_c, _UnpackerInPython], ids=["C", "Python"])
def make(request: pytest.FixtureRequest) -> Callable[[], Unpacker]:
    """Unpacking with hiredis, and without."""
    made: Callable[[], Unpacker] = request.param
    made()
    return made


def told(answer: Any) -> bytes:
    """What a server sends."""
    if answer is None:
        return b"$-1\r\n"
    if isinstance(answer, bytes):
        return b"$%d\r\n%b\r\n" % (len(answer), answer)
    if isinstance(answer, int):
        return b":%d\r\n" % answer
    return b"*%d\r\n" % len(answer) + b"".join(map(told, answer))


ANSWERS = st.recursive(
    st.none() | st.binary(max_size=20) | st.integers(-(2**63), 2**63 - 1),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)


@given(answers=st.lists(ANSWERS, max_size=4), cuts=st.lists(st.integers(0, 200), max_size=6))
def test_answers_in_pieces(answers: list[Any], cuts: list[int]) -> None:
    """Wherever the stream of bytes is cut, the same answers come out, and each as soon as it is complete."""
    stream = b"".join(map(told, answers))
    unpacker = _UnpackerInPython()
    found, last = [], 0
    for cut in [*sorted(cut for cut in cuts if cut < len(stream)), len(stream)]:
        unpacker.feed(stream[last:cut])
        last = cut
        while (answer := unpacker.gets()) is not MISSING:
            found.append(answer)
        complete = [number for number in range(len(answers) + 1) if len(b"".join(map(told, answers[:number]))) <= cut]
        assert len(found) == complete[-1]
    assert found == answers


@pytest.mark.parametrize(
    ("stream", "answer"),
    [
        (b"+OK\r\n", b"OK"),
        (b"+\r\n", b""),
        (b"*-1\r\n", None),
        (b"*0\r\n", []),
        (b"*2\r\n*0\r\n$0\r\n\r\n", [[], b""]),
        (b"*1\r\n*1\r\n*1\r\n:-7\r\n", [[[-7]]]),
    ],
)
def test_answers_of_every_kind(make: Callable[[], Unpacker], stream: bytes, answer: Any) -> None:
    """Byte by byte, and nothing is left behind the last byte."""
    unpacker = make()
    for at in range(len(stream)):
        assert unpacker.gets() is MISSING
        unpacker.feed(stream[at : at + 1])
    assert unpacker.has_data()
    assert unpacker.gets() == answer
    assert unpacker.gets() is MISSING
    assert not unpacker.has_data()


def test_errors_are_values(make: Callable[[], Unpacker]) -> None:
    """Also within a list; they say all that the server said, its code included."""
    unpacker = make()
    unpacker.feed(b"*2\r\n-NOPERM no\r\n+OK\r\n-NOSCRIPT none\r\n")
    (first, second), last = unpacker.gets(), unpacker.gets()
    assert second == b"OK"
    assert [type(first), type(last)] == [ResponseError] * 2
    assert [str(first), str(last)] == ["NOPERM no", "NOSCRIPT none"]


@pytest.mark.parametrize("stream", [b"?3\r\n", b"HTTP/1.1 400 Bad Request\r\n", b"$x\r\n", b"*x\r\n", b":x\r\n"])
def test_what_is_no_answer(make: Callable[[], Unpacker], stream: bytes) -> None:
    """Whoever speaks something else is no server of ours."""
    unpacker = make()
    unpacker.feed(stream)
    with pytest.raises(InvalidResponse):
        unpacker.gets()
