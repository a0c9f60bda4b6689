"""How a worker stands, for the health server and the log."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """How the part of a process stands that serves one job type."""

    name: str
    is_running: bool
    active_jobs: int
    max_concurrent_jobs: int
    provider: str
    features: tuple[str, ...] = ()
