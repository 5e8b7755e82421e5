"""The events of a synchronisation. They carry names of row sets; the rows stay in the database."""

from choreo import Event


class SyncRequested(Event):
    dataset: str


class SnapshotTaken(Event):
    dataset: str
    snapshot: str


class RowsTransformed(Event):
    dataset: str
    rows: str
    count: int


class VersionLoaded(Event):
    dataset: str
    version: str


class SyncCompleted(Event):
    dataset: str
