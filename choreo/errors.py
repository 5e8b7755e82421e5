"""Every error that choreo raises on purpose, in one tree::

    ChoreoError
    ├── ContractError            a participant's code says something that cannot hold
    ├── ConfigurationError       streams.yaml, a flag or a variable is wrong; lists every fault
    │   └── LayoutMismatch       the namespace on the server was laid out differently
    ├── EventError               this event cannot be published
    │   ├── UnroutableEvent      no stream carries its type, or it starts no saga
    │   ├── InvalidSagaId        the saga id is empty, too long or not printable
    │   ├── InvalidEvent         it is no event, or cannot be told in JSON
    │   └── PayloadTooLarge      its JSON is larger than an entry may be
    ├── SagaError                the request does not fit the saga
    │   ├── SagaNotFound         nothing is known of this id
    │   ├── LetterNotFound       there is no such dead letter
    │   ├── SagaConflict         the id is taken by a saga that began differently
    │   ├── SagaClosed           the saga has ended, so it cannot be changed any more
    │   └── WaitTimeout          the saga did not end in time
    └── BrokerError              the server did not do what was asked
        ├── BrokerUnavailable    it cannot be reached or cannot serve now; trying again may help
        ├── BrokerRefused        it said no, and will say no again
        ├── Unsendable           the request holds something that cannot be sent at all
        ├── UnsupportedServer    it is too old
        └── EngineError          the embedded server could not be started

Who is at fault is the type: the author of a participant, the writer of a configuration, the caller
with an event, the caller with a saga, or the server.

:class:`Abort` is not an error of choreo's: handlers raise it to say that the business said no.
"""

from __future__ import annotations

from dataclasses import dataclass


class ChoreoError(Exception):
    """Base of every error that choreo raises on purpose."""


class ContractError(ChoreoError):
    """A participant's code says something that cannot hold; the message says where and what to do."""


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One thing that is wrong in a configuration.

    ``where`` is ``file:line`` (or a flag's or variable's name), ``what`` says what is wrong and what
    would be right.
    """

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


class ConfigurationError(ChoreoError):
    """A configuration is wrong. ``faults`` holds every fault that was found, not only the first."""

    def __init__(self, faults: list[Fault] | str) -> None:
        self.faults = [Fault("configuration", faults)] if isinstance(faults, str) else faults
        super().__init__(faults if isinstance(faults, str) else "\n".join(map(str, self.faults)))


class LayoutMismatch(ConfigurationError):
    """The namespace on the server has another layout version or another number of partitions."""


class EventError(ChoreoError):
    """This event cannot be published."""


class UnroutableEvent(EventError):
    """No stream carries an event of this type, or no saga starts with it."""


class InvalidSagaId(EventError):
    """A saga id is 1 to 128 printable characters, without braces."""


class InvalidEvent(EventError):
    """It is no event, or its JSON would not give the same event again (NaN, for one)."""


class PayloadTooLarge(EventError):
    """The event's JSON is larger than an entry may be."""


class SagaError(ChoreoError):
    """The request does not fit the saga."""


class SagaNotFound(SagaError):
    """Nothing is known of a saga with this id."""


class LetterNotFound(SagaError):
    """There is no dead letter with this id, or what it held was deleted."""


class SagaConflict(SagaError):
    """The saga id is taken by a saga that began with another event or another payload."""


class SagaClosed(SagaError):
    """The saga has ended. ``state`` says how."""

    def __init__(self, message: str, state: str) -> None:
        super().__init__(message)
        self.state = state


class WaitTimeout(SagaError):
    """The saga did not end within the time given."""


class BrokerError(ChoreoError):
    """The server did not do what was asked."""


class BrokerUnavailable(BrokerError):
    """The server cannot be reached or cannot serve now; the same request may succeed later."""


class BrokerRefused(BrokerError):
    """The server refused, and would refuse the same request again."""


class Unsendable(BrokerError):
    """The request holds something that cannot be sent, such as text that is no valid Unicode."""


class UnsupportedServer(BrokerError):
    """The server is older than Redis 6.2."""


class EngineError(BrokerError):
    """The embedded server could not be started."""


class Abort(Exception):
    """Raised by a handler: a business failure. No retry; the saga unwinds.

    ``reason`` is for people: it is kept with the saga and shown in its trace.

    What this attempt did counts as nothing: raise it before the effect, or take the effect back first. What
    an earlier attempt may have done, which failed or died, is undone.
    """

    #: Also there for subclasses whose ``__init__`` does not call this one.
    reason: str = ""

    def __init__(self, reason: object = "") -> None:
        super().__init__(reason)
        self.reason = str(reason)
