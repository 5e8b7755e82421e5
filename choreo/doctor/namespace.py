"""The checks of one namespace. Each is a function of what was found there, and does no I/O."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from choreo.broker.checkup import Letters, Overdue
from choreo.broker.readers import NOTHING, Group, Pending, StreamState, order
from choreo.doctor.verdict import Said, for_each, ok, problem, redis_cli, span, warning
from choreo.model.pause import Pause
from choreo.wire.cards import Card
from choreo.wire.keys import TRACKER_GROUP
from choreo.wire.limits import LAYOUT_VERSION
from choreo.wire.topology import Topology

#: Milliseconds for which entries may wait, and a worker may not be seen, before somebody should look.
PATIENCE = 30_000
#: Milliseconds for which the lease of a delivery may not have been renewed: several leases.
OLD_LEASE = 60_000
#: Milliseconds by which ids may be ahead of the server's clock.
_AHEAD = 60_000
#: A foreign group whose consumers were seen within these milliseconds is in use.
_IN_USE = 600_000
#: Milliseconds for which a deletion by hand is worth telling.
_RECENT = 7 * 86_400_000
#: The number behind which a stream can hold no entry.
_LAST = 2**64 - 1
#: Milliseconds, or a tenth of what is kept if that is more, for which trimming may be late.
_TRIM_SLACK = 600_000
#: Names that one sentence lists.
_NAMES = 5


class Unread(NamedTuple):
    """A group that has not read all of a stream, and since when its next entry waits (ms since the epoch)."""

    stream: str
    group: str
    since: int


@dataclass(frozen=True, slots=True)
class Namespace:
    """How a namespace stands."""

    topology: Topology
    now: int
    """By the server's clock, in milliseconds since the epoch."""
    meta: Mapping[str, str] = field(default_factory=dict)
    wanted: Mapping[str, str] = field(default_factory=dict)
    """Key -> the type that it must have."""
    types: Mapping[str, str] = field(default_factory=dict)
    """Key -> the type that it has, for those that are there."""
    partitions: Mapping[str, int] = field(default_factory=dict)
    """Stream key -> its partition."""
    streams: Mapping[str, StreamState] = field(default_factory=dict)
    cards: Mapping[str, Card] = field(default_factory=dict)
    unread: tuple[Unread, ...] = ()
    held: Mapping[tuple[str, str], tuple[Pending, ...]] = field(default_factory=dict)
    """(stream, group) -> deliveries whose lease has run out long ago."""
    positions: Mapping[str, str] = field(default_factory=dict)
    """Stream key -> the last entry that a tracker has projected."""
    overdue: Overdue = field(default_factory=Overdue)
    expired: Overdue = field(default_factory=Overdue)
    """Sagas whose deadline has passed, and that nobody has made to unwind."""
    letters: Letters = field(default_factory=Letters)
    paused: Mapping[str, Pause] = field(default_factory=dict)

    @property
    def participants(self) -> list[str]:
        """Those of streams.yaml or, if it names none, those whose workers ever ran here."""
        return sorted(self.topology.participants or self.cards)

    def groups(self, name: str) -> Iterator[tuple[str, StreamState, Group]]:
        """Where a group is: stream key, stream, and the group there."""
        for key, stream in self.streams.items():
            if name in stream.groups:
                yield key, stream, stream.groups[name]

    def seen(self, name: str) -> int | None:
        """Milliseconds since a consumer of the group was seen on any stream; ``None`` if there is none."""
        return min((group.seen for _, _, group in self.groups(name) if group.seen is not None), default=None)

    def heard(self, name: str) -> Iterator[str]:
        """The streams that a participant reads, by what its workers last said; those that are there."""
        card = self.cards.get(name)
        routes = self.topology.routes
        topics = {routes[each] for step in (card.steps if card else ()) for each in step.on if each in routes}
        for key, partition in self.partitions.items():
            if key in self.streams and any(key == self.topology.keys.stream(partition, t) for t in topics):
                yield key


def layout(space: Namespace) -> Iterator[Said]:
    """This streams.yaml and the namespace have the same layout."""
    mine = {"layout": str(LAYOUT_VERSION), "partitions": str(space.topology.partitions)}
    name = space.topology.namespace
    if not space.meta:
        yield ok(f"nothing has run in namespace {name} yet")
        return
    differing = [each for each, value in mine.items() if space.meta.get(each) != value]
    for each in differing:
        yield problem(f"namespace {name} has {each} {space.meta.get(each, '(none)')}, this streams.yaml says"
                      f" {mine[each]}: no process that uses it starts, for sagas would be split",
                      "# use the streams.yaml that the others use, or another namespace")  # fmt: skip
    if not differing:
        yield ok(f"namespace {name}, {mine['partitions']} partitions")


