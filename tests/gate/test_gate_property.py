"""Random choreographies under random interleavings, crashes and repetitions, against a reference."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import fakeredis
import msgspec
import pytest
from gate_kit import Desk, Worker, aborted, begin, begin_undo, dead, done, doubtful, stuck, undone
from gate_model import AT_THE_END, Choreography, Model, Outcome, Plan, Published, choreographies
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from choreo.broker.answers import Verdict
from choreo.broker.connection import Connection
from choreo.broker.gate import Decision, Done, Emission, Failed, Head, Identity
from choreo.broker.groups import Delivery

NEVER_LATER = (Verdict.STALE, Verdict.DUPLICATE)


@dataclass
class Held:
    """A delivery in a worker's hands. ``begun``: what the gate answered when it asked to begin."""

    plan: Plan
    worker: Worker
    delivery: Delivery
    head: Head
    event: Published | None
    """``None`` for a request to undo."""
    begun: Verdict | None = None


@dataclass
class Play:
    """One saga, played by workers whose every move is drawn."""

    desk: Desk
    plan: Choreography
    draw: Callable[[int], int]
    model: Model = field(init=False)
    held: list[Held] = field(default_factory=list)
    zombies: list[Held] = field(default_factory=list)
    left: list[Held] = field(default_factory=list)
    """Deliveries that are pending because their event is in other hands."""
    nothing_new: set[int] = field(default_factory=set)
    crashes: dict[str, int] = field(default_factory=lambda: {"running": 2, "unwinding": 3, "completed": 1})
    """How many more workers may die, by how the saga stands."""
    repeats: int = 2
    moods: int = 2
    """How many more runs may abort, though their step does not."""
    effects: set[str] = field(default_factory=set)
    """Lines of which a run may have taken effect."""
    consumers: int = 0

    async def run(self) -> None:
        """Play until nothing more can happen, then look at what has come of it."""
        self.model = Model(self.plan)
        self.model.events["E0"] = Published("E0", "E0")
        for step in self.plan.steps:
            await self.desk.worker(step.participant)
        await self.desk.publish("E0", "E0")
        while actions := self._actions():
            await actions[self.draw(len(actions))]()
        await self._check()

    def _actions(self) -> list[Callable[[], Awaitable[None]]]:
        actions: list[Callable[[], Awaitable[None]]] = []
        for step in self.plan.steps:
            if step.number not in self.nothing_new:
                actions.append(lambda step=step: self._read(step))
        for held in self.held:
            actions.append(lambda held=held: self._move(held))
        for held in self.left:
            actions.append(lambda held=held: self._take_up(held))
        if not actions:
            ordered = self.plan.ordered_after == AT_THE_END and self.model.state == "running"
            return [self._order] if ordered else []
        if self.crashes[self.model.state]:
            actions += [lambda held=held: self._crash(held) for held in self.held]
        actions += [lambda zombie=zombie: self._wake(zombie) for zombie in self.zombies]
        if self.repeats:
            actions += [lambda step=step: self._set_back(step) for step in self.plan.steps]
            in_hand = [held.event for held in self.held if held.event is not None]
            events = [self.model.events["E0"], *in_hand]
            actions += [lambda each=each: self._publish_again(each) for each in events]
        if self.model.state == "running" and len(self.model.decided) >= self.plan.ordered_after:
            actions.append(self._order)
        return actions

    # -- moves -------------------------------------------------------------------------------------

    def _new_worker(self, step: Plan) -> Worker:
        self.consumers += 1
        return Worker(self.desk, Identity(step.participant, f"c{self.consumers}"))

    async def _read(self, step: Plan) -> None:
        """A new worker takes what comes next of the stream and of the inbox."""
        worker = self._new_worker(step)
        found = await worker.read_all(1)
        for delivery in found:
            if delivery.stream != self.desk.stream():
                self._hold(Held(step, worker, delivery, worker.undo_head(delivery), None))
                continue
            head = worker.head(delivery, step=step.step)
            if head.type in step.on:
                self._hold(Held(step, worker, delivery, head, self.model.events[head.event]))
            else:
                await self.desk.call("XACK", delivery.stream, worker.name, delivery.entry)
        if not found:
            self.nothing_new.add(step.number)

    def _hold(self, held: Held) -> None:
        """Whoever had this entry before is a zombie now."""
        same = [
            other for other in self.held
            if (other.delivery.stream, other.delivery.entry, other.plan)
            == (held.delivery.stream, held.delivery.entry, held.plan)
        ]  # fmt: skip
        for other in same:
            self.held.remove(other)
            if other.begun is not None:
                self.zombies.append(other)
                self._take_effect(other, held.plan.outcome)
        self.held.append(held)

    async def _move(self, held: Held) -> None:
        """The next thing that a worker does with a delivery: begin, or commit what came of it."""
        if held.begun is None:
            await self._begin(held)
        else:
            self.held.remove(held)
            outcome = self._outcome(held)
            self._take_effect(held, outcome)
            expected = self._expected_commit(held, outcome)
            assert await held.worker.verdict(self._commit(held, outcome)) is expected
            self.nothing_new.clear()
        await self._compare_states()

    async def _begin(self, held: Held) -> None:
        if held.event is None:
            expected = self.model.begin_undo(self._line(held))
            answers = await held.worker.decide(begin_undo(held.head))
        else:
            expected = self.model.begin(held.plan, held.event, held.head)
            joins = held.plan.on if held.plan.is_join else ()
            question = begin(held.head, held.delivery, undoable=held.plan.undoable, joins=joins)
            answers = await held.worker.decide(question)
            if not self.draw(8):  # the answer was lost
                assert await held.worker.verdict(question) is answers[0].verdict
            if expected in (Verdict.RUN, Verdict.DOUBT) and joins:
                inputs = self.model.inputs(held.plan, held.event)
                assert answers[0].rest[1:] == tuple(each.id.encode() for each in inputs)
        assert answers[0].verdict is expected
        held.begun = expected
        if expected not in (Verdict.RUN, Verdict.DOUBT):
            self.held.remove(held)
        if expected is Verdict.BUSY:
            self.left.append(held)

    def _line(self, held: Held) -> str:
        return held.plan.line(held.head.event)

    def _outcome(self, held: Held) -> Outcome:
        """What a run comes to: mostly what its step does."""
        keeps = held.event is not None and held.plan.outcome is Outcome.KEEPS
        if not keeps or held.begun is not Verdict.RUN or not self.moods or self.draw(4):
            return held.plan.outcome
        self.moods -= 1
        return Outcome.ABORTS

    def _take_effect(self, held: Held, outcome: Outcome) -> None:
        """Unless it aborts, a run that has begun has its effect, whatever the gate says of it then."""
        forward = held.event is not None and not held.event.back
        if forward and held.begun is Verdict.RUN and held.plan.keeps and outcome is not Outcome.ABORTS:
            self.effects.add(self._line(held))

    def _expected_commit(self, held: Held, outcome: Outcome) -> Verdict:
        if held.event is None:
            return self.model.commit_undo(self._line(held))
        return self.model.commit(held.plan, held.event, outcome, doubtful=held.begun is Verdict.DOUBT)

    def _commit(self, held: Held, outcome: Outcome) -> Decision:
        plan, head = held.plan, held.head
        if held.event is None:
            out = [self.desk.emit(f"u<{self._line(held)}", f"R{plan.number}", stream="facts")]
            return stuck(head) if plan.undo_fails else undone(head, *out[: plan.undo_emits])
        if held.begun is Verdict.DOUBT:
            return self._with_inputs(held, doubtful(head, held.delivery))
        if outcome is Outcome.ABORTS:
            return self._with_inputs(held, aborted(head, held.delivery))
        if outcome is Outcome.FAILS:
            return self._with_inputs(held, dead(head, held.delivery, keep=plan.undoable))
        emissions = self._emissions(plan, head)
        return self._with_inputs(held, done(head, held.delivery, *emissions, keep=plan.keeps))

    def _emissions(self, plan: Plan, head: Head) -> list[Emission]:
        ends = {Outcome.REFUSES: "a", Outcome.ENDS: f"c{self.plan.ends_needed}"}.get(plan.outcome, "")
        return [
            self.desk.emit(f"{plan.number}.{number}<{head.event}", plan.emits, ends=ends, stream="facts")
            for number in range(plan.copies)
        ]

    def _with_inputs(self, held: Held, decision: Done | Failed) -> Decision:
        """The decision with what a join's worker knows of all its events."""
        if not held.plan.is_join or held.event is None:
            return decision
        inputs = self.model.inputs(held.plan, held.event)
        ledger = " ".join(sorted(set().union(*[each.ledger for each in inputs])))
        return msgspec.structs.replace(decision, ledger=ledger, joins=held.plan.on)

    async def _crash(self, held: Held) -> None:
        """A worker dies, or seems to: another one takes its delivery over."""
        self.crashes[self.model.state] -= 1
        await self._claim(held)

    async def _take_up(self, held: Held) -> None:
        """The lease of a delivery that was left pending has run out."""
        self.left.remove(held)
        await self._claim(held)

    async def _claim(self, held: Held) -> None:
        heir = self._new_worker(held.plan)
        taken = await heir.claim_if_pending(held.delivery)
        if taken is None:  # a zombie of the same entry has learnt that it is a duplicate, and acknowledged it
            return
        head = heir.undo_head(taken) if held.event is None else heir.head(taken, step=held.plan.step)
        self._hold(Held(held.plan, heir, taken, head, held.event))

    async def _wake(self, zombie: Held) -> None:
        """A worker that was only paused commits after all: too late."""
        self.zombies.remove(zombie)
        assert await zombie.worker.verdict(self._commit(zombie, zombie.plan.outcome)) in NEVER_LATER
        await self._compare_states()

    async def _set_back(self, step: Plan) -> None:
        """A participant gets everything again."""
        self.repeats -= 1
        for stream in (self.desk.stream(), self.desk.inbox(step.participant)):
            await self.desk.call("XGROUP", "SETID", stream, step.participant, "0")
        self.nothing_new.discard(step.number)

    async def _publish_again(self, event: Published) -> None:
        """Every participant gets an event a second time."""
        self.repeats -= 1
        attributes = {"ledger": " ".join(sorted(event.ledger)), "phase": "back" if event.back else ""}
        known = {name: value for name, value in attributes.items() if value}
        await self.desk.publish(event.id, event.type, source="again", **known)
        self.nothing_new.clear()

    async def _order(self) -> None:
        """An operator unwinds the saga."""
        await self.desk.broker.sagas.compensate("s1", 1, "token", "why", "who")
        self.model.unwind()
        self.nothing_new.clear()

    # -- what must be true -------------------------------------------------------------------------

    async def _compare_states(self) -> None:
        state = await self.desk.state()
        assert state == (self.model.expected_state if state else None)

    async def _check(self) -> None:
        event(self.model.expected_state)
        dump, keys, model = await self.desk.dump(), self.desk.keys, self.model
        facts = [_fields(flat) for _, flat in dump[self.desk.stream()][1][0]]
        journal = [_fields(flat) for _, flat in dump.get(keys.journal(0), (0, ((), 0, 0)))[1][0]]
        emitted = [each["id"] for each in facts if each.get("source") != "again"]
        assert sorted(emitted) == sorted(model.events)
        assert {each["id"]: each.get("phase") == "back" for each in facts} == {
            each.id: each.back for each in model.events.values()
        }
        told = facts + journal
        assert max(Counter(each["id"] for each in told if each.get("source") != "again").values()) == 1
        self._check_undos(dump, told)
        self._check_record(dump, told)
        assert len(await self.desk.letters()) == model.letters
        for step in self.plan.steps:
            assert await (await self.desk.worker(step.participant)).pending() == []

    def _check_undos(self, dump: dict, told: list[dict[str, str]]) -> None:
        """Everything that took effect was undone once, and asked for once, if the saga unwound."""
        model = self.model
        requests = [
            _fields(flat)["data"]
            for step in self.plan.steps
            for _, flat in dump[self.desk.inbox(step.participant)][1][0]
        ]
        assert sorted(requests) == sorted(model.asked)
        assert sorted(entry for each in told for entry in each.get("asks", "").split()) == sorted(model.asked)
        undone = [(each["participant"], each["cause"]) for each in told if each.get("kind") == "undone"]
        assert len(undone) == len(set(undone)) == len(model.undone)
        if model.state == "unwinding":
            assert sorted(model.undone + model.stuck) == sorted(model.must_undo)
            assert self.effects <= model.must_undo
        else:
            assert model.asked == []

    def _check_record(self, dump: dict, told: list[dict[str, str]]) -> None:
        model, (_, record) = self.model, dump[self.desk.record()]
        turns = {int(each["seq"]): each["state"] for each in told if "seq" in each}
        last = max(turns, default=0)
        assert int(record[b"seq"]) == last
        assert record[b"state"].decode() == model.expected_state == turns.get(last, "running")
        _, work = dump.get(self.desk.work(), ("hash", {}))
        left = {name.decode() for name in work}
        match model.expected_state:
            case "compensated":
                assert left == set()
            case "completed":
                assert left == set(model.waiting_parts())
            case "failed":
                assert {name[2:] for name in left if name[1:2] == ":"} == {*model.stuck, *model.spoiled}
            case "running":
                assert {name[2:] for name in left if name[:2] == "e:"} == set(model.ledger)


