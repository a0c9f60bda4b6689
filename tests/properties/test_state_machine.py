"""The queue's SQL functions against a small model: after every step, states and counters are the model's.

hypothesis makes up the steps: graphs in any order and with cycles, claims, outcomes on time and too late,
retries, cancellations, lost workers, deleted and archived jobs, jobs without a manifest; and finds the
shortest series that goes wrong.
"""

from __future__ import annotations

import os
from typing import Any
from uuid import UUID

import psycopg
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine
from psycopg.types.json import Jsonb

from tests.properties.model import Model, ModelJob
from tests.support import Held, Queue

NAMES = [f"j{n}" for n in range(8)]
LONG_DELAYS = {"backoffSeconds": 2_592_000, "maxBackoffSeconds": 2_592_000}
"""Between nothing and a month: none comes due before `time_passes`."""
CLASSES = ["transient", "stalled", "rate_limited", "invalid_request"]

planned = st.tuples(
    st.sampled_from(NAMES),
    st.frozensets(st.sampled_from(NAMES), max_size=3),
    st.booleans(),  # runs although a dependency failed
    st.integers(0, 2),  # priority
    st.integers(1, 2),  # max_attempts
)
graphs = st.lists(planned, min_size=1, max_size=6, unique_by=lambda job: job[0])
pick = st.integers(0, 1_000)


