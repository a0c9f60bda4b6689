"""What the queue's functions do to jobs, in plain Python: small enough to be seen to be right."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from uuid import UUID

ENDED = ("completed", "failed", "cancelled")
RETRIED = {"transient", "stalled", "rate_limited"}
FREE = {"rate_limited"}
"""Classes that use up no attempt."""


@dataclass
class ModelJob:
    """One job. `waits` are the dependencies that are not met; `place` is its place in its manifest."""

    id: UUID
    manifest: UUID | None
    name: str
    depends_on: frozenset[str]
    runs_anyway: bool
    priority: int
    seq: int
    max_attempts: int
    place: int = 0
    waits: set[str] = field(default_factory=set)
    status: str = "pending"
    delayed: bool = False
    attempts: int = 0
    claims: int = 0
    stalls: int = 0
    worker: UUID | None = None
    error_class: str | None = None

    @property
    def ready(self) -> bool:
        return self.status == "pending" and not self.waits and not self.delayed

    @property
    def suspect(self) -> bool:
        return self.stalls >= 2


@dataclass
class Model:
    """All jobs. Each method is a function of sql/functions, and returns what that returns."""

    jobs: dict[UUID, ModelJob] = field(default_factory=dict)
    archived: dict[UUID, list[str]] = field(default_factory=dict)
    """The statuses of a manifest's jobs that are in the archive."""

    # Looking

    def find(self, manifest: UUID | None, name: str) -> ModelJob | None:
        if manifest is None:
            return None
        return next((job for job in self.jobs.values() if (job.manifest, job.name) == (manifest, name)), None)

    def held_by(self, worker: UUID) -> list[ModelJob]:
        return [job for job in self.jobs.values() if job.status == "processing" and job.worker == worker]

    def total_jobs(self, manifest: UUID | None) -> int:
        """0 for jobs without a manifest: each is the first of its own."""
        if manifest is None:
            return 0
        there = sum(1 for job in self.jobs.values() if job.manifest == manifest)
        return there + len(self.archived.get(manifest, []))

    def open_jobs(self, manifest: UUID) -> int:
        return sum(1 for job in self.jobs.values() if job.manifest == manifest and job.status not in ENDED)

    def ended_jobs(self, manifest: UUID) -> dict[str, int]:
        statuses = [job.status for job in self.jobs.values() if job.manifest == manifest]
        statuses += self.archived.get(manifest, [])
        return {status: statuses.count(status) for status in ENDED}

    def waiting_for(self, cause: ModelJob) -> Iterator[ModelJob]:
        for job in self.jobs.values():
            if job.manifest == cause.manifest is not None and cause.name in job.waits:
                yield job

    # Doing

    def insert(self, jobs: Iterable[ModelJob]) -> None:
        new = list(jobs)
        for job in new:
            job.place = self.total_jobs(job.manifest)
            job.waits = set(job.depends_on)
            self.jobs[job.id] = job
        manifests = {job.manifest for job in new}
        self._settle([job for job in self.jobs.values() if job.manifest in manifests and job.status in ENDED])

    def claim(self, worker: UUID, slots: int, may_take_suspect: bool) -> list[UUID]:
        # A place counts as a minute, and all of this takes less.
        ready = sorted(
            (job for job in self.jobs.values() if job.ready),
            key=lambda job: (-job.priority, job.place, job.seq),
        )
        first_suspect = next((job for job in ready if job.suspect), None) if may_take_suspect else None
        chosen = [job for job in ready if not job.suspect or job is first_suspect][:slots]
        for job in chosen:
            job.status, job.worker = "processing", worker
            job.attempts += 1
            job.claims += 1
        return [job.id for job in chosen]

    def complete(self, job: ModelJob) -> None:
        job.status, job.error_class = "completed", None
        self._settle([job])

    def fail(self, job: ModelJob, error_class: str) -> str:
        counts = error_class not in FREE and (error_class != "stalled" or job.suspect)
        job.stalls += error_class == "stalled"
        again = error_class in RETRIED and (not counts or job.attempts < job.max_attempts)
        job.attempts -= 0 if counts else 1
        job.error_class = error_class
        if again:
            job.status, job.delayed, job.worker = "pending", True, None
        else:
            job.status = "failed"
            self._settle([job])
        return job.status

    def hand_back(self, job: ModelJob) -> None:
        job.status, job.worker = "pending", None
        job.attempts -= 1

    def cancel(self, jobs: Iterable[ModelJob]) -> set[UUID]:
        chosen = [job for job in jobs if job.status not in ENDED]
        for job in chosen:
            job.status, job.delayed, job.error_class = "cancelled", False, "cancelled"
        self._settle(chosen)
        return {job.id for job in chosen}

    def come_due(self) -> None:
        """The time of all delayed jobs comes; the next claim sees them."""
        for job in self.jobs.values():
            job.delayed = False

    def retry(self, jobs: Iterable[ModelJob]) -> set[UUID]:
        given = list(jobs)
        hurried = {job.id for job in given if job.status == "pending" and job.delayed}
        for job in given:
            job.delayed = job.delayed and job.id not in hurried
        chosen = {job.id for job in given if job.status in ("failed", "cancelled")}
        while more := {above for job in chosen for above in self._causes(job) if above not in chosen}:
            chosen |= more
        while more := {below for job in chosen for below in self._revivable(job, chosen)}:
            chosen |= more
        for job in (self.jobs[id] for id in chosen):
            job.status, job.attempts, job.stalls = "pending", 0, 0
            job.worker, job.error_class = None, None
        return hurried | chosen

    def drop_dependency(self, job: ModelJob, name: str) -> bool:
        if name not in job.waits:
            return False
        job.waits.remove(name)
        return True

    def delete(self, job: ModelJob) -> None:
        del self.jobs[job.id]

    def archive(self) -> set[UUID]:
        """All jobs of manifests that are over, and ended ones without a manifest."""
        gone = {
            job.id
            for job in self.jobs.values()
            if (job.status in ENDED if job.manifest is None else self.open_jobs(job.manifest) == 0)
        }
        for job in [self.jobs.pop(id) for id in gone]:
            if job.manifest is not None:
                self.archived.setdefault(job.manifest, []).append(job.status)
        return gone

    # What follows

    def _causes(self, job: UUID) -> Iterator[UUID]:
        waiting = self.jobs[job]
        for name in waiting.waits:
            cause = self.find(waiting.manifest, name)
            if cause is not None and cause.status in ("failed", "cancelled"):
                yield cause.id

    def _revivable(self, cause: UUID, chosen: set[UUID]) -> Iterator[UUID]:
        for job in self.waiting_for(self.jobs[cause]):
            was_cancelled = job.status == "cancelled" and job.error_class == "dependency_failed"
            if was_cancelled and job.id not in chosen and set(self._causes(job.id)) <= chosen:
                yield job.id

    def _settle(self, ended: list[ModelJob]) -> None:
        causes = list(ended)
        while causes:
            cause = causes.pop()
            for job in list(self.waiting_for(cause)):
                if cause.status == "completed" or job.runs_anyway:
                    job.waits.discard(cause.name)
                elif job.status == "pending":
                    job.status, job.delayed, job.error_class = "cancelled", False, "dependency_failed"
                    causes.append(job)
