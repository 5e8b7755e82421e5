"""Calling handlers: decoding what they get, checking and encoding what they return."""

from __future__ import annotations

import asyncio
import math
import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextvars import copy_context
from typing import Any

import anyio
import anyio.to_thread
import msgspec

from choreo.errors import EventError
from choreo.model.context import Context, Emitted
from choreo.model.contract import Handler, Outcome, check_emitted, check_outcome
from choreo.model.event import Event, type_name
from choreo.model.participant import Step, Undo
from choreo.model.policy import Policy
from choreo.runtime.lives import apart, may_wait
from choreo.wire.envelope import Envelope, encode_data
from choreo.wire.limits import MAX_EMITTED, MAX_ERROR_CHARACTERS, MAX_TRACEBACK_CHARACTERS


class StoredResult(msgspec.Struct, frozen=True, array_like=True):
    """What a step returned, as the ledger keeps it for the undo."""

    shape: str
    """``none``, ``one``, ``list`` or ``tuple``."""
    events: list[tuple[str, bytes]]
    """Type and JSON of each event."""


_pack_result = msgspec.msgpack.Encoder().encode
_unpack_result = msgspec.msgpack.Decoder(StoredResult).decode


class Bench:
    """A step made ready to run: its decoders, its policies, and its handler called in the right way."""

    def __init__(
        self, step: Step[Any], threads: anyio.CapacityLimiter, defaults: Policy, *,
        undo_threads: anyio.CapacityLimiter | None = None,
    ) -> None:  # fmt: skip
        self.step = step
        self.policy = step.policy.over(defaults)
        self.undo_policy = step.compensation.policy.over(defaults) if step.compensation else defaults
        self.joins = tuple(type_name(event) for event in step.on) if step.is_join else ()
        self._threads = threads
        # With threads of their own, undos do not wait until steps have returned theirs.
        self._undo_threads = undo_threads or threads
        handlers: list[Step[Any] | Undo] = [step, *([step.compensation] if step.compensation else [])]
        self._may_wait = {each: not each.is_async or may_wait(each.function) for each in handlers}
        #: Whether the step is no join, and its handler runs without waiting for anything.
        self.at_once = not self.joins and not self._may_wait[step]
        #: Whether there is an undo that runs without waiting for anything.
        self.undo_at_once = step.compensation is not None and not self._may_wait[step.compensation]
        self._inputs = {type_name(event): _decoder(event) for event in step.on}
        self._results = {type_name(event): _decoder(event) for event in step.outcome.types}

    def decode(self, envelope: Envelope) -> Event:
        """The event in an envelope.

        Raises:
            msgspec.DecodeError: if its data is not of the type as this participant knows it.
        """
        try:
            return self._inputs[envelope.type](envelope.data)
        except msgspec.DecodeError:
            raise
        except Exception as error:  # an event's __post_init__ may raise whatever it likes
            message, _ = describe(error)
            raise msgspec.DecodeError(message) from error

    async def run(self, events: Sequence[Event], context: Context | None) -> tuple[Any, list[Emitted]]:
        """Call the step. Returns what it returned, and every event that it emits, in order.

        ``context`` may be ``None`` if the step does not take it.
        """
        returned = await self._call(self.step, self.policy, events, context)
        if not isinstance(returned, Event) and isinstance(returned, Iterator):
            returned = list(returned)  # it can be gone through only once
        emitted = _emitted(self.step.function, self.step.outcome, returned, context)
        return returned, emitted

    async def run_undo(
        self, events: Sequence[Event], result: bytes, context: Context | None
    ) -> list[Emitted]:
        """Call the step's undo. Returns the compensating events.

        ``result`` is what the step returned, as :meth:`store` packed it. ``context`` may be ``None`` if the
        undo does not take it.
        """
        undo = self.step.compensation
        assert undo is not None
        arguments = [*events, self._restore(result)] if undo.takes_result else list(events)
        returned = await self._call(undo, self.undo_policy, arguments, context)
        return _emitted(undo.function, undo.outcome, returned, context)

    async def _call(
        self, handler: Step[Any] | Undo, policy: Policy, arguments: Sequence[Any], context: Context | None
    ) -> Any:
        if handler.takes_context:
            arguments = [*arguments, context]
        if not self._may_wait[handler]:
            return _at_once(handler.function, arguments)
        return await apart(lambda: self._call_apart(handler, policy.timeout, arguments))

    async def _call_apart(
        self, handler: Step[Any] | Undo, timeout: float | None, arguments: Sequence[Any]
    ) -> Any:
        if handler.is_async:
            return await _within(timeout, handler.function(*arguments))
        threads = self._undo_threads if isinstance(handler, Undo) else self._threads
        if timeout is None:
            return await _tamed(_in_thread(handler.function, arguments, threads))
        # Waiting for a free thread is not the handler's time.
        async with threads:
            return await _within(timeout, _in_thread(handler.function, arguments, anyio.CapacityLimiter(1)))

    def covers(self, emitted: Sequence[Emitted]) -> bool:
        """Whether the step has an undo that is concerned with such an outcome."""
        undo = self.step.compensation
        return undo is not None and undo.covers(tuple(each.event for each in emitted))

    def store(self, returned: Any) -> bytes:
        """What the step returned, packed for the ledger."""
        if returned is None:
            shape, events = "none", []
        elif isinstance(returned, Event):
            shape, events = "one", [returned]
        else:
            shape, events = ("tuple" if isinstance(returned, tuple) else "list"), list(returned)
        stored = StoredResult(shape, [(type_name(event), encode_data(event)) for event in events])
        return _pack_result(stored)

    def _restore(self, packed: bytes) -> Any:
        """The reverse of :meth:`store`; ``None`` if nothing was stored."""
        if not packed:
            return None
        stored = _unpack_result(packed)
        events = [self._results[name](data) for name, data in stored.events]
        if stored.shape == "none":
            return None
        return events[0] if stored.shape == "one" else tuple(events) if stored.shape == "tuple" else events


