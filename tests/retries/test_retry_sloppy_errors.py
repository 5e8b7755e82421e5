"""Whatever a handler raises: its worker lives, other sagas go on, and the right thing is written down."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Callable

import anyio
import anyio.lowlevel
import pytest
from retry_kit import Paid, Placed, Shipped, Stage, quick, until

from choreo import Abort, Context, Participant
from choreo.wire.limits import MAX_ERROR_CHARACTERS, MAX_TRACEBACK_CHARACTERS

pytestmark = pytest.mark.anyio


class Mute(Exception):
    """Cannot say what is wrong."""

    def __str__(self) -> str:
        raise ValueError("no words")


class Panic(BaseException):
    """As extension modules raise it: not an Exception, but nobody's wish to end the process either."""


class Declined(Abort):
    """Has a constructor of its own."""

    def __init__(self, code: int) -> None:
        self.code = code


class Stubborn(Abort):
    """Its reason cannot be read."""

    def __init__(self) -> None:
        pass

    @property
    def reason(self) -> str:  # type: ignore[override]
        raise ValueError("no words")


class Odd(Abort):
    """Its reason is no text."""

    def __init__(self) -> None:
        super().__init__()
        self.reason = {"code": 7}  # type: ignore[assignment]


def raising(kind: type[BaseException], *arguments: object) -> Callable[[], None]:
    """Something that raises such an error, a new one each time."""

    def handler() -> None:
        raise kind(*arguments)

    return handler


def long_chain() -> None:
    """An error whose traceback has megabytes."""
    try:
        raise ValueError("x" * 5_000_000)
    except ValueError as error:
        raise RuntimeError("y" * 5_000_000) from error


def endless() -> None:
    endless()


LONE = os.fsdecode(b"\xff")

#: What a handler does -> what the dead letter says.
FAILURES: dict[str, tuple[Callable[[], None], str]] = {
    "cancelled": (raising(asyncio.CancelledError), "RuntimeError: the handler was cancelled from within"),
    "exit": (lambda: sys.exit(3), "RuntimeError: the handler called sys.exit(3)"),
    "mute": (raising(Mute), "Mute: (its text cannot be read)"),
    "surrogate": (raising(OSError, f"no file {LONE}"), r"OSError: no file \udcff"),
    "control": (raising(OSError, "\x1b[31mred\x00\n"), "OSError: \x1b[31mred\x00\n"),
    "empty": (raising(OSError), "OSError"),
    "long": (raising(OSError, "x" * 10_000_000), "OSError: " + "x" * (MAX_ERROR_CHARACTERS - 9)),
    "chain": (long_chain, "RuntimeError: " + "y" * (MAX_ERROR_CHARACTERS - 14)),
    "recursion": (endless, "RecursionError: "),
    "stop": (raising(StopIteration, 1), "RuntimeError: "),
    "group": (
        raising(ExceptionGroup, "several", [OSError("a"), ValueError("b")]),
        "ExceptionGroup: several (2 sub-exceptions)",
    ),
    "assertion": (raising(AssertionError), "AssertionError"),
}
#: What a handler does that is no Exception, and what the dead letter mentions.
PANICS: dict[str, tuple[Callable[[], None], str]] = {
    "panic": (raising(Panic, "called `Option::unwrap()` on a `None` value"), "Panic"),
    "panic group": (raising(BaseExceptionGroup, "several", [SystemExit(1)]), "BaseExceptionGroup"),
}
ABORTS: dict[str, tuple[Callable[[], None], str]] = {
    "error as reason": (raising(Abort, ValueError("card declined")), "card declined"),
    "no reason": (raising(Abort), "aborted"),
    "own constructor": (raising(Declined, 7), "aborted"),
    "long": (raising(Abort, "x" * 10_000_000), "x" * MAX_ERROR_CHARACTERS),
    "surrogate": (raising(Abort, f"no file {LONE}"), r"no file \udcff"),
    "odd": (raising(Odd), "{'code': 7}"),
}


