"""Waiting for a server: what is said about it, and how long it takes."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from functools import partial

import anyio
import pytest

from choreo.broker.patience import FIRST_PAUSE, LONGEST_PAUSE, Outage, Patience, Persistence, pause_after
from choreo.errors import BrokerUnavailable

pytestmark = pytest.mark.anyio

logger = logging.getLogger("choreo.test")


def parts(*names: str) -> list[Patience]:
    outage = Outage(logger, "payments")
    return [Patience(logger, name, outage) for name in names]


def test_pauses_grow_up_to_a_limit() -> None:
    """Each is random between half and the whole of what has doubled; no failure too many overflows."""
    for failures in range(100):
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2**failures)
        assert longest / 2 <= pause_after(failures) <= longest


async def test_one_outage_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """However many parts of a process notice, and however often each tries."""
    reading, committing = parts("reading", "committing")
    for _ in range(50):
        reading.failed("connection refused")
        committing.failed("connection reset")
    assert caplog.messages == ["payments has to wait for the server: connection refused"]
    reading.succeeded()
    assert len(caplog.messages) == 1
    committing.succeeded()
    reading.succeeded()
    assert caplog.messages[1:] == ["payments goes on"]


async def test_a_server_that_comes_and_goes(caplog: pytest.LogCaptureFixture) -> None:
    """A hundred times in a moment: that is told once."""
    (reading,) = parts("reading")
    for number in range(100):
        reading.failed(f"reason {number}")
        reading.succeeded()
    assert caplog.messages == ["payments has to wait for the server: reason 0", "payments goes on"]


async def test_success_alone_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Nobody wants to read that all is well."""
    (reading,) = parts("reading")
    reading.succeeded()
    assert caplog.messages == []


async def test_a_pause_ends_when_told(caplog: pytest.LogCaptureFixture) -> None:
    """A process that is to stop does not sit out its pause."""
    (reading,) = parts("reading")
    stopping = anyio.Event()
    stopping.set()
    with anyio.fail_after(10):
        for _ in range(1000):
            await reading.pause("connection refused", stopping)


async def test_many_requests_tell_one_outage_once(caplog: pytest.LogCaptureFixture) -> None:
    """A hundred callers at once, and each tries twice: one line when it begins, one when all go on."""
    persist = Persistence(logger)
    tries = Counter[int]()

    async def request(number: int) -> int:
        tries[number] += 1
        if tries[number] == 1:
            raise BrokerUnavailable("connection refused")
        return number

    answers = await asyncio.gather(*[persist(partial(request, number)) for number in range(100)])
    assert answers == list(range(100))
    assert set(tries.values()) == {2}
    assert caplog.messages == ["a request has to wait for the server: connection refused", "a request goes on"]


async def test_only_the_time_since_the_first_failure_counts() -> None:
    """A request that has waited long before it failed is still tried again; one that fails on is given up."""
    tries = 0

    async def request() -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            await anyio.sleep(1.0)
        raise BrokerUnavailable("connection refused")

    with pytest.raises(BrokerUnavailable):
        await Persistence(logger, seconds=0.8)(request)
    assert tries > 1
