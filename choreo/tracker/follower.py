"""Following streams and journal, partition by partition, and keeping the projections up to date."""

from __future__ import annotations

import logging
from functools import partial

import anyio
from anyio.abc import TaskStatus

from choreo.broker.broker import Broker
from choreo.broker.patience import Patience
from choreo.broker.projections import Entry, Progress
from choreo.errors import BrokerError, BrokerUnavailable
from choreo.tracker.projection import Projector
from choreo.wire.keys import TRACKER_GROUP
from choreo.wire.topology import Topology

logger = logging.getLogger("choreo.tracker")

#: Entries of one stream that are read at once.
_COUNT = 500
#: Seconds between looks at a server that cannot hold a read (fakeredis), if nothing wakes the reader.
_POLL = 0.05
#: Seconds that a tracker which was overtaken by another stays out of its way.
_STANDBY = 1.0


class Tracker:
    """Projects every partition. Several may run: one is ahead, the others stand by.

    Progress and projections are written in one script that refuses when somebody else has got further.
    So a tracker that is killed, paused or run twice neither misses nor doubles anything.
    """

    def __init__(self, topology: Topology, broker: Broker) -> None:
        self._topology = topology
        self._broker = broker
        self._projectors = [Projector(topology, partition) for partition in range(topology.partitions)]
        self._progress: dict[int, Progress] = {}
        self._stopping = anyio.Event()
        self._patience = Patience(logger, "tracker")

    def stop(self) -> None:
        """Begin to stop; what was read is still projected."""
        self._stopping.set()

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Project until :meth:`stop`.

        Raises:
            LayoutMismatch, UnsupportedServer: the server and this process do not fit.
            BrokerUnavailable: the server cannot be reached at the start; later the tracker waits for it.
        """
        await self._broker.meta.join()
        task_status.started()
        logger.info("tracker is ready")
        while not self._stopping.is_set():
            try:
                projected = await self._step(wait=True)
            except BrokerError as error:
                await self._pause(error)
            else:
                self._patience.succeeded()
                if not projected and not self._broker.connection.blocking:
                    await self._broker.connection.wait_for_change(_POLL)

    async def catch_up(self) -> int:
        """Project until nothing new is there. Returns how many entries were projected."""
        total = 0
        while projected := await self._step(wait=False):
            total += projected
        return total

    async def rebuild(self) -> int:
        """Delete every projection and project the streams anew. Returns how many entries there were.

        May run beside trackers that are at work, and may be killed: whichever tracker comes next goes on.
        """
        await self._broker.meta.join()
        for projector in self._projectors:
            await self._broker.projections.wipe(projector.partition, begin=True)
            self._lose_track(projector)
        return await self.catch_up()

    async def _pause(self, error: BrokerError) -> None:
        if not isinstance(error, BrokerUnavailable):
            logger.error("tracker: %s", error)
        for projector in self._projectors:
            self._lose_track(projector)
        await self._patience.pause(error, self._stopping)

    def _lose_track(self, projector: Projector) -> None:
        projector.forget()
        self._progress.pop(projector.partition, None)

    async def _step(self, *, wait: bool) -> int:
        """Read once behind every position and project what came. Returns how many entries that were."""
        await self._find_progress()
        flat = {
            stream: position
            for progress in self._progress.values()
            for stream, position in progress.positions.items()
        }
        read = await self._broker.projections.read(flat, _COUNT, wait=wait)
        for projector in self._projectors:
            mine = {stream: read[stream] for stream in projector.streams if read.get(stream)}
            if mine and not await self._project(projector, mine):
                await self._stand_by(projector)
        return sum(map(len, read.values()))

    async def _find_progress(self) -> None:
        for projector in self._projectors:
            if projector.partition not in self._progress:
                await self._broker.groups.ensure(projector.streams, TRACKER_GROUP)
                await self._broker.projections.wipe(projector.partition, begin=False)
                self._progress[projector.partition] = await self._broker.projections.progress(
                    projector.partition, projector.streams
                )

    async def _project(self, projector: Projector, read: dict[str, list[Entry]]) -> bool:
        load = partial(self._broker.projections.load, projector.partition)
        progress = self._progress[projector.partition]
        batch = await projector.fold(progress.version, read, load)
        version = await self._broker.projections.write(batch)
        if version is None:
            return False
        progress.version = version
        progress.positions.update(batch.after)
        return True

    async def _stand_by(self, projector: Projector) -> None:
        logger.info("partition %d: another tracker is at work; standing by", projector.partition)
        self._lose_track(projector)
        with anyio.move_on_after(_STANDBY):
            await self._stopping.wait()
