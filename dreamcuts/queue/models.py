"""What the queue hands out and takes back, as plain values that do not change.

Those of which there is one for each job are named tuples: a worker makes tens of thousands of them a
second, and a frozen dataclass takes five times as long.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

from dreamcuts.errors import ErrorClass


class Job(NamedTuple):
    """A claimed job. `claim` numbers its claims from 1 and, with the worker, fences every outcome.

    `urgency` and `turn` are its place in the queue, `is_suspect` says that two workers have died with it; see
    dreamcut_claim_jobs in sql/functions/31_claim.sql.
    """

    id: UUID
    manifest_id: UUID | None
    job_id: str
    type: str
    payload: dict[str, Any]
    attempt: int
    max_attempts: int
    claim: int
    metadata: Mapping[str, Any] = MappingProxyType({})
    urgency: int = 0
    turn: int = 0
    is_suspect: bool = False


class Completed(NamedTuple):
    """The job is done; `result` is JSON-serialisable. `encoded` is the result as JSON that Postgres takes."""

    job: Job
    result: dict[str, Any]
    output_url: str | None = None
    encoded: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt failed. `retry_after` (seconds) wins over the backoff that starts at `base_delay`."""

    job: Job
    error_class: ErrorClass
    message: str
    detail: dict[str, Any] = field(default_factory=dict)
    retry_after: float | None = None
    base_delay: timedelta = timedelta(seconds=10)


@dataclass(frozen=True, slots=True)
class HandedBack:
    """The job goes back unharmed: ready at once, the attempt not used up."""

    job: Job
    reason: str


Outcome = Completed | Failed | HandedBack


class Settled(NamedTuple):
    """What became of an outcome. `status` is None if it was fenced out: the job was no longer ours."""

    outcome: Outcome
    status: str | None
    next_retry_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a heartbeat learned; see dreamcut_beat in sql/functions/35_fleet.sql."""

    alive: bool
    taken: frozenset[UUID]
    cancelled: frozenset[UUID]
    rescue_due: bool
    command: str | None = None
    command_reason: str | None = None
    slots: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rescued:
    """A job that was taken from a worker whose lease ran out."""

    job: UUID
    status: str
    worker: UUID


@dataclass(frozen=True, slots=True)
class Archived:
    """A batch that went to the archive. `more`: another batch may find something, too."""

    jobs: int
    more: bool
