"""What the health server asks of its process. Must answer at once, from any thread, without the database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from dreamcuts.worker.status import WorkerStatus


class RunningState(Protocol):
    """A worker, as the health server sees it."""

    def is_running(self) -> bool:
        """False once the process claims no more jobs."""
        ...

    def worker_statuses(self) -> Sequence[WorkerStatus]:
        """One entry for each job type that the process serves."""
        ...

    def database_silence(self) -> float:
        """Seconds since the database last answered a heartbeat."""
        ...

    def lease_seconds(self) -> float:
        """Seconds without a heartbeat after which others take this worker's jobs."""
        ...
