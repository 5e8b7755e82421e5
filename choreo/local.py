"""A whole choreography in one process: every participant and the tracker. For development and tours."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import anyio

from choreo.broker.broker import Broker
from choreo.choreography import Choreography
from choreo.model.participant import Participant
from choreo.runtime.worker import Worker, WorkerOptions
from choreo.tracker.follower import Tracker
from choreo.wire.topology import Topology


@asynccontextmanager
async def running(
    topology: Topology, participants: Sequence[Participant], url: str, *, options: WorkerOptions | None = None
) -> AsyncIterator[Choreography]:
    """Run all ``participants`` and a tracker against the server at ``url`` while the block runs.

    Yields a client, once every worker is ready. At the end of the block workers finish what they have
    in hand.

    Raises:
        ConfigurationError, BrokerError: as :meth:`~choreo.runtime.worker.Worker.run` does.
        BrokerUnavailable: if the server cannot be reached.
    """
    async with AsyncExitStack() as brokers:

        async def connect() -> Broker:
            # Each has connections of its own: readers hold theirs while they wait for entries.
            return await brokers.enter_async_context(Broker.open(url, topology.keys))

        client = await connect()
        await client.join()  # workers would wait for a server that is away
        workers = [Worker(each, topology, await connect(), options=options) for each in participants]
        services: list[Worker | Tracker] = [*workers, Tracker(topology, await connect())]
        async with anyio.create_task_group() as tasks:
            for service in services:
                await tasks.start(service.run)
            try:
                yield Choreography(topology, client)
            finally:
                for service in services:
                    service.stop()
