"""What a worker serves, and how."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What a worker serves and how. `slots` are jobs at a time, by full type name; times are in seconds."""

    slots: Mapping[str, int]
    poll_interval: float = 1.0
    heartbeat: float = 10.0
    lease: float = 45.0
    shutdown_timeout: float = 30.0
    until_idle: bool = False
    claim: bool = True
    listen: bool = True
    pooled: bool = False
    connections: int = 4
    """Beside those for heartbeats and notifications. Of more than two, claims and outcomes keep one each."""
    claim_ahead: bool = True
    """Whether jobs that are over at once may be claimed before a slot is free (slots.py)."""
    archive_after: timedelta | None = None
    archive_failed_after: timedelta | None = None
    end_process: Callable[[], None] | None = None
    """Called when jobs do not stop, after everything else is written: a thread cannot be ended otherwise."""
