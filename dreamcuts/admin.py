"""What people ask of the queue: lists, details, progress. On psycopg, one short statement at a time.

    with Admin.connect(dsn) as admin:
        job = admin.find_job("5f3c")
        print(admin.job(job)["state"])

Rows are dicts with the columns' names, as they are printed by `--json`. References to jobs and manifests are
what people type: a uuid, its beginning, or `manifest/job_id`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Self
from uuid import UUID

import psycopg
from psycopg.rows import dict_row

from dreamcuts.client import Client
from dreamcuts.db.migrate import connect, status
from dreamcuts.db.sql import query
from dreamcuts.errors import DatabaseError, NotFound

Row = dict[str, Any]

JOB_STATES = ("ready", "blocked", "delayed", "pending", "processing", "completed", "failed", "cancelled")
MANIFEST_STATUSES = ("planning", "ready_to_dispatch", "rendering", "done", "failed")
OVER = frozenset({"completed", "failed", "cancelled"})
WAITING = frozenset({"ready", "blocked", "delayed", "pending"})
SHORTEST_PREFIX = 4
STRETCH = 2_000
"""So many numbers of the newest jobs are looked at first for a list that has no index."""
RUNNING_AMONG = 10_000
"""Running jobs that no heartbeat has told of yet are looked for among so many of the newest."""
IN_ARCHIVE = "is in the archive: it can be looked at (--archived), and not be changed any more."


class Admin:
    """The queue as an operator sees it. Changes are asked of `client`, and take effect at once."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self.client = Client(connection)

    @classmethod
    @contextmanager
    def connect(cls, dsn: str) -> Iterator[Self]:
        """Connect, and check that the schema fits this version. Raises DatabaseError with the way out."""
        status(dsn).check()
        with connect(dsn) as connection:
            yield cls(connection)

    def list_jobs(
        self,
        *,
        states: Sequence[str] = (),
        type: str | None = None,
        manifest: UUID | None = None,
        error_class: str | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        limit: int = 50,
        thorough: bool = False,
    ) -> list[Row]:
        """Jobs, newest first. `states` holds any of JOB_STATES; `type` is a full type name.

        Running jobs alone are those that workers held at their last heartbeat, and any among the newest:
        there is no index of them. `thorough` reads the table for them, and misses none.
        """
        filters = {
            "states": list(states) or None,
            "type": type,
            "manifest": manifest,
            "error_class": error_class,
            "created_after": created_after,
            "created_before": created_before,
        }
        return self._filtered(filters, limit, thorough=thorough)

    def _filtered(self, filters: Row, limit: int, *, thorough: bool) -> list[Row]:
        """The jobs that fit, by the index that the filters allow."""
        given = set(filters["states"] or ())
        of_one_manifest = filters["manifest"] is not None
        values: Row = filters | {
            "above": None,
            "up_to": None,
            "running": None,
            "only_errors": not of_one_manifest and bool(given) and given <= {"failed", "cancelled"},
            "only_ready": given == {"ready"},
            "only_delayed": given == {"delayed"},
            "only_blocked": given == {"blocked"},
            "only_waiting": (len(given) > 1 and given <= WAITING) or given == {"pending"},
        }
        has_index = (
            of_one_manifest
            or filters["error_class"]
            or any(values[name] for name in values if name.startswith("only_"))
        )
        newest = None if has_index else (self._one("newest_job") or {}).get("last_value")
        if newest is None:
            return self._many("list_jobs", **values, limit=limit)
        if given == {"processing"} and not thorough:
            values["running"] = [row["id"] for row in self._many("running_jobs")]
            return self._many("list_jobs", **values | {"above": newest - RUNNING_AMONG}, limit=limit)
        return self._walk(values, newest, limit)

    def _walk(self, values: Row, newest: int, limit: int) -> list[Row]:
        """Jobs from the newest down, a stretch at a time, each longer than the last, until it is enough."""
        found: list[Row] = []
        stretch = STRETCH
        up_to: int | None = None
        above = newest - stretch
        while True:
            place = {"above": above if above > 0 else None, "up_to": up_to}
            found += self._many("list_jobs", **values | place, limit=limit - len(found))
            if len(found) >= limit or above <= 0:
                return found
            stretch *= 8
            up_to, above = above, above - stretch

    def known_types(self) -> set[str]:
        """Full names of types that live workers serve, that have open jobs, or that were scaled."""
        return {row["type"] for row in self._many("known_types")}

    def job(self, job: UUID) -> Row:
        """One job with its failed `attempts_made` and its `provider_calls`. Raises NotFound."""
        row = self._one("show_job", id=job)
        if row is None:
            raise NotFound(f"Job {job} does not exist.")
        return row | {
            "attempts_made": self._many("show_job_attempts", id=job),
            "provider_calls": self._many("show_job_calls", id=job),
        }

    def list_manifests(self, *, status: str | None = None, limit: int = 50) -> list[Row]:
        """Manifests, newest first, with counts of their jobs."""
        return self._many("list_manifests", status=status, limit=limit)

    def manifest(self, manifest: UUID) -> Row:
        """One manifest with its `jobs` and its `spend` by provider. Raises NotFound."""
        row = self._one("show_manifest", id=manifest)
        if row is None:
            raise NotFound(f"Manifest {manifest} does not exist.")
        return row | {"jobs": self.manifest_jobs(manifest), "spend": self.spend(manifest)}

    def manifest_jobs(self, manifest: UUID) -> list[Row]:
        """The manifest's jobs in the order of their work."""
        return self._many("manifest_jobs", manifest=manifest)

    def spend(self, manifest: UUID) -> list[Row]:
        """`provider`, `calls` and `cost_usd` of a manifest."""
        return self._many("manifest_spend", manifest=manifest)

    def begin_demo(self, *, shared: bool) -> None:
        """Make sure that a demo and real work cannot get mixed up, and cancel what a killed demo left.

        `shared`: others may use the database too. Raises DatabaseError that says what stands in the way.
        """
        if not (self._one("lock_demo") or {}).get("pg_try_advisory_lock"):
            raise DatabaseError("Another demo is running on this database. Wait until it has ended.")
        found = self._one("demo_obstacles") or {}
        way_out = "Use another database, or unset DATABASE_URL to use the built-in one."
        if shared and found["foreign_jobs"]:
            raise DatabaseError(
                f"This database has open jobs ({found['foreign_jobs']}) that the demo's workers would carry "
                f"out with the sandbox. {way_out}"
            )
        if shared and found["workers"]:
            raise DatabaseError(
                f"Workers are live on this database ({found['workers']}) and would carry out the demo's jobs "
                f"for money. {way_out}"
            )
        self.client.cancel(found["leftovers"], "left over from a demo that was killed")

    def find_job(self, reference: str) -> UUID:
        """The job meant by a uuid, the beginning of one, or `manifest/job_id`. Raises NotFound."""
        if "/" in reference:
            manifest_part, _, job_id = reference.partition("/")
            manifest = self.find_manifest(manifest_part)
            row = self._one("job_of_manifest", manifest=manifest, job_id=job_id)
            if row is None and self._one("archived_job_of_manifest", manifest=manifest, job_id=job_id):
                raise NotFound(f"Job {job_id!r} of manifest {manifest} {IN_ARCHIVE}")
            if row is None:
                names = ", ".join(job["job_id"] for job in self.manifest_jobs(manifest))
                raise NotFound(f"Manifest {manifest} has no job {job_id!r}. Its jobs: {names or 'none'}.")
            return UUID(str(row["id"]))
        return self._by_prefix(reference, "job", "jobs_between")

    def find_manifest(self, reference: str) -> UUID:
        """The manifest meant by a uuid or the beginning of one. Raises NotFound."""
        return self._by_prefix(reference, "manifest", "manifests_between")

    def _by_prefix(self, reference: str, what: str, name: str) -> UUID:
        digits = reference.replace("-", "").lower()
        if not re.fullmatch(r"[0-9a-f]{1,32}", digits):
            hint = " or MANIFEST/JOB_ID" if what == "job" else ""
            raise NotFound(f"{reference!r} is no {what} id. Give a uuid, the beginning of one{hint}.")
        if len(digits) < SHORTEST_PREFIX:
            raise NotFound(
                f"{reference!r} is too short for the beginning of a {what} id: give {SHORTEST_PREFIX} digits."
            )
        low, high = UUID(digits.ljust(32, "0")), UUID(digits.ljust(32, "f"))
        found = self._many(name, low=low, high=high)
        if not found and name == "jobs_between" and self._many("archived_between", low=low, high=high):
            raise NotFound(f"The job {reference} {IN_ARCHIVE}")
        if not found:
            raise NotFound(
                f"No {what} has an id that begins with {reference!r}."
                if len(digits) < 32
                else f"There is no {what} {reference}."
            )
        if len(found) > 1:
            some = ", ".join(str(row["id"]) for row in found)
            raise NotFound(f"More than one {what} id begins with {reference!r}: {some} ...")
        return UUID(str(found[0]["id"]))

    def _many(self, name: str, **values: Any) -> list[Row]:
        statement = query(name)
        statement.arguments(values)  # a missing or a misspelt parameter is a TypeError
        with self._connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(statement.psycopg_text, values).fetchall()

    def _one(self, name: str, **values: Any) -> Row | None:
        rows = self._many(name, **values)
        return rows[0] if rows else None
