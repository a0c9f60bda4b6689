"""Jobs that ended long ago: looking at them, moving them out of the way, dropping them.

    with Archive.connect(dsn) as archive:
        archive.list_jobs(states=["failed"])

Workers move what is due by themselves (dreamcuts.worker.tidying); here is the same by hand, for a role
that may do what the workers' may not.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from uuid import UUID

import psycopg

from dreamcuts.admin import Admin, Row
from dreamcuts.errors import DatabaseError, NotFound

BATCH = 100
MANIFESTS_AT_ONCE = 500


class Archive(Admin):
    """The archive as an operator sees it. Lists and details have the shapes that Admin's have.

    Lists of jobs begin with what ended last.
    """

    def _filtered(self, filters: Row, limit: int, *, thorough: bool) -> list[Row]:
        """What ended last comes first. None of them runs, so it is always thorough."""
        return self._many("list_archived_jobs", **filters, limit=limit)

    def job(self, job: UUID) -> Row:
        """One archived job with its failed `attempts_made` and its `provider_calls`. Raises NotFound."""
        row = self._one("show_archived_job", id=job)
        if row is None:
            raise NotFound(f"Job {job} is not in the archive.")
        return row | {
            "attempts_made": self._many("show_archived_attempts", id=job),
            "provider_calls": self._many("show_job_calls", id=job),
        }

    def manifest_jobs(self, manifest: UUID) -> list[Row]:
        """The manifest's archived jobs in the order of their work."""
        return self._many("archived_manifest_jobs", manifest=manifest)

    def find_job(self, reference: str) -> UUID:
        """The archived job meant by a uuid, the beginning of one, or `manifest/job_id`. Raises NotFound."""
        if "/" not in reference:
            return self._by_prefix(reference, "job", "archived_between")
        manifest_part, _, job_id = reference.partition("/")
        manifest = self.find_manifest(manifest_part)
        row = self._one("archived_job_of_manifest", manifest=manifest, job_id=job_id)
        if row is None:
            raise NotFound(f"Manifest {manifest} has no job {job_id!r} in the archive.")
        return UUID(str(row["id"]))

    def move(
        self,
        after: timedelta | None,
        failed_after: timedelta | None,
        progress: Callable[[int], None] = lambda moved: None,
    ) -> int:
        """Move all that is due, in small transactions; returns the number of jobs. None for an age: never.

        `progress` hears of the jobs moved so far. Moves nothing while a worker is at it.
        """
        moved = 0
        while True:
            batch = self._one("archive_jobs", after=after, failed_after=failed_after, limit=BATCH) or {}
            moved += int(batch.get("jobs", 0))
            if not batch.get("more"):
                return moved
            progress(moved)

    def prune(self, older_than: timedelta, *, dry_run: bool) -> list[Row]:
        """Drop the months that lie whole before `older_than` ago; returns them: month, jobs, attempts, bytes.

        The ledger stays. Raises DatabaseError if somebody reads the archive for too long meanwhile.
        """
        try:
            return self._many("prune_archive", older_than=older_than, dry_run=dry_run)
        except psycopg.errors.LockNotAvailable:
            raise DatabaseError(
                "Nothing was dropped: the archive is being read. Try again, or end that query."
            ) from None
        except psycopg.errors.InsufficientPrivilege as error:
            raise DatabaseError(
                f"Nothing was dropped: {str(error).splitlines()[0]}. Connect as the tables' owner."
            ) from None

    def prune_manifests(self, older_than: timedelta) -> int:
        """Delete the rows of manifests whose jobs were in the months that `prune` drops; returns how many."""
        deleted = 0
        while True:
            row = self._one("prune_manifests", older_than=older_than, limit=MANIFESTS_AT_ONCE) or {}
            batch = int(next(iter(row.values()), 0))
            deleted += batch
            if batch < MANIFESTS_AT_ONCE:
                return deleted