def keys(space: Namespace) -> Iterator[Said]:
    """No key has a type that it must not have."""
    wrong = [key for key, kind in space.types.items() if kind != space.wanted[key]]
    for key in wrong:
        what = f"{key} is a {space.types[key]} and should be a {space.wanted[key]}: whoever needs it waits"
        yield problem(what, redis_cli("RENAME", key, f"{key}.in-the-way"))
    if not wrong:
        yield ok("every key has its type")


def ids(space: Namespace) -> Iterator[Said]:
    """No stream has ids from the future."""
    found = False
    for key, stream in space.streams.items():
        newest = order(stream.newest)
        ahead = newest[0] - space.now
        if newest == (_LAST, _LAST):
            found = True
            yield problem(f"{key} is full: an entry with the greatest id was added, and none can follow it",
                          redis_cli("RENAME", key, f"{key}.full"))  # fmt: skip
        elif ahead > _AHEAD:
            found = True
            yield warning(f"{key} has ids {span(ahead)} ahead of the server's clock: it is trimmed late",
                          "# was an id given by hand, or was the server's clock wrong?")  # fmt: skip
    if not found:
        yield ok("no stream is ahead of the server's clock")


def participants(space: Namespace) -> Iterator[Said]:
    """Every participant of streams.yaml has run here."""
    missing = [name for name in space.participants if name not in space.cards]
    for name in missing:
        yield warning(f"no worker of {name} has ever run in this namespace", f"choreo run participant {name}")
    if not missing:
        yield ok(f"{len(space.participants)} have run here")


def readers(space: Namespace) -> Iterator[Said]:
    """Whatever waits is being read."""
    found = False
    for name in space.participants:
        for said in _reader(space, name) if name in space.cards else ():
            found = True
            yield said
    if not found:
        yield ok("nothing waits that nobody reads")


def _reader(space: Namespace, name: str) -> Iterator[Said]:
    start = f"choreo run participant {name}"
    groupless = [key for key in space.heard(name) if name not in space.streams[key].groups]
    if groupless:
        yield problem(f"{name} has no consumer group on {_some(groupless)}: nobody reads there for it", start)
    waiting = [each for each in space.unread if each.group == name]
    if not waiting:
        return
    since = space.now - min(each.since for each in waiting)
    count = _count_unread(space, waiting)
    seen = space.seen(name)
    if name in space.paused:
        pause = space.paused[name]
        yield warning(f"{name} was paused by {pause.who} {span(space.now - pause.at)} ago: {count}",
                      f"choreo resume {name}")  # fmt: skip
    elif seen is None or seen > PATIENCE:
        gone = "it has no worker" if seen is None else f"no worker of it was seen for {span(seen)}"
        yield problem(f"{name}: {count}, for up to {span(since)}, and {gone}", start)
    else:
        yield warning(f"{name} is behind: {count}, for up to {span(since)}", f"{start} --workers 2")


def _count_unread(space: Namespace, waiting: list[Unread]) -> str:
    streams = [(space.streams[each.stream], each.group) for each in waiting]
    counts = [stream.waiting(stream.groups[group]) for stream, group in streams]
    total = sum(each or 1 for each in counts)
    least = "at least " if None in counts else ""
    return f"{least}{total:,} {'entry waits' if total == 1 else 'entries wait'}"


def groups(space: Namespace) -> Iterator[Said]:
    """No group is left of somebody who is gone; it would hold back trimming for ever."""
    known = {*space.participants, TRACKER_GROUP}
    foreign = {name for stream in space.streams.values() for name in stream.groups} - known
    found = False
    for name in sorted(foreign):
        seen = space.seen(name)
        if seen is not None and seen < _IN_USE:
            continue
        found = True
        places = list(space.groups(name))
        pending = sum(group.pending for _, _, group in places)
        unread = sum(stream.waiting(group) or 0 for _, stream, group in places)
        when = "no consumer" if seen is None else f"no consumer seen for {span(seen)}"
        where = [key for key, _, _ in places]
        yield problem(
            f"group {name} on {_some(where)} belongs to no participant of streams.yaml and has {when}; it"
            f" pins {unread:,} unread and {pending:,} pending entries: they are never trimmed",
            *_destroy(space, name, where),
        )
    if not found:
        yield ok("every group belongs to somebody")


def _destroy(space: Namespace, group: str, places: list[str]) -> Iterator[str]:
    """Commands that remove a group, one for all partitions of a topic."""
    topics: dict[str, list[int]] = {}
    for key in places:
        partition = space.partitions[key]
        topics.setdefault(key.replace(f":{partition}}}", ":$p}", 1), []).append(partition)
    for pattern, partitions in topics.items():
        yield for_each(partitions, f'redis-cli XGROUP DESTROY "{pattern}" {shlex.quote(group)}')


