"""A money transfer: three participants that share one bank, which can be looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from choreo import Abort, Context, Event, Participant, Retry
from choreo.testing import Ends, Fault, Harness


class TransferRequested(Event):
    source: str = "ann"
    target: str = "bob"
    cents: int = 100


class Debited(Event):
    source: str
    target: str
    cents: int


class Credited(Event):
    target: str


class Returned(Event):
    source: str


class Refused(Event):
    reason: str


class TransferDone(Event):
    pass


@dataclass
class Bank:
    """Accounts, and what was done to them: each effect once per key, as a real bank would see to."""

    cents: dict[str, int] = field(default_factory=lambda: {"ann": 1000, "bob": 0})
    effects: dict[str, tuple[str, int]] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)
    forgetful: bool = False
    """Planted: giving back does not note that it gave back, and does it again when it runs again."""
    one_eyed: bool = False
    """Planted: taking back does nothing where it is not told what the step came to."""

    def move(self, key: str, account: str, cents: int) -> None:
        if key not in self.effects:
            self.effects[key] = (account, cents)
            self.cents[account] += cents

    @property
    def total(self) -> int:
        return sum(self.cents.values())

    def participants(self, *, timeout: float | None = 10.0) -> list[Participant]:
        """Participants that work on this bank."""
        debits, credits, ledger = Participant("debits"), Participant("credits"), Participant("ledger")
        retry = Retry(attempts=5, first=0.2)

        @debits.on(TransferRequested, timeout=timeout, retry=retry)
        async def debit(event: TransferRequested, ctx: Context) -> Debited | Refused:
            self.calls["debit"] += 1
            if ctx.key not in self.effects and self.cents.get(event.source, 0) < event.cents:
                return Refused("not enough money")
            self.move(ctx.key, event.source, -event.cents)
            return Debited(event.source, event.target, event.cents)

        @debit.undo(timeout=timeout, retry=retry)
        def give_back(event: TransferRequested, debited: Debited | None, ctx: Context) -> Returned:
            self.calls["give_back"] += 1
            if self.forgetful and ctx.undoes in self.effects:
                self.cents[event.source] += event.cents
            elif ctx.undoes in self.effects:
                self.move(ctx.key, event.source, event.cents)
            elif ctx.undoes:
                self.effects[ctx.undoes] = (event.source, 0)
            return Returned(event.source)

        @credits.on(Debited, timeout=timeout, retry=retry)
        def credit(event: Debited, ctx: Context) -> Credited:
            self.calls["credit"] += 1
            if event.target not in self.cents:
                raise Abort(f"no account {event.target}")
            self.move(ctx.key, event.target, event.cents)
            return Credited(event.target)

        @credit.undo(timeout=timeout, retry=retry)
        def take_back(event: Debited, credited: Credited | None, ctx: Context) -> None:
            self.calls["take_back"] += 1
            if self.one_eyed and credited is None:
                return
            if ctx.undoes in self.effects:
                self.move(ctx.key, event.target, -event.cents)
            elif ctx.undoes:
                self.effects[ctx.undoes] = (event.target, 0)

        @ledger.on(Credited, timeout=timeout, retry=retry)
        async def note(event: Credited) -> TransferDone:
            self.calls["note"] += 1
            return TransferDone()

        return [debits, credits, ledger]

    def play(self, make: Callable[..., Harness]) -> Harness:
        """A harness around this bank, made by ``make``."""
        return make(participants=self.participants(), ends=Ends(completes_with=TransferDone, aborts_with=Refused))

    def harness(self, *faults: Fault, timeout: float | None = 10.0, workers: int = 1) -> Harness:
        """A harness around this bank."""
        ends = Ends(completes_with=TransferDone, aborts_with=Refused)
        return Harness(
            participants=self.participants(timeout=timeout), ends=ends, faults=faults, workers=workers
        )


async def money_is_conserved(make: Callable[..., Harness], **planted: bool) -> None:
    """The invariant: every transfer ends, and no cent is made or lost."""
    bank = Bank(**planted)  # type: ignore[arg-type]
    async with bank.play(make) as town:
        for target in ("bob", "bob", "nobody"):
            await town.start(TransferRequested(target=target))
        await town.finish()
        for transfer in town.sagas:
            transfer.assert_status("completed", "compensated")
            transfer.assert_no_dead_letters() if transfer.status == "completed" else None
    assert bank.total == 1000, f"there are {bank.total} cents"
    assert set(bank.cents.values()) <= {0, 100, 200, 800, 900, 1000}
