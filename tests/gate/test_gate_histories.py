"""Random histories of a saga: whatever workers, clocks and operators do in whatever order, its books are right."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import fakeredis
import pytest
from gate_books import STEPS, Books, Entry, Step, about, order_of, pairs_of, texts_of
from gate_kit import NOW, SAGA_TYPE, Desk, Worker
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from choreo.broker.answers import Verdict
from choreo.broker.connection import Connection
from choreo.broker.expiry import Overdue
from choreo.broker.gate import (
    Begin,
    BeginUndo,
    Decision,
    Done,
    Emission,
    Failed,
    Head,
    Identity,
    Letter,
    Parking,
    Publish,
    RetryStep,
    RetryUndo,
    Stuck,
    Undone,
)  # fmt: skip
from choreo.broker.groups import Delivery
from choreo.broker.letters import Filed, OrderSlip
from choreo.errors import SagaClosed, SagaNotFound
from choreo.runtime.parked import Work
from choreo.wire.envelope import BACK, Envelope, Reason, parse
from choreo.wire.inbox import Parked
from choreo.wire.letters import attempt_of

#: Everything that is parked is due by then.
LATER = NOW + 10_000_000
DUE = NOW + 1000
TO_BE_DECIDED = (Verdict.RUN, Verdict.DOUBT, Verdict.POISON)
TOO_LATE = (Verdict.STALE, Verdict.DUPLICATE, Verdict.CLOSED)


@dataclass
class Held:
    """A delivery in a worker's hands."""

    step: Step
    worker: Worker
    delivery: Delivery
    work: Work
    head: Head
    begun: Verdict | None = None

    @property
    def is_undo(self) -> bool:
        return bool(self.work.undo)