class QueueMachine(RuleBasedStateMachine):
    """Drives Postgres and the model side by side."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        super().__init__()
        self.queue = Queue(connection)
        self.model = Model()
        self.late: list[tuple[UUID, Held]] = []
        """What a worker believes to hold, and may report any time later."""

    @initialize()
    def clean(self) -> None:
        for table in (
            "dreamcut_jobs",
            "dreamcut_production_manifest",
            "dreamcut_workers",
            "dreamcut_archived_attempts",
            "dreamcut_archived_jobs",
        ):
            self.queue.run(f"delete from {table}")
        self.manifests = [self.queue.manifest() for _ in range(2)]
        self.workers = [self.queue.worker(["work"]) for _ in range(2)]

    # Producing

    @rule(graph=graphs, which=st.integers(0, 1), bulk=st.booleans())
    def insert(self, graph: list[tuple[Any, ...]], which: int, bulk: bool) -> None:
        manifest = self.manifests[which]
        rows = [row for row in graph if self.model.find(manifest, row[0]) is None]
        if bulk:
            self._insert(manifest, rows)
        else:
            for row in rows:
                self._insert(manifest, [row])

    @rule(
        jobs=st.lists(
            st.tuples(
                st.sampled_from(NAMES),
                st.just(frozenset()),
                st.booleans(),
                st.integers(0, 2),
                st.integers(1, 2),
            ),
            min_size=1,
            max_size=3,
        )
    )
    def insert_without_a_manifest(self, jobs: list[tuple[Any, ...]]) -> None:
        """Their names are those of the others, and mean nothing: nobody waits for them."""
        for job in jobs:
            self._insert(None, [job])

    def _insert(self, manifest: UUID | None, rows: list[tuple[Any, ...]]) -> None:
        if not rows:
            return
        values = [
            (manifest, name, "work", sorted(needs), priority, most,
             Jsonb({"onDependencyFailure": "run"} if anyway else {}), Jsonb(LONG_DELAYS))
            for name, needs, anyway, priority, most in rows
        ]  # fmt: skip
        places = ", ".join(["(%s, %s, %s, %s, %s, %s, %s, %s)"] * len(values))
        columns = "manifest_id, job_id, type, depends_on, priority, max_attempts, metadata, retry_policy"
        made = self.queue.rows(
            f"insert into dreamcut_jobs ({columns}) values {places} returning id, job_id, seq",
            *sum(values, ()),
        )
        by_name = {row["job_id"]: row for row in made}
        self.model.insert(
            ModelJob(by_name[name]["id"], manifest, name, needs, anyway, priority, by_name[name]["seq"], most)
            for name, needs, anyway, priority, most in rows
        )

    # Working

    @rule(worker=st.integers(0, 1), slots=st.integers(1, 4), suspect=st.booleans())
    def claim(self, worker: int, slots: int, suspect: bool) -> None:
        holder = self.workers[worker]
        held = self.queue.claim(holder, slots, may_take_suspect=suspect)
        assert [job.id for job in held] == self.model.claim(holder, slots, suspect)
        for job in held:
            assert job.claims == self.model.jobs[job.id].claims
        self.late += [(holder, job) for job in held]

    @precondition(lambda self: self.late)
    @rule(which=pick, keep=st.booleans())
    def complete(self, which: int, keep: bool) -> None:
        """An outcome; with `keep` it is reported once more, some time."""
        worker, held = self._late(which, keep)
        job = self._still_held(worker, held)
        known = job or self._still_held(
            worker, held, "completed"
        )  # told before: the answer may have been lost
        assert self.queue.complete(worker, held) == ([held.id] if known else [])
        if job:
            self.model.complete(job)

    @precondition(lambda self: self.late)
    @rule(which=pick, keep=st.booleans(), error_class=st.sampled_from(CLASSES))
    def fail(self, which: int, keep: bool, error_class: str) -> None:
        worker, held = self._late(which, keep)
        job = self._still_held(worker, held)
        said = [row["status"] for row in self.queue.fail(worker, held, error_class=error_class)]
        assert said == ([self.model.fail(job, error_class)] if job else [])

    @precondition(lambda self: self.late)
    @rule(which=pick, keep=st.booleans())
    def hand_back(self, which: int, keep: bool) -> None:
        worker, held = self._late(which, keep)
        job = self._still_held(worker, held)
        assert self.queue.hand_back(worker, held) == ([held.id] if job else [])
        if job:
            self.model.hand_back(job)

    @rule(worker=st.integers(0, 1))
    def lose_a_worker(self, worker: int) -> None:
        lost = self.workers[worker]
        self.queue.expire(lost)
        held = self.model.held_by(lost)
        expected = {job.id: self.model.fail(job, "stalled") for job in held}
        assert {row["id"]: row["status"] for row in self.queue.rescue()} == expected
        assert self.queue.heartbeat(lost)["alive"] is False
        self.workers[worker] = self.queue.worker(["work"])

    @rule(worker=st.integers(0, 1), known=st.integers(0, 2))
    def return_unheld(self, worker: int, known: int) -> None:
        """A claim's answer was lost: the worker knows only some of what it holds."""
        holder = self.workers[worker]
        held = self.model.held_by(holder)
        returned = self.queue.value(
            "select dreamcut_return_unheld(%s, %s)", holder, [job.id for job in held[:known]]
        )
        assert set(returned) == {job.id for job in held[known:]}
        for job in held[known:]:
            self.model.hand_back(job)

    @rule()
    def time_passes(self) -> None:
        self.queue.come_due()
        self.queue.value("select dreamcut_promote_jobs(1000)")
        self.model.come_due()

    # Operating

    @rule(which=st.lists(pick, min_size=1, max_size=3))
    def cancel(self, which: list[int]) -> None:
        jobs = self._jobs(which)
        assert set(self.queue.cancel(*(job.id for job in jobs))) == self.model.cancel(jobs)

    @rule(which=st.lists(pick, min_size=1, max_size=3))
    def retry(self, which: list[int]) -> None:
        jobs = self._jobs(which)
        assert set(self.queue.retry(*(job.id for job in jobs))) == self.model.retry(jobs)

    @rule(which=st.lists(pick, min_size=1, max_size=2))
    def release(self, which: list[int]) -> None:
        jobs = [job for job in self._jobs(which) if job.status == "processing"]
        assert set(self.queue.release(*(job.id for job in jobs))) == {job.id for job in jobs}
        for job in jobs:
            self.model.hand_back(job)

    @rule(which=pick, name=st.sampled_from(NAMES))
    def drop_dependency(self, which: int, name: str) -> None:
        for job in self._jobs([which]):
            dropped = self.queue.value("select dreamcut_drop_dependency(%s, %s)", job.id, name)
            assert dropped == self.model.drop_dependency(job, name)

    @rule(which=pick)
    def delete(self, which: int) -> None:
        for job in self._jobs([which]):
            self.queue.run("delete from dreamcut_jobs where id = %s", job.id)
            self.model.delete(job)

    @rule()
    def archive(self) -> None:
        """Everything that has ended is old enough."""
        gone = self.model.archive()
        moved = self.queue.row("select * from dreamcut_archive_jobs('0', '0', 1000)")
        assert moved["jobs"] == len(gone)
        found = self.queue.rows("select id from dreamcut_archived_jobs where id = any(%s)", list(gone))
        assert {row["id"] for row in found} == gone

    @rule()
    def reconcile(self) -> None:
        assert self.queue.reconcile() == 0, "there is nothing to mend that these functions left"

    # What must be true after every step

    @invariant()
    def jobs_are_the_models(self) -> None:
        rows = {row["id"]: row for row in self.queue.rows("select * from dreamcut_jobs")}
        assert rows.keys() == self.model.jobs.keys()
        for job in self.model.jobs.values():
            row = rows[job.id]
            assert (
                row["status"],
                row["unmet_dependencies"],
                row["next_retry_at"] is not None,
                row["ready"],
                row["attempts"],
                row["claims"],
                row["stalls"],
                row["error_class"],
            ) == (
                job.status,
                len(job.waits),
                job.delayed,
                job.ready,
                job.attempts,
                job.claims,
                job.stalls,
                job.error_class,
            ), job
            if job.status in ("pending", "processing"):
                assert row["worker_id"] == job.worker, job

    @invariant()
    def counters_are_the_models(self) -> None:
        for row in self.queue.rows("select * from dreamcut_production_manifest"):
            assert row["open_jobs"] == self.model.open_jobs(row["id"])
            ended = self.model.ended_jobs(row["id"])
            assert {status: row[f"{status}_jobs"] for status in ended} == ended
            assert row["total_jobs"] == row["open_jobs"] + sum(ended.values())
        # A dependency that was dropped, or given up, may be retried while its dependent runs.
        wrong = [row for row in self.queue.inconsistencies() if row["what"] != "runs without a dependency"]
        assert wrong == []

    # Choosing

    def _jobs(self, which: list[int]) -> list[ModelJob]:
        known = list(self.model.jobs.values())
        return (
            list({known[n % len(known)].id: known[n % len(known)] for n in which}.values()) if known else []
        )

    def _late(self, which: int, keep: bool) -> tuple[UUID, Held]:
        place = which % len(self.late)
        return self.late[place] if keep else self.late.pop(place)

    def _still_held(self, worker: UUID, held: Held, status: str = "processing") -> ModelJob | None:
        job = self.model.jobs.get(held.id)
        ours = job is not None and (job.status, job.worker, job.claims) == (status, worker, held.claims)
        return job if ours else None


def test_the_functions_do_what_the_model_does(connection: psycopg.Connection[Any]) -> None:
    class OnThisDatabase(QueueMachine):
        def __init__(self) -> None:
            super().__init__(connection)

    run_machine(
        OnThisDatabase,
        settings=settings(
            max_examples=int(os.environ.get("PROPERTY_EXAMPLES", "60")),
            stateful_step_count=30,
            deadline=None,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
