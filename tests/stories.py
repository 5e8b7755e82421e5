"""Sagas told fact by fact, as the commit gate tells them, with an account of what must come out.

:class:`Story` follows the gate's rules in a few lines: who is undone when, which fact carries a change of
state. It is an independent second account, with which a view or a trace can be compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
from hypothesis import strategies as st

from choreo.model.facts import Fact, Kind
from choreo.model.saga import State
from choreo.wire.envelope import derive_id


@dataclass
class Row:
    """A ledger entry: what caused it, how much that it caused is left, and where it stands."""

    parents: tuple[str, ...]
    children: int = 0
    asked: bool = False
    failed: bool = False


@dataclass
class Story:
    """One saga. ``facts`` are what was told so far; the other attributes what is true of it."""

    saga_type: str = "order"
    now: int = 1_000_000
    skew: dict[str, int] = field(default_factory=dict)
    """Participant -> how far its clock is ahead (ms)."""
    facts: list[Fact] = field(default_factory=list)
    state: State = State.RUNNING
    seq: int = 0
    done: Counter[str] = field(default_factory=Counter)
    undone: Counter[str] = field(default_factory=Counter)
    letters: int = 0
    retries: int = 0
    spoiled: bool = False
    """Whether part of the way back has failed for good."""
    ledger: dict[str, Row] = field(default_factory=dict)
    decided: set[tuple[str, str]] = field(default_factory=set)
    """Handler and event id of what was decided."""
    _turned: bool = False
    _asks: list[str] = field(default_factory=list)

    @property
    def events(self) -> list[Fact]:
        return [fact for fact in self.facts if fact.kind is Kind.EVENT]

    @property
    def asked(self) -> list[str]:
        """Ledger entries whose undo was asked for and has not run."""
        return sorted(entry for entry, row in self.ledger.items() if row.asked and not row.failed)

    @property
    def unwinds(self) -> bool:
        return self.state not in (State.RUNNING, State.COMPLETED)

    def wait(self, milliseconds: int) -> None:
        self.now += milliseconds

    # -- what happens ------------------------------------------------------------------------------

    def begin(self, event_type: str = "Placed", event_id: str = "") -> Fact:
        """A client starts the saga."""
        event_id = event_id or derive_id("start", event_type)
        return self._tell(
            Fact(event_id, Kind.EVENT, self.now, event_type, participant="client", saga_type=self.saga_type)
        )

    def step(
        self, event: Fact, handler: str, emits: Sequence[str] = (), *, undoable: bool = False,
        worked: int = 0, ends: State | None = None,
    ) -> list[Fact]:  # fmt: skip
        """A step takes effect. ``ends`` is the state that its first event brings a running saga into."""
        began = self._decide(event, handler, worked)
        self.done[handler] += 1
        late = self.unwinds and not event.back
        ledger = event.ledger
        if undoable and self.state is not State.COMPLETED and not event.back:
            ledger = self._enter(f"{handler}:{event.id}", event.ledger)
        if late:
            self._close()
            return [self._tell(self._fact(Kind.LATE, event, handler, began, note=" ".join(emits)))]
        if not emits:
            return [self._tell(self._fact(Kind.DONE, event, handler, began))]
        told = []
        aborting = self.state is State.RUNNING and ends is State.COMPENSATING
        for position, event_type in enumerate(emits):
            if position == 0 and ends and self.state is State.RUNNING:
                self._end(ends)
            told.append(self._tell(self._event(
                event, handler, event_type, position, began, ledger=ledger, back=event.back or aborting
            )))  # fmt: skip
        return told

    def keep_for_join(self, event: Fact, handler: str, missing: str) -> Fact:
        """A join keeps ``event`` until the types named in ``missing`` are there."""
        began = self._decide(event, handler, 0)
        return self._tell(self._fact(Kind.WAITING, event, handler, began, note=missing))

    def skip(self, event: Fact, handler: str) -> Fact:
        """A step does not run, for the saga unwinds."""
        return self._tell(self._fact(Kind.SKIPPED, event, handler, self._decide(event, handler, 0)))

    def abort(self, event: Fact, handler: str, reason: str = "no", *, worked: int = 0) -> Fact:
        """A step says no."""
        began = self._decide(event, handler, worked)
        too_late = self.state is State.COMPLETED or (self.unwinds and event.back)
        self._unwind()
        if too_late:
            self._lose(event)
        kind = Kind.DEAD if too_late else Kind.ABORTED
        return self._tell(self._fact(kind, event, handler, began, note=reason))

    def retry(
        self, event: Fact, handler: str, attempt: int = 1, error: str = "not now", undo: str = ""
    ) -> Fact:
        """An attempt of a step (or of an undo) fails, and another is to follow."""
        self.retries += 1
        fact = self._fact(
            Kind.RETRYING, event, handler, self._clock(handler), undo=undo, note=error, detail="Trace"
        )
        line = f"{'undo:' * bool(undo)}{handler}:{event.id}"
        return self._tell(msgspec.structs.replace(
            fact, id=f"retrying:{line}#{attempt}", attempt=attempt, due=self.now + 200
        ))  # fmt: skip

    def fail(self, event: Fact, handler: str, error: str = "boom", *, undoable: bool = False) -> Fact:
        """A step fails for good, and may have taken effect."""
        began = self._decide(event, handler, 0)
        if undoable and self.state is not State.COMPLETED and not event.back:
            self._enter(f"{handler}:{event.id}", event.ledger)
        self._unwind()
        self._lose(event)
        return self._tell(
            self._fact(Kind.DEAD, event, handler, began, note=error, detail=f"Traceback: {error}")
        )

    def order(self, note: str = "not wanted", who: str = "ann") -> Fact:
        """An operator has the saga unwound."""
        self._unwind()
        return self._tell(Fact(f"ordered:{self.now}", Kind.ORDERED, self.now, note=note, detail=who,
                               saga_type=self.saga_type))  # fmt: skip

    def refuse(self, place: str) -> Fact:
        """A malformed entry names the saga."""
        self.letters += 1
        note = "data-not-json: bad"
        return self._tell(Fact(f"refused:{place}", Kind.REFUSED, self.now, note=note, detail="data-not-json"))

    def undo(
        self, entry: str, name: str, emits: Sequence[str] = (), *, worked: int = 0, fails: bool = False
    ) -> list[Fact]:
        """An undo that was asked for runs (in vain, if ``fails``) and emits compensating events."""
        handler, _, cause = entry.partition(":")
        event = next(fact for fact in self.events if fact.id == cause)
        began = self._clock(handler)
        self.wait(worked)
        self._settle(entry, failed=fails)
        self._close()
        if fails:
            self.letters += 1
            return [
                self._tell(
                    self._fact(Kind.STUCK, event, handler, began, undo=name, note="jammed", detail="Trace")
                )
            ]
        self.undone[handler] += 1
        told = [self._tell(self._fact(Kind.UNDONE, event, handler, began, undo=name))]
        for position, event_type in enumerate(emits):
            told.append(
                self._tell(self._event(event, handler, event_type, position, began, undo=name, back=True))
            )
        return told

    # -- telling -----------------------------------------------------------------------------------

    def _clock(self, handler: str) -> int:
        return self.now + self.skew.get(handler.partition("/")[0], 0)

    def _decide(self, event: Fact, handler: str, worked: int) -> int:
        self.decided.add((handler, event.id))
        began = self._clock(handler)
        self.wait(worked)
        return began

    def _fact(
        self,
        kind: Kind,
        event: Fact,
        handler: str,
        began: int,
        *,
        undo: str = "",
        note: str = "",
        detail: str = "",
    ) -> Fact:
        participant, _, step = handler.partition("/")
        return Fact(
            f"{kind}:{handler}:{event.id}", kind, self._clock(handler), event.type, event.id, participant,
            step, undo, began, saga_type=self.saga_type, note=note, detail=detail,
        )  # fmt: skip

    def _event(
        self, event: Fact, handler: str, event_type: str, position: int, began: int, *,
        ledger: tuple[str, ...] = (), undo: str = "", back: bool = False,
    ) -> Fact:  # fmt: skip
        participant, _, step = handler.partition("/")
        return Fact(
            derive_id(event.id, participant, step, undo, str(position)), Kind.EVENT, self._clock(handler),
            event_type, event.id, participant, step, undo, began, saga_type=self.saga_type, back=back,
            ledger=ledger,
        )  # fmt: skip

    def _tell(self, fact: Fact) -> Fact:
        """Note a fact, with the change of state and the requests to undo that it brings."""
        if self._turned:
            fact = msgspec.structs.replace(fact, state=self.state.value, seq=self.seq)
        fact = msgspec.structs.replace(fact, asks=tuple(self._asks))
        self._turned, self._asks = False, []
        self.facts.append(fact)
        return fact

    # -- the ledger --------------------------------------------------------------------------------

    def _turn(self, state: State) -> None:
        self.state, self._turned = state, True
        self.seq += 1

    def _end(self, state: State) -> None:
        if state is State.COMPENSATING:
            self._unwind()
        else:
            self._turn(state)
            self.ledger.clear()

    def _enter(self, entry: str, parents: tuple[str, ...]) -> tuple[str, ...]:
        known = tuple(parent for parent in parents if parent in self.ledger)
        for parent in known:
            self.ledger[parent].children += 1
        self.ledger[entry] = Row(known)
        if self.unwinds:
            self._ask(entry)
        return (entry,)

    def _ask(self, entry: str) -> None:
        self.ledger[entry].asked = True
        self._asks.append(entry)

    def _unwind(self) -> None:
        if self.state is State.RUNNING:
            self._turn(State.COMPENSATING)
            for entry, row in sorted(self.ledger.items()):
                if not row.children:
                    self._ask(entry)
        self._close()

    def _settle(self, entry: str, *, failed: bool) -> None:
        row = self.ledger[entry]
        for parent in row.parents:
            self.ledger[parent].children -= 1
            if not self.ledger[parent].children:
                self._ask(parent)
        if failed:
            row.failed = True
        else:
            del self.ledger[entry]

    def _close(self) -> None:
        if self.state is State.COMPENSATING and all(row.failed for row in self.ledger.values()):
            self._turn(State.FAILED if self.ledger or self.spoiled else State.COMPENSATED)

    def _lose(self, event: Fact) -> None:
        """A delivery becomes a dead letter. On the way back that spoils the compensation."""
        self.letters += 1
        if event.back:
            self.spoiled = self.spoiled or self.unwinds
            if self.state is State.COMPENSATED:
                self._turn(State.FAILED)


HANDLERS = ("payments/charge", "inventory/reserve", "shipping/send", "orders/mark")
UNDOES = {"payments/charge": "refund", "inventory/reserve": "release"}
TYPES = ("Paid", "Reserved", "Shipped", "Declined")
ENDS = {"Shipped": State.COMPLETED, "Declined": State.COMPENSATING}


@st.composite
def stories(draw: st.DrawFn, *, longest: int = 14) -> Story:
    """Sagas of any shape: chains, branches, joins, aborts, retries, dead letters, undos, skewed clocks."""
    clocks = st.sampled_from((0, 0, 0, -40, 25))
    story = Story(skew={handler.partition("/")[0]: draw(clocks) for handler in HANDLERS})
    story.begin()
    numbers = st.integers(0, 63)
    for action, which, pause in draw(st.lists(st.tuples(numbers, numbers, st.sampled_from((0, 0, 1, 7))),
                                              max_size=longest)):  # fmt: skip
        story.wait(pause)
        _go_on(story, action, which)
    return story


def _go_on(story: Story, action: int, which: int) -> None:
    """Let one more thing happen to a saga, chosen by two numbers."""
    if story.asked and action % 2:
        entry = story.asked[which % len(story.asked)]
        name = UNDOES[entry.partition(":")[0]]
        if which % 7 == 6:
            cause = next(event for event in story.events if entry.endswith(f":{event.id}"))
            story.retry(cause, entry.partition(":")[0], 1, undo=name)
        story.undo(entry, name, ["Refunded"] * (which % 3 == 0), worked=which % 4, fails=which % 5 == 4)
        return
    if action == 60:
        story.refuse(f"stream:{len(story.facts)}")
    if action == 62 and story.state is State.RUNNING:
        story.order()
    open_work = [
        (event, handler)
        for event in story.events
        for handler in HANDLERS
        if (handler, event.id) not in story.decided
    ]
    if not open_work:
        return
    event, handler = open_work[which % len(open_work)]
    undoable = handler in UNDOES
    for attempt in range(which % 3 if action % 8 == 7 else 0):
        story.retry(event, handler, attempt + 1)
    # A saga does not end while a step that has an undo is under way.
    if story.unwinds and not event.back and (action % 4 < 3 or (undoable and story.state.ended)):
        story.skip(event, handler)
    elif action >= 56:
        story.fail(event, handler, undoable=undoable)
    elif action >= 52:
        story.abort(event, handler)
    elif action >= 46:
        story.keep_for_join(event, handler, "Reserved")
    else:
        emits = [TYPES[(action + number) % 4] for number in range(action % 3)]
        ends = ENDS.get(emits[0]) if emits else None
        story.step(event, handler, emits, undoable=undoable, worked=which % 9, ends=ends)


def entry_of(fact: Fact, saga_id: str) -> dict[bytes, bytes]:
    """The entry that tells a fact, as the gate writes it: of a topic if it is an event, else a journal's."""
    shared = {
        "id": fact.id, "subject": saga_id, "time": str(fact.time), "type": fact.type, "cause": fact.cause,
        "began": str(fact.began or ""), "state": fact.state, "seq": str(fact.seq or ""),
        "sagatype": fact.saga_type, "asks": " ".join(fact.asks), "attempt": str(fact.attempt or ""),
        "due": str(fact.due or ""),
    }  # fmt: skip
    if fact.kind is Kind.EVENT:
        source = "/".join(filter(None, (fact.participant, fact.step, fact.undo)))
        about = {"source": source, "ledger": " ".join(fact.ledger), "phase": "back" * fact.back, "data": "{}"}
    else:
        about = {
            "kind": fact.kind.value, "participant": fact.participant, "step": fact.step, "undo": fact.undo,
            "note": fact.note, "detail": fact.detail,
        }  # fmt: skip
    return {name.encode(): value.encode() for name, value in (shared | about).items() if value}
