"""Following streams and journal, partition by partition, and keeping the projections up to date."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial

import anyio
from anyio.abc import TaskStatus

from choreo.broker.broker import Broker
from choreo.broker.clock import Clock
from choreo.broker.connection import BLOCK
from choreo.broker.patience import Patience
from choreo.broker.projections import Entry, Progress
from choreo.broker.retention import order_of
from choreo.broker.rights import PROJECTING
from choreo.errors import BrokerError, BrokerRefused, BrokerUnavailable
from choreo.tracker.appetite import Appetite
from choreo.tracker.deadlines import Watch
from choreo.tracker.housekeeping import Housekeeping
from choreo.tracker.projection import Projector
from choreo.tracker.sharing import Sharing
from choreo.wire.keys import TRACKER_GROUP
from choreo.wire.topology import Topology

logger = logging.getLogger("choreo.tracker")

#: Entries that are read at once at most: of the streams of all partitions together or of one partition that
#: is behind; and of each stream at least.
_ENTRIES, _BULK = 2000, 1000
_LEAST = 10
#: Partitions that catch up in one turn, before others and all else that there is to do have theirs; and at
#: once: the server answers for one while another is projected.
_IN_TURN, _AT_ONCE = 8, 2
#: Failures in a row after which a rebuild gives up.
_PATIENCE = 5
#: Seconds between looks at a server that cannot hold a read (fakeredis), if nothing wakes the reader.
_POLL = 0.05
#: Seconds that a tracker leaves alone what another is at work on, before it looks how that one fares.
_STANDBY = 0.5
#: Seconds between looks whether positions and versions are still what this tracker believes.
_VERIFY = 1.0
#: Seconds for which a partition that the server refuses to write is left alone.
_ASIDE = 5.0


class Tracker:
    """Projects every partition. Several may run: they share the partitions, see :class:`Sharing`.

    Progress and projections are written in one script that refuses when somebody else has got further.
    So a tracker that is killed, paused or run twice neither misses nor doubles anything.
    """

    def __init__(self, topology: Topology, broker: Broker, clock: Clock | None = None) -> None:
        self._topology = topology
        self._broker = broker
        self._projectors = [Projector(topology, partition) for partition in range(topology.partitions)]
        streams = sum(len(each.streams) for each in self._projectors)
        self._appetite = Appetite(max(_LEAST, _ENTRIES // streams), streams)
        streams //= topology.partitions
        self._hunger = Appetite(max(_LEAST, _BULK // streams), streams)
        self._progress: dict[int, Progress] = {}
        #: Partitions of which the last read left something unread, or that were not read yet; those whose
        #: turn it is come first.
        self._behind: dict[int, Projector] = {}
        self._sharing = Sharing()
        #: The partition whose turn it is to time out.
        self._turn = 0
        self._clock = clock or broker.clock
        self._watch = Watch(topology, broker, self._clock)
        self._aside: dict[int, float] = {}
        self._verified = 0.0
        self._obstacle: BrokerRefused | None = None
        self._housekeeping = Housekeeping(topology, broker, self._clock)
        self._stopping = anyio.Event()
        self._patience = Patience(logger, "tracker")

    def stop(self) -> None:
        """Begin to stop; what was read is still projected."""
        self._stopping.set()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Project until :meth:`stop`. A server that is away is waited for, also at the start.

        Raises:
            LayoutMismatch, UnsupportedServer: the server and this process do not fit.
            BrokerRefused: the server lets nobody in with such a password, or grants too few rights.
        """
        await self._join()
        task_status.started()
        if not self._stopping.is_set():
            logger.info("tracker is ready")
        untidy = False
        while not self._stopping.is_set():
            await self._broker.clock.refresh()
            try:
                projected = await self._step(wait=not untidy) + await self.expire()
                untidy = await self._housekeeping.tend(self._projectors, self._progress)
            except BrokerError as error:
                await self._pause(error)
            else:
                self._patience.succeeded()
                if not (projected or self._behind or untidy or self._broker.connection.blocking):
                    await self._broker.connection.wait_for_change(_POLL)

    async def _join(self) -> None:
        """Join the namespace, as soon as the server is there or :meth:`stop` is called."""
        while not self._stopping.is_set():
            try:
                await self._broker.join_to_commit(PROJECTING)
            except BrokerUnavailable as error:
                await self._patience.pause(error, self._stopping)
            else:
                self._patience.succeeded()
                return

    async def catch_up(self) -> int:
        """Project what is there; what another tracker is at work on is left to that if it keeps up.

        Returns how many entries were projected.

        Raises:
            BrokerUnavailable: if the server cannot serve, several times in a row.
        """
        total = failures = 0
        while True:
            try:
                projected = await self._step(wait=False)
            except BrokerUnavailable as error:
                failures += 1
                if failures == _PATIENCE:
                    self._lose_track_of_all()
                    raise
                await self._pause(error)
                continue
            failures = 0
            total += projected
            if not self._behind and self._sharing.settled:
                return total
            if not projected:
                await anyio.sleep(_POLL)  # another tracker is at work: see whether it keeps up

    async def rebuild(self) -> int:
        """Delete every projection and project the streams anew. Returns how many entries there were.

        May run beside trackers that are at work, and may be killed: whichever tracker comes next goes on.

        Raises:
            BrokerRefused: if a key of the tracker's has the wrong type; the other partitions are built.
        """
        await self._broker.join()
        for projector in self._projectors:
            await self._broker.projections.wipe(projector.partition, projector.streams, begin=True)
            self._lose_track(projector)
        projected = await self.catch_up()
        if self._obstacle is not None:
            raise self._obstacle
        return projected

    async def expire(self) -> int:
        """Let deadlines that have passed pass: of one partition, and where all that is there was projected.

        Of several partitions in which some have passed, each has its turn.

        Returns:
            How many sagas have timed out. :meth:`run` does this, too.

        Raises:
            BrokerUnavailable: if the server cannot serve.
        """
        if self._clock is self._broker.clock and not self._broker.clock.known:
            return 0
        for _ in self._projectors:
            projector = self._projectors[self._turn]
            self._turn = (self._turn + 1) % len(self._projectors)
            if not self._is_followed(projector):
                continue
            try:
                fired = await self._watch.expire(projector, self._progress[projector.partition].version)
            except BrokerRefused as error:
                self._set_aside(projector, error)
                continue
            if fired is None:
                self._leave(projector)
            if fired:
                # What is published meanwhile is read before more sagas time out.
                return fired
        return 0

    async def _pause(self, error: BrokerError) -> None:
        if not isinstance(error, BrokerUnavailable):
            logger.error("tracker: %s", error)
        self._lose_track_of_all()
        self._appetite.lose()
        self._hunger.lose()
        await self._patience.pause(error, self._stopping)

    def _lose_track_of_all(self) -> None:
        for projector in self._projectors:
            self._lose_track(projector)

    def _lose_track(self, projector: Projector) -> None:
        projector.forget()
        self._progress.pop(projector.partition, None)
        self._behind.pop(projector.partition, None)
        self._watch.forget(projector.partition)

    async def _step(self, *, wait: bool) -> int:
        """Read behind every position and project what came. Returns how many entries that were."""
        await self._find_progress()
        if not self._progress:
            await anyio.sleep(_POLL)
            return 0
        following = [each for each in self._projectors if self._is_followed(each)]
        behind = list(self._behind.values())[:_IN_TURN]
        projected = 0
        if following:
            longest = self._longest_wait() if wait and not behind else 0.0
            projected += await self._take_in(following, self._appetite, longest)
        if behind:
            projected += await self._catch_up(behind)
        if not projected and not self._behind and anyio.current_time() > self._verified + _VERIFY:
            await self._verify()
        return projected

    async def _catch_up(self, behind: list[Projector]) -> int:
        """Read once behind the positions of each of these partitions, and project what came."""
        counts: list[int] = []
        failures: list[BrokerError] = []

        async def work() -> None:
            while behind and not failures:
                try:
                    counts.append(await self._take_in([behind.pop()], self._hunger, 0.0))
                except BrokerError as error:
                    failures.append(error)

        async with anyio.create_task_group() as tasks:
            for _ in behind[:_AT_ONCE]:
                tasks.start_soon(work)
        if failures:
            raise failures[0]
        return sum(counts)

    async def _take_in(self, projectors: Sequence[Projector], appetite: Appetite, wait: float) -> int:
        """Read once behind the positions of some partitions, and project what came."""
        count = appetite.count
        read = await self._read(projectors, count, wait)
        appetite.note(read)
        for projector in projectors:
            self._note_followed(projector, read, count)
            mine = {stream: read[stream] for stream in projector.streams if read.get(stream)}
            try:
                if mine and not await self._project(projector, mine):
                    self._leave(projector)
            except BrokerRefused as error:
                self._set_aside(projector, error)
        return sum(map(len, read.values()))

    def _longest_wait(self) -> float:
        """Seconds to wait for entries: until the next deadline passes, or not at all if none is known yet."""
        return min(map(self._watch.pause, self._progress), default=BLOCK)

    def _is_followed(self, projector: Projector) -> bool:
        """Whether the last read left nothing unread."""
        return projector.partition in self._progress and projector.partition not in self._behind

    def _note_followed(self, projector: Projector, read: Mapping[str, Sequence[Entry]], count: int) -> None:
        self._behind.pop(projector.partition, None)
        full = any(len(read.get(stream, ())) >= count for stream in projector.streams)
        if full and projector.partition in self._progress:
            self._behind[projector.partition] = projector

    async def _find_progress(self) -> None:
        await self._look_at_left()
        for projector in self._projectors:
            partition = projector.partition
            aside = self._aside.get(partition, 0.0) > anyio.current_time()
            if partition in self._progress or aside or self._sharing.left(partition):
                continue
            try:
                await self._broker.groups.ensure(projector.streams, TRACKER_GROUP)
                await self._broker.projections.wipe(partition, projector.streams, begin=False)
                progress = await self._look_up(projector)
                await self._remake(projector, progress)
                self._progress[partition] = progress
                self._behind[partition] = projector
            except BrokerRefused as error:
                self._set_aside(projector, error)

    async def _look_at_left(self) -> None:
        """See how other trackers fare where they are at work."""
        now = anyio.current_time()
        if self._sharing.is_due(now):
            streams = {each.partition: each.streams for each in self._projectors}
            self._sharing.look(await self._broker.projections.standings(streams), now + _STANDBY)

    async def _remake(self, projector: Projector, progress: Progress) -> None:
        """Make the views that a wipe has left without one, though their entries were trimmed."""
        partition = projector.partition
        load = partial(self._broker.projections.load, partition)
        while saga_ids := await self._broker.projections.unmade(partition):
            batch = await projector.remake(progress.version, saga_ids, load)
            version = await self._broker.projections.write(batch)
            if version is None:
                return  # another tracker does it; the next write of this one will be refused
            progress.version = version

    async def _look_up(self, projector: Projector) -> Progress:
        progress = await self._broker.projections.progress(projector.partition, projector.streams)
        for stream, newest in (await self._broker.projections.newest(projector.streams)).items():
            if order_of(progress.positions[stream]) > order_of(newest):
                # The stream was emptied, or restored as it once was: what it gets now may have smaller
                # ids. Facts are a set, so reading all of it again does no harm.
                progress.positions[stream] = "0-0"
        return progress

    async def _verify(self) -> None:
        """While nothing comes: is that so, or does this tracker look in the wrong place?"""
        self._verified = anyio.current_time()
        for projector in self._projectors:
            known = self._progress.get(projector.partition)
            if known is not None and await self._look_up(projector) != known:
                self._lose_track(projector)

    async def _read(
        self, projectors: Sequence[Projector], count: int, wait: float
    ) -> dict[str, list[Entry]]:
        flat = {
            stream: position
            for projector in projectors
            for stream, position in self._progress[projector.partition].positions.items()
        }
        try:
            return await self._broker.projections.read(flat, count, wait=wait)
        except BrokerRefused:
            return await self._read_apart(projectors, count)

    async def _read_apart(self, projectors: Sequence[Projector], count: int) -> dict[str, list[Entry]]:
        """One stream is none any more, and the server refuses to read all: find out whose it is."""
        found: dict[str, list[Entry]] = {}
        for projector in projectors:
            try:
                positions = self._progress[projector.partition].positions
                found |= await self._broker.projections.read(positions, count, wait=0)
            except BrokerRefused as error:
                self._set_aside(projector, error)
        return found

    async def _project(self, projector: Projector, read: dict[str, list[Entry]]) -> bool:
        load = partial(self._broker.projections.load, projector.partition)
        progress = self._progress[projector.partition]
        batch = await projector.fold(progress.version, read, load)
        version = await self._broker.projections.write(batch)
        if version is None:
            return False
        progress.version = version
        progress.positions.update(batch.after)
        self._watch.learn(batch)
        return True

    def _set_aside(self, projector: Projector, error: BrokerRefused) -> None:
        """One partition has a key in the way: the others go on, and this one is tried again later."""
        logger.error("partition %d: %s", projector.partition, error)
        self._obstacle = error
        self._lose_track(projector)
        self._aside[projector.partition] = anyio.current_time() + _ASIDE

    def _leave(self, projector: Projector) -> None:
        logger.debug("partition %d: another tracker is at work there", projector.partition)
        self._lose_track(projector)
        self._sharing.leave(projector.partition)
