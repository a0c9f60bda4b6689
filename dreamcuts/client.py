"""Enqueue from Python, inside the caller's own transaction.

    with psycopg.connect(dsn) as connection:                     # the caller's connection and transaction
        client = Client(connection)
        client.enqueue("gen_sound_effects_elevenlabs", {"text": "whoosh", "durationSeconds": 1.5})

What is enqueued is there when the caller commits, and was never there if it does not. Every method is one
call of an SQL function of the same name; supabase-js reaches the same functions through RPC.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from dreamcuts.db.sql import query


class Client:
    """The queue's public functions over a psycopg connection. Commits nothing by itself."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def submit_manifest(
        self,
        manifest: Mapping[str, Any],
        jobs: Iterable[Mapping[str, Any]],
        *,
        user_id: UUID | None = None,
    ) -> UUID:
        """Insert a manifest and its jobs; returns the manifest's id.

        A job is a mapping with `job_id`, `type`, `payload` and, where wanted, `priority`, `depends_on`,
        `retry_policy`, `max_attempts`, `metadata`, `tags`. Nothing is checked here:
        `dreamcuts.manifest.check_manifest` lists what is wrong with a manifest.
        """
        listed = Jsonb([dict(job) for job in jobs])
        return UUID(
            str(self._call("submit_manifest", manifest=Jsonb(dict(manifest)), jobs=listed, user_id=user_id))
        )

    def enqueue(
        self,
        type: str,
        payload: Mapping[str, Any],
        *,
        manifest_id: UUID | None = None,
        job_id: str | None = None,
        priority: int = 5,
        depends_on: Sequence[str] = (),
        run_at: datetime | None = None,
        max_attempts: int = 3,
        retry_policy: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> UUID:
        """Add one job; returns its id. `depends_on` are job_ids of the same manifest."""
        added = self._call(
            "enqueue",
            type=type,
            payload=Jsonb(dict(payload)),
            manifest_id=manifest_id,
            job_id=job_id,
            priority=priority,
            depends_on=list(depends_on),
            run_at=run_at,
            max_attempts=max_attempts,
            retry_policy=Jsonb(dict(retry_policy or {})),
            metadata=Jsonb(dict(metadata or {})),
        )
        return UUID(str(added))

    def cancel(self, jobs: Iterable[UUID], reason: str = "cancelled by an operator") -> list[UUID]:
        """Cancel pending and running jobs and what depends on them; returns those cancelled directly."""
        return list(self._call("cancel_jobs", jobs=list(jobs), reason=reason))

    def retry(self, jobs: Iterable[UUID]) -> list[UUID]:
        """Let failed or cancelled jobs run again, with what depends on them; returns all that are pending."""
        return list(self._call("retry_jobs", jobs=list(jobs)))

    def release(self, jobs: Iterable[UUID], reason: str = "released by an operator") -> list[UUID]:
        """Take running jobs from their workers and make them ready, the attempt not used up."""
        return list(self._call("release_jobs", jobs=list(jobs), reason=reason))

    def drop_dependency(self, job: UUID, depends_on: str) -> bool:
        """Let a job run without one of its dependencies; returns whether it waited for it."""
        return bool(self._call("drop_dependency", job=job, depends_on=depends_on))

    def set_priority(self, jobs: Iterable[UUID], priority: int) -> list[UUID]:
        """Give jobs that have not begun another priority (higher is sooner); returns those."""
        return list(self._call("set_priority", jobs=list(jobs), priority=priority))

    def run_now(self, jobs: Iterable[UUID]) -> list[UUID]:
        """Let delayed jobs, scheduled or in backoff, run now; returns those that were delayed."""
        return list(self._call("run_now", jobs=list(jobs)))

    def _call(self, name: str, **parameters: Any) -> Any:
        statement = query(name)
        statement.arguments(parameters)  # says which one is missing
        row = self._connection.execute(statement.psycopg_text, parameters).fetchone()
        return row[0] if row else None