def _at_once(function: Handler, arguments: Sequence[Any]) -> Any:
    """What a coroutine function returns that never waits. It has context variables of its own, as in a
    task. What it raises that is no plain error becomes one; see :func:`_tamed`."""
    coroutine = function(*arguments)
    try:
        copy_context().run(coroutine.send, None)
    except StopIteration as end:
        return end.value
    except asyncio.CancelledError as error:
        raise RuntimeError("the handler was cancelled from within") from error
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise _as_plain_error(error) from error
    raise RuntimeError(f"{function!r} waits for something, although there is no await in it")


def _in_thread(function: Handler, arguments: Sequence[Any], threads: anyio.CapacityLimiter) -> Awaitable[Any]:
    """What a function returns that is no coroutine."""
    return anyio.to_thread.run_sync(_guarded, function, arguments, limiter=threads, abandon_on_cancel=True)


async def _within(seconds: float | None, call: Awaitable[Any]) -> Any:
    """What ``call`` returns, if it does so in time."""
    if seconds is None:
        return await _tamed(call)
    with anyio.move_on_after(seconds):
        return await _tamed(call)
    raise TimeoutError(f"took longer than {seconds:g} s")


async def _tamed(call: Awaitable[Any]) -> Any:
    """What ``call`` returns. Whatever it raises that is no plain error becomes one: it is one handler's
    failure, and must not end the worker."""
    try:
        return await call
    except anyio.get_cancelled_exc_class() as error:
        if anyio.current_effective_deadline() == -math.inf:
            raise
        # Nobody cancelled this worker: the handler awaited something that was cancelled.
        raise RuntimeError("the handler was cancelled from within") from error
    except (Exception, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise _as_plain_error(error) from error


def _decoder(event: type[Event]) -> Callable[[bytes], Event]:
    return msgspec.json.Decoder(event).decode


def _emitted(function: Handler, outcome: Outcome, returned: Any, context: Context | None) -> list[Emitted]:
    emitted = list(map(Emitted, check_outcome(function, outcome, returned)))
    if context is not None and context._emitted:
        extra = context._emitted
        check_emitted(function, outcome, [each.event for each in extra])
        emitted = [*extra, *emitted]
    if len(emitted) > MAX_EMITTED:
        raise EventError(f"{function.__name__} emitted {len(emitted)} events; at most {MAX_EMITTED} may be")
    return emitted


def _guarded(function: Handler, arguments: Sequence[Any]) -> Any:
    """Call a handler in a thread; see :func:`_within`."""
    try:
        return function(*arguments)
    except (Exception, KeyboardInterrupt, asyncio.CancelledError):
        raise
    except BaseException as error:
        raise _as_plain_error(error) from error


def _as_plain_error(error: BaseException) -> RuntimeError:
    if isinstance(error, SystemExit):
        return RuntimeError(f"the handler called sys.exit({error.code!r})")
    return RuntimeError(f"the handler raised {describe(error)[0]}")  # a panic of an extension module


def describe(error: BaseException) -> tuple[str, str]:
    """An error's message and its traceback, each cut to what is kept of them, and fit to be sent."""
    name, said = type(error).__name__, text_of(error)
    message = f"{name}: {said}" if said else name
    try:
        lines = "".join(traceback.format_exception(error))
    except Exception:  # a handler's error may be of any make
        lines = ""
    return message[:MAX_ERROR_CHARACTERS], sendable(lines[-MAX_TRACEBACK_CHARACTERS:])


def text_of(value: object) -> str:
    """What ``value`` says of itself, cut to what is kept of a message, and fit to be sent."""
    try:
        said = str(value)
    except Exception:
        said = "(its text cannot be read)"
    return sendable(said[:MAX_ERROR_CHARACTERS])


def sendable(text: str) -> str:
    """``text`` with escapes for what UTF-8 cannot carry: lone surrogates, as ``os.fsdecode`` makes them."""
    return text.encode("utf-8", "backslashreplace").decode()