def _fields(flat: list[bytes]) -> dict[str, str]:
    return {name.decode(): value.decode() for name, value in zip(flat[::2], flat[1::2], strict=True)}


SETTINGS = settings(
    deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.reuse, Phase.generate, Phase.shrink]
)


def play(make_connection: Callable[[], Connection], namespace: str, examples: int) -> None:
    """Play so many random choreographies on one store."""
    with asyncio.Runner() as runner:

        async def connect() -> Desk:
            return Desk.on(make_connection(), namespace)

        desk = runner.run(connect())

        @settings(SETTINGS, max_examples=examples)
        @given(choreographies(), st.data())
        def check(plan: Choreography, data: st.DataObject) -> None:
            def draw(number: int) -> int:
                return data.draw(st.integers(0, number - 1)) if number > 1 else 0

            runner.run(desk.clear())
            runner.run(Play(desk, plan, draw).run())

        try:
            check()
        finally:
            runner.run(desk.broker.connection.close())


def test_random_choreographies(server_url: str, namespace: str) -> None:
    """Whatever happens in whatever order, the gate answers as the reference does: every effect of a saga
    that aborts is undone once and after everything that it caused, nothing is emitted twice, and the
    saga's end is the one that its steps bring about.
    """
    play(lambda: Connection.open(server_url), namespace, 50)


@pytest.mark.parametrize("examples", [15])
def test_random_choreographies_on_the_fake(namespace: str, examples: int) -> None:
    """The fake server's gate answers as the reference does, too."""
    play(lambda: Connection(fakeredis.FakeAsyncRedis(protocol=2)), namespace, examples)