def pending(space: Namespace) -> Iterator[Said]:
    """Nothing is in the hands of workers that are gone."""
    found = False
    for name in space.participants:
        held = [each for (_, group), rows in space.held.items() if group == name for each in rows]
        if held:
            found = True
            idle = max(each.idle for each in held)
            count = f"{len(held):,} {'delivery' if len(held) == 1 else 'deliveries'}"
            what = f"workers that have not renewed them for up to {span(idle)}, and nobody takes them over"
            yield problem(f"{name}: {count} in the hands of {what}", f"choreo run participant {name}")
    if not found:
        yield ok("every delivery is in the hands of a worker that renews it")


def tracker(space: Namespace) -> Iterator[Said]:
    """A tracker follows."""
    behind = [each for each in space.unread if each.group == TRACKER_GROUP]
    if not behind:
        yield ok("nothing waits for a tracker")
        return
    late = f"for up to {span(space.now - min(each.since for each in behind))}"
    what = f"entries of {_some([each.stream for each in behind])} wait {late}; views stand still"
    state = "the tracker is behind or does not run" if space.positions else "no tracker has ever run here"
    yield problem(f"{state}: {what}", "choreo run tracker")


def timers(space: Namespace) -> Iterator[Said]:
    """What is due is moved."""
    overdue = space.overdue
    if overdue.count:
        late = span(space.now - overdue.oldest)
        yield problem(f"{overdue.count:,} timers (attempts to come, delayed events) were due up to {late}"
                      " ago: no worker runs, or a key is in their way",
                      "# start a worker: choreo run participant NAME")  # fmt: skip
    else:
        yield ok("no timer is overdue")


def deadlines(space: Namespace) -> Iterator[Said]:
    """Sagas whose time is up are made to unwind."""
    expired = space.expired
    if expired.count:
        late = span(space.now - expired.oldest)
        what = f"the deadlines of {expired.count:,} sagas passed up to {late} ago"
        yield problem(f"{what}: no tracker runs, or a key is in its way", "choreo run tracker")
    else:
        yield ok("no deadline is overdue")


def retention(space: Namespace) -> Iterator[Said]:
    """No stream keeps entries for much longer than it should."""
    found = False
    for key, keep in _keeps(space.topology).items():
        stream = space.streams.get(key)
        if stream is None or stream.first == NOTHING:
            continue
        age = space.now - order(stream.first)[0]
        if age <= keep + max(_TRIM_SLACK, keep // 10):
            continue
        found = True
        pins = sorted((order(group.delivered), name) for name, group in stream.groups.items()
                      if group.pending or order(group.delivered) < order(stream.first))  # fmt: skip
        why = f"group {pins[0][1]} has not handled them" if pins else "no tracker trims it"
        remedy = "choreo run tracker" if not pins else f"choreo run participant {pins[0][1]}"
        yield warning(f"{key} holds entries of {span(age)} ago, and is to keep {span(keep)}: {why}", remedy)
    if not found:
        yield ok("no stream holds more than it is to keep")


def _keeps(topology: Topology) -> dict[str, int]:
    """Every stream that is trimmed -> how long its entries are kept (ms)."""
    names, found = topology.keys, {}
    for partition in range(topology.partitions):
        found[names.journal(partition)] = topology.keep
        for topic in topology.streams:
            found[names.stream(partition, topic)] = topology.keep_of_stream(topic)
        for participant in topology.participants:
            found[names.inbox(partition, participant)] = topology.keep_of_inboxes
    return {key: round(seconds * 1000) for key, seconds in found.items()}


def letters(space: Namespace) -> Iterator[Said]:
    """Nobody has to look at a dead letter."""
    found = space.letters
    total = sum(found.open.values())
    if total:
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in sorted(found.open.items()))
        least = "at least " if found.looked_at < found.total else ""
        yield problem(f"{least}{total:,} wait for an operator: {reasons}", "choreo dlq list")
    else:
        yield ok("none is open")


def deleted(space: Namespace) -> Iterator[Said]:
    """Nobody deletes entries by hand."""
    found = False
    for key, stream in space.streams.items():
        at = order(stream.deleted)[0]
        if at > space.now - _RECENT:
            found = True
            what = f"an entry of {key}, written {span(space.now - at)} ago, was deleted by hand (XDEL)"
            yield warning(f"{what}: if it was not handled yet, its saga is damaged",
                          "choreo sagas --stuck")  # fmt: skip
    if not found:
        yield ok("no entry was deleted by hand")


def _some(names: list[str]) -> str:
    """The first of many names, and how many others there are."""
    more = len(names) - _NAMES
    return ", ".join(names[:_NAMES]) + (f" and {more} more" if more > 0 else "")


#: Every check of a namespace whose layout fits, by its name, in the order in which they are told.
NAMESPACE_CHECKS: dict[str, Callable[[Namespace], Iterator[Said]]] = {
    "keys": keys,
    "ids": ids,
    "participants": participants,
    "readers": readers,
    "groups": groups,
    "pending": pending,
    "tracker": tracker,
    "timers": timers,
    "deadlines": deadlines,
    "retention": retention,
    "letters": letters,
    "deleted": deleted,
}
