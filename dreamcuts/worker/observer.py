"""Who watches a worker: metrics and traces hear through this protocol what it does.

An observer is called in the worker's event loop and must return at once. What it raises is logged and goes no
further: watching never disturbs the work.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Protocol
from uuid import UUID

from dreamcuts.queue.models import Job, Outcome, Settled

log = logging.getLogger(__name__)


class WorkerObserver(Protocol):
    """Hears what a worker does. Seconds are of the wall clock."""

    def claimed(self, jobs: int, seconds: float) -> None:
        """A claim came back with so many jobs."""
        ...

    def attempt_began(self, job: Job) -> None:
        """A claimed job starts."""
        ...

    def attempt_ended(self, job: Job, outcome: Outcome | None, seconds: float) -> None:
        """It is over; None: the job was taken from this worker or cancelled."""
        ...

    def settled(self, settled: Settled) -> None:
        """Its outcome is written, or was refused."""
        ...

    def call_began(self, job: Job, call: UUID, provider: str, endpoint: str) -> None:
        """A call to a provider is about to go out."""
        ...

    def call_ended(self, job: Job, call: UUID, status: str, cost_usd: float | None) -> None:
        """A call is closed; one that an earlier attempt began was not announced here."""
        ...


class Observers:
    """Several observers as one; none is fine, too."""

    def __init__(self, observers: Sequence[WorkerObserver] = ()) -> None:
        self._observers = tuple(observers)

    def claimed(self, jobs: int, seconds: float) -> None:
        self._tell(lambda observer: observer.claimed(jobs, seconds))

    def attempt_began(self, job: Job) -> None:
        if self._observers:
            self._tell(lambda observer: observer.attempt_began(job))

    def attempt_ended(self, job: Job, outcome: Outcome | None, seconds: float) -> None:
        if self._observers:
            self._tell(lambda observer: observer.attempt_ended(job, outcome, seconds))

    def settled(self, settled: Settled) -> None:
        if self._observers:
            self._tell(lambda observer: observer.settled(settled))

    def call_began(self, job: Job, call: UUID, provider: str, endpoint: str) -> None:
        self._tell(lambda observer: observer.call_began(job, call, provider, endpoint))

    def call_ended(self, job: Job, call: UUID, status: str, cost_usd: float | None) -> None:
        self._tell(lambda observer: observer.call_ended(job, call, status, cost_usd))

    def _tell(self, tell: Callable[[WorkerObserver], Any]) -> None:
        for observer in self._observers:
            try:
                tell(observer)
            except Exception:
                log.exception("%s failed; the worker goes on", type(observer).__name__)


NOBODY = Observers()