def sloppy(
    doings: dict[str, tuple[Callable[[], None], str]], *, sync: bool, attempts: int = 1
) -> Participant:
    """Payments that do something careless, chosen by the saga's id, and handle all others well."""
    payments = Participant("payments")

    def handle(ctx: Context) -> Shipped:
        if ctx.saga_id in doings:
            doings[ctx.saga_id][0]()
        return Shipped()

    if sync:

        @payments.on(Placed, retry=quick(attempts))
        def charge(placed: Placed, ctx: Context) -> Shipped:
            return handle(ctx)
    else:

        @payments.on(Placed, retry=quick(attempts))
        async def charge(placed: Placed, ctx: Context) -> Shipped:
            await anyio.lowlevel.checkpoint()
            return handle(ctx)

    return payments


async def play(
    stage: Stage, doings: dict[str, tuple[Callable[[], None], str]], *, sync: bool = False, attempts: int = 1
) -> dict[str, str]:
    """Run careless sagas, and good ones between them, in one worker. Returns why each was compensated."""
    reasons = {}
    async with stage.playing(sloppy(doings, sync=sync, attempts=attempts)) as choreo:
        for name in doings:
            await choreo.start(Placed(), saga_id=name)
            await choreo.start(Placed(), saga_id=f"after {name}")
        for name in doings:
            view = await choreo.wait(name, timeout=10)
            assert view.status == "compensated", name
            assert (await choreo.wait(f"after {name}", timeout=10)).status == "completed"
            reasons[name] = view.reason.removeprefix("payments/charge: ")
        await choreo.start(Placed(), saga_id="last")
        assert (await choreo.wait("last", timeout=10)).status == "completed"
        await until(stage.is_settled, "nothing to be in anybody's hands")
    return reasons


@pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
async def test_failures(stage: Stage, sync: bool) -> None:
    """Each is a dead letter with the error's text, cut to what is kept, and fit to be sent."""
    reasons = await play(stage, FAILURES, sync=sync)
    letters = {letter["subject"]: letter for letter in await stage.letters()}
    assert set(letters) == set(FAILURES)
    for name, (_, note) in FAILURES.items():
        letter = letters[name]
        assert letter["reason"] == "step-failed"
        assert reasons[name].startswith(note)
        assert letter["error"].startswith(note)
        assert len(letter["error"]) <= MAX_ERROR_CHARACTERS + 10
        assert len(letter.get("traceback", "")) <= 2 * MAX_TRACEBACK_CHARACTERS


@pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
async def test_panics(fake_stage: Stage, sync: bool) -> None:
    """What is no Exception, but no order to end the process either, fails the attempt, not the worker."""
    reasons = await play(fake_stage, PANICS, sync=sync)
    for name, (_, note) in PANICS.items():
        assert note in reasons[name]
    assert await fake_stage.reasons() == [(name, "step-failed") for name in sorted(PANICS)]


@pytest.mark.parametrize("sync", [False, True], ids=["async", "sync"])
async def test_aborts(stage: Stage, sync: bool) -> None:
    """No dead letters; each reason is kept as text, cut and fit to be sent."""
    assert await play(stage, ABORTS, sync=sync) == {name: reason for name, (_, reason) in ABORTS.items()}
    assert await stage.letters() == []


async def test_an_abort_whose_reason_cannot_be_read(fake_stage: Stage) -> None:
    """It still aborts: the business has said no, whatever the words."""
    reasons = await play(fake_stage, {"stubborn": (raising(Stubborn), "")})
    assert await fake_stage.letters() == []
    assert reasons["stubborn"]


def cancel_me(placed: Placed, ctx: Context) -> None:
    """Careless use of `asyncio.current_task()`."""
    if placed.amount and ctx.attempt == 1:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()


async def cancels_at_once(placed: Placed, ctx: Context) -> Shipped:
    cancel_me(placed, ctx)
    return Shipped()


async def cancels_after_waiting(placed: Placed, ctx: Context) -> Shipped:
    await asyncio.sleep(0)
    cancel_me(placed, ctx)
    return Shipped()


