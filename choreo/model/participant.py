"""Participants and their steps: what users declare with decorators."""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Any, Generic, TypeVar, overload

from choreo.errors import ContractError
from choreo.model import contract
from choreo.model.contract import Handler, Outcome
from choreo.model.event import NAME, Event, is_event_type, type_name
from choreo.model.policy import OnFailure, Policy, Retry, make_policy

F = TypeVar("F", bound=Callable[..., Any])
U = TypeVar("U", bound=Callable[..., Any])
Lifespan = Callable[[], AbstractAsyncContextManager[Any]]
#: Makes another handler for a step, or for its undo.
Wrap = Callable[["Step[Any]", "Step[Any] | Undo"], Callable[..., Any]]


class Undo:
    """The compensation of one step.

    ``types`` are the results that it undoes. A step that returned something else (a decline, say)
    has nothing to undo and leaves no entry in the ledger.
    """

    def __init__(
        self, step: Step[Any], function: Handler, names: Mapping[str, Any], policy: Policy
    ) -> None:
        hints = contract.read_hints(function, names)
        parameters, context = contract.event_parameters(function)
        contract.check_context(function, hints)
        self.function = function
        self.name = function.__name__
        self.policy = policy
        self.is_async = inspect.iscoroutinefunction(function)
        self.takes_context = context is not None
        self.outcome = contract.read_outcome(function, _return_hint(function, hints))
        arity = step.arity
        if not arity <= len(parameters) <= arity + 1:
            raise contract.refuse(
                function, f"takes {len(parameters)} events, but an undo of {step.name} takes"
                f" the step's {arity} and, after them, its result or None"
            )
        step.check_parameters(function, parameters[:arity], hints)
        self.takes_result = len(parameters) == arity + 1
        self.types = step.outcome.types
        if self.takes_result:
            self.types = self._result_types(step, parameters[arity].name, hints)

    def _result_types(self, step: Step[Any], name: str, hints: Mapping[str, Any]) -> frozenset[type[Event]]:
        if name not in hints:
            raise contract.refuse(
                self.function, f"parameter {name!r} needs an annotation: the step's result, or None"
            )
        accepted = contract.read_outcome(self.function, hints[name], f"parameter {name!r}")
        if step.outcome.types and not accepted.types:
            raise contract.refuse(
                self.function, f"parameter {name!r} takes no event, so nothing would ever be undone;"
                f" {step.name} returns {step.outcome.names()}"
            )
        if not accepted.nothing:
            raise contract.refuse(
                self.function, f"parameter {name!r} must also allow None: that is what an undo gets"
                " when it is not known whether the step took effect"
            )
        foreign = accepted.types - step.outcome.types
        if foreign:
            raise contract.refuse(
                self.function, f"parameter {name!r} takes {Outcome(foreign, True, False, False).names()},"
                f" which {step.name} never returns; it returns {step.outcome.names()}"
            )
        returns = "may return" if step.outcome.single and step.outcome.several else "returns"
        if step.outcome.single and accepted.several and not accepted.single:
            raise contract.refuse(
                self.function, f"parameter {name!r} takes several events; {step.name} {returns} one"
            )
        if step.outcome.several and accepted.single and not accepted.several:
            raise contract.refuse(
                self.function, f"parameter {name!r} takes one event; {step.name} {returns} several"
            )
        return accepted.types

    def covers(self, events: tuple[Event, ...]) -> bool:
        """Whether a step that emitted ``events`` has something to undo."""
        return not events or any(type(event) in self.types for event in events)


