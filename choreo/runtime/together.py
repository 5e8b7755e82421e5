"""Deliveries that came together, and whose handlers never wait: one question for all, and one commit."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from itertools import compress, islice
from typing import Any

from choreo.broker.answers import Answer, Verdict
from choreo.broker.gate import Decision
from choreo.broker.groups import Delivery
from choreo.errors import BrokerError
from choreo.runtime.delivery import Handling, Known, Opening
from choreo.runtime.lives import SLICE, Lives, ask, ask_all
from choreo.runtime.parked import Work
from choreo.wire.limits import MAX_BATCH, MAX_BATCH_BYTES

logger = logging.getLogger("choreo.runtime")

#: Answers after which something is still to be done.
_UNDECIDED = frozenset({Verdict.RUN, Verdict.ASK, Verdict.DOUBT, Verdict.POISON, Verdict.BLOCKED})
#: Those of them with which a member goes on in its group. One that has begun and is in doubt must not ask
#: anew: to the gate that would be another delivery, and busy.
_GOES_ON = frozenset({Verdict.RUN, Verdict.DOUBT})


@dataclass(eq=False, slots=True)
class _Member:
    """One of a group."""

    delivery: Delivery
    work: Work
    opening: Opening


@dataclass(slots=True)
class Together:
    """Lives of whole groups. Most deliveries are handled once and succeed at once; what they ask the gate is
    asked in one breath. Whoever turns out to be otherwise lives on alone."""

    lives: Lives
    handling: Handling
    alone: Callable[[Delivery, Work, bool], Coroutine[Any, Any, None]]
    """The life of one delivery, from its beginning; and whether the gate was asked about it before. It lets
    go of the delivery at its end."""
    let_go: Callable[[Delivery], None]

    def start(self, found: Sequence[tuple[Delivery, Work]]) -> None:
        """Begin the lives of deliveries that are in hand."""
        groups: dict[tuple[int, bool, bool], list[_Member]] = {}
        for delivery, work in found:
            opening = self._open(delivery, work) if self.handling.is_quick(delivery, work) else None
            if opening is None:
                self.lives.start(self.alone(delivery, work, False))
            elif isinstance(opening, Decision):
                self.lives.start(self._commit_alone(delivery, opening))
            else:
                head = opening.question.head
                kind = head.partition, head.back, opening.known is None
                groups.setdefault(kind, []).append(_Member(delivery, work, opening))
        for group in groups.values():
            members = iter(group)
            while part := list(islice(members, MAX_BATCH)):
                self.lives.start(self._live(part))
        self.lives.hurry()

    def _open(self, delivery: Delivery, work: Work) -> Opening | Decision | None:
        try:
            return self.handling.open(delivery, work)
        except Exception:
            return None  # whatever it is, it will be told when it is met again

    async def _live(self, group: Sequence[_Member]) -> None:
        held = set(group)
        try:
            ran = await self._run(group, held)
            if ran:
                await self._commit(ran, held)
        finally:
            for each in held:
                self.let_go(each.delivery)

    async def _run(self, group: Sequence[_Member], held: set[_Member]) -> list[tuple[_Member, Decision]]:
        """Run those that may run, for as long as it is this life's turn; returns what came of them."""
        try:
            answers = await self._answers(group)
        except BrokerError:  # one of them cannot even ask: each shall find out for itself
            for each in group:
                self._go_alone(each, held)
            return []
        ran: list[tuple[_Member, Decision]] = []
        end, room = self.lives.stopwatch() + SLICE, MAX_BATCH_BYTES
        for number, (each, answer) in enumerate(zip(group, answers, strict=True)):
            if answer.verdict not in _UNDECIDED:
                continue  # it is settled, or left pending
            if answer.verdict not in _GOES_ON:
                self._go_alone(each, held)
                continue
            if ran and (room < 0 or self.lives.stopwatch() > end):
                # Others have their turn, and the answers would be old by then.
                self._go_later(group[number:], held, 2 * len(ran))
                break
            try:
                decision = _at_once(each.opening.outcome(answer))
                room -= decision.weight
                ran.append((each, decision))
            except Exception:
                # Whatever is wrong with one delivery must not harm the others. It stays pending.
                logger.exception("%s of %s is left pending", each.delivery.entry, each.delivery.stream)
        return ran

    async def _answers(self, group: Sequence[_Member]) -> Sequence[Answer]:
        """The gate's answers to what members of a group ask: of all of them they are known, or of none."""
        known = [each.opening.known for each in group if each.opening.known]
        if known and await self.handling.known_answer(min(known, key=_until)):
            return [each.answer for each in known]
        return await ask_all([each.opening.question for each in group])

    def _go_later(self, group: Sequence[_Member], held: set[_Member], size: int) -> None:
        held.difference_update(group)
        for each in group:
            each.opening = each.opening._replace(known=None)
        parts = deque(group[first : first + size] for first in range(0, len(group), size))
        self.lives.start(self._live_by_parts(parts))

    async def _live_by_parts(self, parts: deque[Sequence[_Member]]) -> None:
        """So many at a time as have enough time: what is asked too early is asked again."""
        try:
            while parts:
                await self._live(parts.popleft())
        finally:
            for part in parts:
                for each in part:
                    self.let_go(each.delivery)

    def _go_alone(self, member: _Member, held: set[_Member]) -> None:
        held.discard(member)
        self.lives.start(self.alone(member.delivery, member.work, True))

    async def _commit(self, ran: Sequence[tuple[_Member, Decision]], held: set[_Member]) -> None:
        try:
            answers = await ask_all([decision for _, decision in ran])
        except BrokerError:  # what cannot be sent is one's own fault
            left = ran
        else:
            left = list(compress(ran, [answer.verdict is Verdict.BLOCKED for answer in answers]))
        for member, decision in left:
            held.discard(member)
            self.lives.start(self._commit_alone(member.delivery, decision))

    async def _commit_alone(self, delivery: Delivery, decision: Decision) -> None:
        try:
            await ask(decision)
        except BrokerError as error:
            # It stays pending, and is delivered again when its lease has run out.
            logger.warning("%s of %s is left pending: %s", delivery.entry, delivery.stream, error)
        finally:
            self.let_go(delivery)


def _until(known: Known) -> int:
    return known.until


def _at_once(running: Coroutine[Any, Any, Decision]) -> Decision:
    """What comes of a handler that never waits."""
    try:
        running.send(None)
    except StopIteration as end:
        decision: Decision = end.value
        return decision
    running.close()
    raise RuntimeError("it waits for something, although it seemed that it never does")