@pytest.mark.parametrize("timeout", [None, 5.0])
@pytest.mark.parametrize("handler", [cancels_at_once, cancels_after_waiting])
async def test_a_handler_that_cancels_its_own_task(
    fake_stage: Stage, handler: Callable[..., object], timeout: float | None
) -> None:
    """The cancellation arrives when the handler is through, and ends neither the worker nor other handlers."""
    payments = Participant("payments")
    payments.on(Placed, retry=quick(2), timeout=timeout)(handler)

    async with fake_stage.playing(payments, lease=0.2) as choreo:
        await choreo.start(Placed(1), saga_id="bad")
        await choreo.start(Placed(0), saga_id="good")
        for saga in ("good", "bad"):
            assert (await choreo.wait(saga, timeout=10)).status == "completed"
        await choreo.start(Placed(0), saga_id="after")
        assert (await choreo.wait("after", timeout=10)).status == "completed"
    assert await fake_stage.letters() == []


async def test_a_handler_that_is_cancelled_when_it_is_through(fake_stage: Stage) -> None:
    """A home-made timeout that nobody called off: it hits the handler's task while that commits."""
    payments = Participant("payments")

    @payments.on(Placed)
    async def charge(placed: Placed, ctx: Context) -> Shipped:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().call_soon(task.cancel)
        return Shipped()

    async with fake_stage.playing(payments, lease=0.2) as choreo:
        for saga in ("s1", "s2"):
            await choreo.start(Placed(), saga_id=saga)
            assert (await choreo.wait(saga, timeout=10)).status == "completed"


async def test_a_handler_that_awaits_a_task_that_was_cancelled(fake_stage: Stage) -> None:
    """Everyday asyncio: the CancelledError of another task is an ordinary failure here."""
    payments = Participant("payments")

    @payments.on(Placed, retry=quick(2))
    async def charge(placed: Placed, ctx: Context) -> Shipped:
        if ctx.attempt == 1:
            other = asyncio.ensure_future(asyncio.sleep(3600))
            other.cancel()
            await other
        return Shipped()

    async with fake_stage.playing(payments) as choreo:
        await choreo.start(Placed(), saga_id="s1")
        view = await choreo.wait("s1", timeout=10)
    assert (view.status, view.retries) == ("completed", 1)


async def test_undos_that_are_sloppy(fake_stage: Stage) -> None:
    """Undos as well: each fails in its own way, is tried again, and succeeds."""
    runs: dict[str, int] = {}
    payments, shipping = Participant("payments"), Participant("shipping")

    @payments.on(Placed)
    async def charge(placed: Placed) -> Paid:
        return Paid()

    @charge.undo(retry=quick(2))
    async def refund(placed: Placed, ctx: Context) -> None:
        runs[ctx.saga_id] = ctx.attempt
        if ctx.attempt == 1:
            FAILURES[ctx.saga_id][0]()

    @shipping.on(Paid)
    async def send(paid: Paid) -> None:
        raise Abort("no truck")

    async with fake_stage.playing(payments, shipping) as choreo:
        for saga in FAILURES:
            await choreo.start(Placed(), saga_id=saga)
        for saga in FAILURES:
            view = await choreo.wait(saga, timeout=10)
            assert (view.status, view.retries) == ("compensated", 1)
    assert runs == dict.fromkeys(FAILURES, 2)


async def test_the_log_says_what_failed_and_what_follows(
    fake_stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning while there is another attempt, an error when there is none; the error's text is in it."""
    with caplog.at_level(logging.WARNING, "choreo.runtime"):
        await play(fake_stage, {"bad": (raising(OSError, "no line"), "")}, attempts=2)
    said = [f"{record.levelname} {record.getMessage()}" for record in caplog.records]
    assert [line for line in said if "attempt" in line] == [
        "WARNING payments/charge, saga 'bad': attempt 1 failed, it will be tried again: OSError: no line",
        "ERROR payments/charge, saga 'bad': attempt 2 failed, there will be no other: OSError: no line",
    ]
