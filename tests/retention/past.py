"""Jobs and manifests that ended long ago."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from tests.support import Held, Queue


class Past(Queue):
    """The queue, and ways to let time go by."""

    def ended_manifest(self, days: float, *, failed: bool = False) -> tuple[UUID, dict[str, UUID]]:
        """A manifest of two jobs, one after the other, that ended so many days ago; one attempt failed."""
        manifest, jobs = self.graph({"a": [], "b": ["a"]})
        worker = self.worker()
        held = self._claim(worker, jobs["a"])
        self.fail(worker, held, base_s=0)
        self.run("update dreamcut_jobs set next_retry_at = null where id = %s", held.id)
        again = self._claim(worker, jobs["a"])
        if failed:
            self.fail(worker, again, error_class="invalid_request")
        else:
            self.complete(worker, again)
            self.complete(worker, self._claim(worker, jobs["b"]))
        self.age(manifest, days)
        return manifest, jobs

    def ended_job(self, days: float, *, failed: bool = False, **columns: Any) -> UUID:
        """A job without a manifest that ended so many days ago."""
        job = self.add(None, **columns)
        worker = self.worker()
        held = self._claim(worker, job)
        if failed:
            self.fail(worker, held, error_class="invalid_request")
        else:
            self.complete(worker, held)
        self.run(
            "update dreamcut_jobs set completed_at = now() - make_interval(days => %s) where id = %s",
            days,
            job,
        )
        return job

    def age(self, manifest: UUID, days: float) -> None:
        self.run(
            "update dreamcut_production_manifest set completed_at = now() - make_interval(days => %s)"
            " where id = %s",
            days,
            manifest,
        )

    def archive(
        self, after: str | None = "7 days", failed_after: str | None = "30 days", limit: int = 100
    ) -> int:
        return int(self.archive_step(after, failed_after, limit)["jobs"])

    def archive_step(self, after: str | None, failed_after: str | None, limit: int = 100) -> dict[str, Any]:
        return self.row(
            "select * from dreamcut_archive_jobs(%s::interval, %s::interval, %s)", after, failed_after, limit
        )

    def archived(self) -> set[UUID]:
        return {row["id"] for row in self.rows("select id from dreamcut_archived_jobs")}

    def present(self) -> set[UUID]:
        return {row["id"] for row in self.rows("select id from dreamcut_jobs")}

    def _claim(self, worker: UUID, job: UUID) -> Held:
        held = self.claim(worker, 1000)
        self.hand_back(worker, *(one for one in held if one.id != job))
        (found,) = [one for one in held if one.id == job]
        return found