@dataclass
class History:
    """One saga, of which every next event is drawn."""

    desk: Desk
    draw: Callable[[int], int]
    held: list[Held] = field(default_factory=list)
    zombies: list[Held] = field(default_factory=list)
    left: list[Held] = field(default_factory=list)
    """Deliveries that are pending because their event is in other hands."""
    effects: set[str] = field(default_factory=set)
    """Lines of which a run may have taken effect, and has an undo."""
    idle: set[int] = field(default_factory=set)
    failures: int = 4
    crashes: int = 4
    repeats: int = 2
    orders: int = 6
    timeouts: int = 1
    count: int = 0

    async def run(self) -> None:
        for step in STEPS:
            await self.desk.worker(step.participant)
        await self.desk.publish("E0", "E0")
        books = await self.books()
        while actions := await self._actions(books):
            await actions[self.draw(len(actions))]()
            books = await self.books()
            books.check()
        event(books.state)
        books.check_end(self.effects)

    async def _actions(self, books: Books) -> list[Callable[[], Awaitable[None]]]:
        actions: list[Callable[[], Awaitable[None]]] = []
        actions += [lambda step=step: self._read(step) for step in STEPS if step.number not in self.idle]
        actions += [lambda held=held: self._move(held) for held in self.held]
        actions += [lambda held=held: self._take_up(held) for held in self.left]
        actions *= 8  # most of what happens is work, or little of it would be done
        if books.timers:
            actions.append(self._ring)
        if self.orders:
            letters = await self._open_letters() if "open" in books.letters.values() else []
            actions += [lambda each=each: self._replay(each) for each in letters]
            actions += [lambda each=each: self._drop(each) for each in letters]
            if actions:
                actions += [self._compensate, self._hurry]
            if books.state == "failed" or (books.state == "compensating" and self.draw(2)):
                actions.append(self._resolve)
        if self.timeouts and actions:
            actions.append(self._expire)
        if self.crashes:
            actions += [lambda held=held: self._crash(held) for held in self.held]
        actions += [lambda zombie=zombie: self._wake(zombie) for zombie in self.zombies]
        if self.repeats and actions:
            actions += [lambda step=step: self._set_back(step) for step in STEPS]
            first = [each.work.envelope for each in self.held if each.delivery.stream == self.desk.stream()]
            events = [("E0", "E0", ""), *[(each.id, each.type, each.ledger) for each in first if each.phase != BACK]]
            actions += [lambda each=each: self._publish_again(*each) for each in events]
        return actions

    # -- workers -----------------------------------------------------------------------------------

    def _number(self) -> int:
        self.count += 1
        return self.count

    def _new_worker(self, step: Step) -> Worker:
        return Worker(self.desk, Identity(step.participant, f"c{self._number()}"))

    async def _read(self, step: Step) -> None:
        worker = self._new_worker(step)
        found = await worker.read_all(1)
        for delivery in found:
            entry = parse(delivery.fields or {})
            is_topic = delivery.stream == self.desk.stream()
            if is_topic and entry.type != step.on:
                await self.desk.call("XACK", delivery.stream, worker.name, delivery.entry)
            else:
                self._hold(step, worker, delivery)
        if not found:
            self.idle.add(step.number)

    def _hold(self, step: Step, worker: Worker, delivery: Delivery) -> None:
        entry = parse(delivery.fields or {})
        work = Work(entry, 0) if delivery.stream == self.desk.stream() else Work.of_inbox(entry, 0)
        same = [
            each for each in self.held
            if (each.step, each.delivery.stream, each.delivery.entry) == (step, delivery.stream, delivery.entry)
        ]  # fmt: skip
        for each in same:
            self.held.remove(each)
            if each.begun is not None:
                self.zombies.append(each)
                self._take_effect(each)
        event_id = work.undo.partition(":")[2] or work.envelope.id
        head = Head(
            0, delivery.stream, delivery.entry, delivery.deliveries, "s1", SAGA_TYPE, step.name, event_id,
            "" if work.undo else work.envelope.type, f"t{self._number()}",
            bool(work.undo) or work.envelope.phase == BACK, NOW, work.attempt,
        )  # fmt: skip
        self.held.append(Held(step, worker, delivery, work, head))

    async def _move(self, held: Held) -> None:
        if held.begun is None and not held.work.planned:
            most = 1 + self.draw(3)
            begin = (
                BeginUndo(held.head, "undo", most) if held.is_undo
                else Begin(held.head, ledger=held.work.envelope.ledger, undoable=held.step.undoable, most=most)
            )  # fmt: skip
            held.begun = await self._decide(held, begin)
            if held.begun not in TO_BE_DECIDED:
                self.held.remove(held)
            if held.begun is Verdict.BUSY:
                self.left.append(held)
            return
        self.held.remove(held)
        decision = self._decision(held)
        if not (isinstance(decision, Failed) and decision.reason == "aborted"):
            self._take_effect(held)
        await self._decide(held, decision)
        self.idle.clear()

    def _take_effect(self, held: Held) -> None:
        """Unless it aborts, a run that has begun may have its effect, whatever the gate says of it then."""
        if held.begun is Verdict.RUN and held.step.undoable and not held.head.back:
            self.effects.add(held.step.line(held.head.event))

    async def _decide(self, held: Held, decision: Decision) -> Verdict:
        """Send a decision; now and then twice, for the reply was lost."""
        verdict = await held.worker.verdict(decision)
        assert verdict is not Verdict.BLOCKED
        if not self.draw(8):
            before = await self.books()
            again = await held.worker.verdict(decision)
            assert await self.books() == before
            assert again is verdict or verdict not in TO_BE_DECIDED
        return verdict

    async def _crash(self, held: Held) -> None:
        """Another worker takes over a delivery; whoever had it may wake up yet."""
        self.crashes -= 1
        if not await self._claim(held):
            self.held.remove(held)

    async def _take_up(self, held: Held) -> None:
        """The lease of a delivery that was left pending has run out."""
        self.left.remove(held)
        await self._claim(held)

    async def _claim(self, held: Held) -> bool:
        heir = self._new_worker(held.step)
        taken = await heir.claim_if_pending(held.delivery)
        if taken is not None:
            self._hold(held.step, heir, taken)
        return taken is not None

    async def _wake(self, zombie: Held) -> None:
        self.zombies.remove(zombie)
        before = await self.books()
        assert await zombie.worker.verdict(self._decision(zombie)) in TOO_LATE
        after = await self.books()
        assert (after.record, after.work, after.timers) == (before.record, before.work, before.timers)

    # -- decisions ---------------------------------------------------------------------------------

    def _fails(self) -> bool:
        """Whether something goes wrong now."""
        if not self.failures or self.draw(3):
            return False
        self.failures -= 1
        return True

    def _decision(self, held: Held) -> Decision:
        if held.work.planned:
            return self._publication(held)
        if held.is_undo:
            return self._undo_decision(held)
        return self._step_decision(held)

    def _publication(self, held: Held) -> Decision:
        planned = held.work.envelope
        emission = Emission(self.desk.stream(), planned.id, planned.type, "", planned.data)
        return Publish(held.head, emission, planned.source, planned.cause, planned.ledger, "")

    def _step_decision(self, held: Held) -> Decision:
        step, head, ledger = held.step, held.head, held.work.envelope.ledger
        if held.begun is Verdict.DOUBT:
            return Done(head, ledger=ledger, keep=True, input=b"input")
        if held.begun is Verdict.POISON:
            return Failed(head, "dead", "boom", self._letter(held, Reason.POISON), ledger=ledger, keep=step.undoable)
        if self._fails():
            match self.draw(5):
                case 0:
                    parked = Parked(head.attempt + 1, event=held.work.envelope.pack(), step=step.name)
                    parking = Parking(DUE, parked.pack(), "boom", "")
                    return RetryStep(head, parking, ledger=ledger, keep=step.undoable, input=b"input")
                case 1:
                    return self._done(held, Emission(self.desk.stream(), f"A<{step.line(head.event)}", "A", "a", b"{}"))
                case kind:
                    letter = self._letter(held, Reason.STEP_FAILED)
                    reason = ("aborted", "dead", "parked")[kind - 2]
                    keep = step.undoable and reason != "aborted"
                    return Failed(head, reason, "boom", letter, ledger=ledger, keep=keep, input=b"input")
        emissions = [Emission(self.desk.stream(), f"{step.emits}<{head.event}", step.emits, step.ends, b"{}")]
        if step.plans:
            emissions.append(self._plan(held))
        return self._done(held, *emissions)

    def _done(self, held: Held, *emissions: Emission) -> Done:
        return Done(
            held.head, ledger=held.work.envelope.ledger, keep=held.step.undoable, input=b"input",
            result=b"result", emissions=emissions,
        )  # fmt: skip

    def _plan(self, held: Held) -> Emission:
        step, head = held.step, held.head
        planned = Envelope(
            f"{step.plans}<{head.event}", step.plans, "s1", b"{}", source=f"{step.participant}/{step.name}",
            cause=head.event, ledger=step.line(head.event),
        )  # fmt: skip
        parked = Parked(1, event=planned.pack(), step=step.name, planned=True)
        return Emission(self.desk.stream(), planned.id, planned.type, "", parked.pack(), DUE)

    def _undo_decision(self, held: Held) -> Decision:
        head, step = held.head, held.step
        if held.begun is Verdict.POISON:
            return Stuck(head, "undo", "boom", "", self._letter(held, Reason.POISON, "undo"))
        if self._fails():
            if self.draw(2):
                return Stuck(head, "undo", "boom", "", self._letter(held, Reason.UNDO_FAILED, "undo"))
            parked = Parked(head.attempt + 1, undo=held.work.undo)
            return RetryUndo(head, "undo", Parking(DUE, parked.pack(), "boom", ""))
        emission = Emission(self.desk.stream(), f"R<{held.work.undo}", f"R{step.number}", "", b"{}")
        return Undone(head, "undo", (emission,))

    def _letter(self, held: Held, reason: Reason, undo: str = "") -> Letter:
        about, head = held.work.envelope, held.head
        return Letter.of(
            f"{reason}:{head.step}:{head.event}", reason, subject="s1", participant=held.step.participant,
            step=head.step, undo=undo, id=head.event, type=head.type, ledger=about.ledger, phase=about.phase,
            data=b"{}",
        )  # fmt: skip

    # -- clocks, operators, producers --------------------------------------------------------------

    async def _ring(self) -> None:
        """Everything that is parked is due."""
        await self.desk.broker.timers.move_due(LATER)
        self.idle.clear()

    async def _expire(self) -> None:
        """The saga's deadline passes."""
        self.timeouts -= 1
        overdue = Overdue("s1", SAGA_TYPE, NOW, True, (), "timeout", b"{}")
        for _ in range(2):
            await self.desk.broker.expiry.expire(0, 0, NOW, [overdue])
        self.idle.clear()

    async def _open_letters(self) -> list[Filed]:
        return await self.desk.broker.letters.listed(lambda each: each.state == "open", limit=100)

    async def _order(self, order: Callable[[OrderSlip], Awaitable[Any]]) -> None:
        """Give an order; it arrives twice, and is carried out once."""
        self.orders -= 1
        slip = OrderSlip(NOW, f"o{self._number()}", "ann")
        answer = await order(slip)
        before = await self.books()
        again = await order(slip)
        assert answer[0] == again[0]
        assert await self.books() == before
        self.idle.clear()

    async def _replay(self, filed: Filed) -> None:
        attempt, parts = attempt_of(filed.fields, None)
        await self._order(lambda slip: self.desk.broker.letters.replay(filed, slip, attempt, parts))

    async def _drop(self, filed: Filed) -> None:
        await self._order(lambda slip: self.desk.broker.letters.drop(filed, slip))

    async def _hurry(self) -> None:
        await self._order(lambda slip: self.desk.broker.letters.hurry("s1", slip))

    async def _resolve(self) -> None:
        await self._order(lambda slip: self.desk.broker.letters.resolve("s1", slip))

    async def _compensate(self) -> None:
        async def compensate(slip: OrderSlip) -> tuple[str]:
            try:
                await self.desk.broker.sagas.compensate("s1", NOW, slip.token, "why", "ann")
            except (SagaClosed, SagaNotFound):
                return ("refused",)
            return ("compensated",)

        await self._order(compensate)

    async def _set_back(self, step: Step) -> None:
        """A participant gets everything again."""
        self.repeats -= 1
        for stream in (self.desk.stream(), self.desk.inbox(step.participant)):
            await self.desk.call("XGROUP", "SETID", stream, step.participant, "0")
        self.idle.clear()

    async def _publish_again(self, event_id: str, type: str, ledger: str) -> None:
        """An event is published twice."""
        self.repeats -= 1
        await self.desk.publish(event_id, type, source="again", **({"ledger": ledger} if ledger else {}))
        self.idle.clear()

    # -- looks -------------------------------------------------------------------------------------

    async def books(self) -> Books:
        """What the server holds; also checks what no history may show."""
        keys, topic = self.desk.keys, self.desk.stream()
        inboxes = [self.desk.inbox(step.participant) for step in STEPS]
        timers, parked, record, work, *streams = await self._ask(
            ("ZRANGE", keys.timers(0), 0, -1), ("HKEYS", keys.parked(0)), ("HGETALL", self.desk.record()),
            ("HGETALL", self.desk.work()), *[("XRANGE", key, "-", "+") for key in (topic, *inboxes)],
        )  # fmt: skip
        facts, *requests = [[(entry, parse(pairs_of(flat))) for entry, flat in stream] for stream in streams]
        assert set(parked) == {*timers, *[b"s:" + each for each in timers]}
        assert max(Counter(each.id for _, each in facts if each.source != "again").values()) == 1
        return Books(
            texts_of(record), texts_of(work), {each.decode().removesuffix(" s1") for each in timers},
            await self._find_coming(facts, requests), await self._letters(),
        )  # fmt: skip

    async def _ask(self, *commands: tuple[Any, ...]) -> list[Any]:
        return await self.desk.broker.connection.call_many(commands)

    async def _find_coming(self, facts: list[Entry], requests: list[list[Entry]]) -> set[str]:
        """What the entries are about that are in somebody's hands or unread."""
        commands: list[tuple[Any, ...]] = []
        for step in STEPS:
            for key in (self.desk.stream(), self.desk.inbox(step.participant)):
                commands += [("XPENDING", key, step.participant, "-", "+", 1000), ("XINFO", "GROUPS", key)]
        answers, coming = iter(await self._ask(*commands)), set()
        for step, mine in zip(STEPS, requests, strict=True):
            for entries in (facts, mine):
                pending, groups = {row[0] for row in next(answers)}, map(pairs_of, next(answers))
                (last,) = [order_of(each[b"last-delivered-id"]) for each in groups if each[b"name"] == step.participant.encode()]
                for entry, each in entries:
                    if (entry in pending or order_of(entry) > last) and (entries is mine or each.type == step.on):
                        coming.add(about(step, each))
        return coming

    async def _letters(self) -> dict[str, str]:
        found = {}
        for each in await self.desk.broker.letters.listed(lambda each: True, limit=100):
            line = f"{each.text('participant')}/{each.text('step')}:{each.text('id')}"
            found[f"undo:{line}" if each.text("undo") else line] = each.state
        return found


def play(make_connection: Callable[[], Connection], namespace: str, examples: int) -> None:
    """Play so many random histories on one store."""
    with asyncio.Runner() as runner:

        async def connect() -> Desk:
            return Desk.on(make_connection(), namespace)

        desk = runner.run(connect())

        @settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=examples)
        @given(st.data())
        def check(data: st.DataObject) -> None:
            def draw(number: int) -> int:
                return data.draw(st.integers(0, number - 1)) if number > 1 else 0

            runner.run(desk.clear())
            runner.run(History(desk, draw).run())

        try:
            check()
        finally:
            runner.run(desk.broker.connection.close())


def test_random_histories(server_url: str, namespace: str) -> None:
    """Counters equal rows, whatever is open has somebody who will decide about it, nothing is committed twice,
    no order is carried out twice, and when nothing is left to happen nothing is left open either.
    """
    play(lambda: Connection.open(server_url), namespace, 30)


@pytest.mark.parametrize("examples", [15])
def test_random_histories_on_the_fake(namespace: str, examples: int) -> None:
    """So it is on the fake server."""
    play(lambda: Connection(fakeredis.FakeAsyncRedis(protocol=2)), namespace, examples)