class Step(Generic[F]):
    """One handler of a participant, reacting to one event (or, as a join, to a set of them).

    Call it to call the handler itself, for example in a unit test.
    """

    def __init__(
        self, participant: str, function: F, on: tuple[type[Event], ...], join: bool,
        names: Mapping[str, Any], policy: Policy,
    ) -> None:  # fmt: skip
        hints = contract.read_hints(function, names)
        parameters, context = contract.event_parameters(function)
        contract.check_context(function, hints)
        self.participant = participant
        self.function = function
        self.name = function.__name__
        self.on = on
        self.is_join = join
        self.policy = policy
        self.is_async = inspect.iscoroutinefunction(function)
        self.takes_context = context is not None
        self.outcome = contract.read_outcome(function, _return_hint(function, hints))
        self.compensation: Undo | None = None
        if len(parameters) != self.arity:
            raise contract.refuse(
                function, f"takes {len(parameters)} events, but it gets {self.arity}"
                f" ({', '.join(map(type_name, on))})"
            )
        self.check_parameters(function, parameters, hints)

    @property
    def arity(self) -> int:
        """How many events the handler gets: one, or for a join one of each type."""
        return len(self.on) if self.is_join else 1

    @property
    def location(self) -> str:
        """``file:line`` of the handler."""
        return contract.location(self.function)

    def check_parameters(
        self, function: Handler, parameters: list[inspect.Parameter], hints: Mapping[str, Any]
    ) -> None:
        """Refuse ``function`` unless its first parameters take the events that this step reacts to."""
        expected = [(each,) for each in self.on] if self.is_join else [self.on]
        for parameter, events in zip(parameters, expected, strict=True):
            contract.check_accepts(function, parameter, hints.get(parameter.name), events)

    @overload
    def undo(self, function: U, /) -> U: ...

    @overload
    def undo(
        self, /, *, timeout: float | timedelta | None = None, retry: Retry | None = None
    ) -> Callable[[U], U]: ...

    def undo(
        self, function: Any = None, /, *,
        timeout: float | timedelta | None = None, retry: Retry | None = None,
    ) -> Any:  # fmt: skip
        """Declare a function as this step's compensation: ``@step.undo`` or ``@step.undo(retry=...)``.

        It gets the step's event (for a join: its events), then the step's result or ``None`` when it
        is not known whether the step took effect, then ``ctx`` if it has such a parameter. It must
        undo what was done and do nothing if nothing was; it may run more than once.

        ``timeout`` (seconds) and ``retry`` are as for :meth:`Participant.on`.

        Raises:
            ContractError: if its parameters do not fit the step, or the step has an undo already.
        """
        caller = sys._getframe(1)
        policy = make_policy(contract.place(caller), retry, timeout)

        def declare(function: U) -> U:
            contract.check_function(function, f"{contract.place(caller)}: {self.participant}")
            if self.compensation is not None:
                raise contract.refuse(function, f"{self.name} has an undo already: {self.compensation.name}")
            self.compensation = Undo(self, function, caller.f_locals, policy)
            return function

        return declare if function is None else declare(function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<Step {self.participant}/{self.name} on {', '.join(map(type_name, self.on))}>"


class Participant:
    """One service: a name, which is its consumer group, and the steps by which it reacts.

    Args:
        name: matches ``[a-z0-9][a-z0-9._-]{0,63}``.
        lifespan: called once per worker; returns an async context manager that opens and closes what
            the handlers share. What it yields is ``ctx.resources``.
    """

    def __init__(self, name: str, *, lifespan: Lifespan | None = None) -> None:
        if not NAME.fullmatch(name):
            where = contract.place(sys._getframe(1))
            raise ContractError(f"{where}: participant name {name!r} must match {NAME.pattern}")
        self.name = name
        self.lifespan = lifespan
        self._by_type: dict[type[Event], Step[Any]] = {}

    @property
    def steps(self) -> tuple[Step[Any], ...]:
        """Every step, in the order of declaration."""
        return tuple(dict.fromkeys(self._by_type.values()))

    @property
    def reactions(self) -> dict[str, Step[Any]]:
        """Which step reacts to which event type, by the type's name."""
        return {type_name(event): step for event, step in self._by_type.items()}

    def on(
        self, *events: type[Event], timeout: float | timedelta | None = None, retry: Retry | None = None,
        on_failure: OnFailure | None = None,
    ) -> Callable[[F], Step[F]]:  # fmt: skip
        """Declare a step that reacts to any one of ``events``.

        Args:
            timeout: seconds that one attempt may take; longer counts as a failure. A thread cannot be
                ended from outside: a handler that is no coroutine then goes on unseen, its result lost.
            retry: how failed attempts are repeated.
            on_failure: what happens when the last attempt has failed: ``"abort"``, the saga unwinds (so
                it is if nobody says otherwise); or ``"park"``, it waits until an operator has the step
                tried again or the saga compensated. ``Abort`` unwinds the saga in any case.

        What is not given is as ``defaults`` of streams.yaml say.

        Raises:
            ContractError: if the handler's signature does not fit, or another step of this
                participant reacts to one of the types already.
        """
        policy = make_policy(contract.place(sys._getframe(1)), retry, timeout, on_failure)
        return self._declare(events, policy, join=False)

    def on_all(
        self, *events: type[Event], timeout: float | timedelta | None = None, retry: Retry | None = None,
        on_failure: OnFailure | None = None,
    ) -> Callable[[F], Step[F]]:  # fmt: skip
        """Declare a join: a step that waits for one of each of ``events`` in a saga and gets them all.

        If a type arrives again before the others have come, the newer event takes the older one's
        place. ``timeout``, ``retry`` and ``on_failure`` are as for :meth:`on`.

        Raises:
            ContractError: as for :meth:`on`, and for fewer than two types.
        """
        if len(events) < 2:
            where = contract.place(sys._getframe(1))
            raise ContractError(
                f"{where}: {self.name}: on_all needs two event types or more; use on() for one"
            )
        policy = make_policy(contract.place(sys._getframe(1)), retry, timeout, on_failure)
        return self._declare(events, policy, join=True)

    def _declare(
        self, events: tuple[type[Event], ...], policy: Policy, *, join: bool
    ) -> Callable[[F], Step[F]]:
        caller = sys._getframe(2)
        where, names = contract.place(caller), caller.f_locals
        if not events:
            raise ContractError(f"{where}: {self.name}: on() needs at least one event type")
        for event in events:
            if not is_event_type(event):
                raise ContractError(f"{where}: {self.name}: {event!r} is not a subclass of choreo.Event")

        def declare(function: F) -> Step[F]:
            contract.check_function(function, f"{where}: {self.name}")
            self._check_types(function, events)
            if any(step.name == function.__name__ for step in self.steps):
                raise contract.refuse(function, f"participant {self.name!r} has a step of this name already")
            step = Step(self.name, function, events, join, names, policy)
            self._by_type.update(dict.fromkeys(events, step))
            return step

        return declare

    def _check_types(self, function: Handler, events: tuple[type[Event], ...]) -> None:
        taken = self.reactions
        seen: set[str] = set()
        for event in events:
            name = type_name(event)
            if name in seen:
                raise contract.refuse(function, f"{name} is listed twice")
            seen.add(name)
            if name in taken:
                other = taken[name]
                raise contract.refuse(
                    function, f"participant {self.name!r} reacts to {name} already, in {other.name}"
                    f" ({other.location}); one step per event type"
                )

    def __repr__(self) -> str:
        return f"<Participant {self.name}: {', '.join(step.name for step in self.steps)}>"


def wrapped(participant: Participant, wrap: Wrap) -> Participant:
    """A copy of a participant whose handlers are coroutine functions of somebody else's making.

    ``wrap`` is called with a step and with the handler in question (the step itself, or its undo). What it
    returns is called with what the handler gets, the context always last; ``functools.wraps`` keeps the
    handler's name and place in messages.
    """
    clone = copy.copy(participant)
    steps = {step: _wrapped_step(step, wrap) for step in participant.steps}
    clone._by_type = {event: steps[step] for event, step in participant._by_type.items()}
    return clone


def _wrapped_step(original: Step[Any], wrap: Wrap) -> Step[Any]:
    step = copy.copy(original)
    step.compensation = copy.copy(original.compensation)
    handlers: list[Step[Any] | Undo] = [step, *([step.compensation] if step.compensation else [])]
    for handler in handlers:
        handler.function = wrap(original, handler)
        handler.is_async = handler.takes_context = True
    return step


def _return_hint(function: Handler, hints: Mapping[str, Any]) -> Any:
    if "return" not in hints:
        raise contract.refuse(
            function, "needs a return annotation: it is the contract of what may be emitted"
            " (`-> None` if nothing is)"
        )
    return hints["return"]
