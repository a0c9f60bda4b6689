"""The views of a manifest's progress: what was completed, what is left, and how long that may take."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from tests.server.conftest import RENDER, TTS, Queue


def progress(queue: Queue, manifest: UUID) -> dict[str, Any]:
    (row,) = queue.rows(
        "select total_jobs as total, pending_jobs as pending, processing_jobs as processing,"
        " completed_jobs as completed, failed_jobs as failed, cancelled_jobs as cancelled,"
        " progress_percent::float8 as percent, time_left_ms"
        " from dreamcut_production_progress where manifest_id = %s",
        manifest,
    )
    return row


def test_progress_of_a_manifest_with_the_time_left_from_history(queue: Queue) -> None:
    for _ in range(3):
        queue.client.enqueue(TTS, {})
    for job in queue.claim(TTS, 3):
        queue.complete(job, ms=8000)
    manifest = queue.client.submit_manifest(
        {},
        [{"job_id": f"t{number}", "type": TTS} for number in range(6)]
        + [{"job_id": "r", "type": RENDER, "depends_on": ["t0"]}],
    )
    (job,) = queue.claim(TTS)
    queue.complete(job, ms=8000)
    (row,) = queue.rows(
        "select total_jobs, pending_jobs, completed_jobs, progress_percent, status, "
        "dreamcut_time_left(manifest_id) as left_ms from dreamcut_production_progress where manifest_id = %s",
        manifest,
    )
    assert (row["total_jobs"], row["pending_jobs"], row["completed_jobs"]) == (7, 6, 1)
    assert float(row["progress_percent"]) == 14.3
    assert row["left_ms"] == pytest.approx(16_000, rel=0.1)  # five jobs in four slots: two waves
    # A manifest as long as the last ones has six sevenths of their time before it.
    queue.do(
        "insert into dreamcut_production_manifest (manifest_json, status, completed_at, processing_time_ms) "
        "select '{}', 'done', now(), ms from unnest(array[6000, 8000]) ms"
    )
    (row,) = queue.rows("select jobs, open_jobs, percent, time_left_ms from dreamcut_manifest_progress")
    assert (row["jobs"], row["open_jobs"], float(row["percent"]), row["time_left_ms"]) == (7, 6, 14.3, 6000)


def test_progress_counts_what_was_completed_through_failure_and_retry(queue: Queue) -> None:
    manifest = queue.client.submit_manifest(
        {},
        [{"job_id": f"t{number}", "type": TTS} for number in range(3)]
        + [{"job_id": "r", "type": RENDER, "depends_on": ["t0"]}],
    )
    jobs = queue.claim(TTS, 3)
    queue.do("select dreamcut_heartbeat(%s, '1 hour', false, %s, '{1,1,1}')", queue.worker, jobs)
    assert progress(queue, manifest) | {"time_left_ms": 0} == {
        "total": 4, "pending": 1, "processing": 3, "completed": 0, "failed": 0, "cancelled": 0,
        "percent": 0, "time_left_ms": 0,
    }  # fmt: skip
    (render,) = queue.rows("select depends_on, id from dreamcut_jobs where job_id = 'r'")
    (first,) = queue.rows("select id from dreamcut_jobs where job_id = 't0'")
    others = [job for job in jobs if job != first["id"]]
    queue.fail(first["id"], "invalid_request")
    queue.complete(others[0])
    assert progress(queue, manifest) | {"time_left_ms": 0} == {
        "total": 4, "pending": 0, "processing": 1, "completed": 1, "failed": 1, "cancelled": 1,
        "percent": 25.0, "time_left_ms": 0,
    }  # fmt: skip
    (row,) = queue.rows("select percent::float8, open_jobs from dreamcut_manifest_progress")
    assert row == {"percent": 25.0, "open_jobs": 1}, "one definition"
    queue.complete(others[1])
    assert queue.rows("select status from dreamcut_production_manifest") == [{"status": "failed"}]
    ended = progress(queue, manifest)
    assert (ended["percent"], ended["time_left_ms"]) == (50.0, 0)
    queue.do("select dreamcut_retry_jobs(%s)", [first["id"]])
    again = progress(queue, manifest)
    assert (again["pending"], again["failed"], again["cancelled"], again["percent"]) == (2, 0, 0, 50.0)
    queue.do("delete from dreamcut_jobs where id = any (%s)", [others[0], render["id"]])
    assert progress(queue, manifest) | {"time_left_ms": 0} == {
        "total": 2, "pending": 1, "processing": 0, "completed": 1, "failed": 0, "cancelled": 0,
        "percent": 50.0, "time_left_ms": 0,
    }  # fmt: skip


def test_a_done_manifest_is_at_100_percent_also_without_what_it_could_do_without(queue: Queue) -> None:
    manifest = queue.client.submit_manifest(
        {},
        [
            {"job_id": "t", "type": TTS},
            {"job_id": "r", "type": RENDER, "depends_on": ["t"], "metadata": {"onDependencyFailure": "run"}},
        ],
    )
    (job,) = queue.claim(TTS)
    queue.fail(job, "invalid_request")
    (job,) = queue.claim(RENDER)
    queue.complete(job)
    found = progress(queue, manifest)
    assert (found["completed"], found["failed"], found["percent"]) == (1, 1, 100)


def test_updates_by_hand_never_make_a_count_or_percent_impossible(queue: Queue) -> None:
    manifest = queue.client.submit_manifest({}, [{"job_id": f"t{n}", "type": TTS} for n in range(4)])

    def possible() -> bool:
        found = progress(queue, manifest)
        return all(value is None or value >= 0 for value in found.values()) and found["percent"] <= 100

    jobs = queue.claim(TTS, 4)
    queue.do("select dreamcut_heartbeat(%s, '1 hour', false, %s, '{1,1,1,1}')", queue.worker, jobs)
    queue.do("update dreamcut_production_manifest set open_jobs = 1, completed_jobs = 9, total_jobs = 3")
    assert possible() and progress(queue, manifest)["percent"] == 100
    queue.do("update dreamcut_jobs set status = 'failed', error_class = 'bug' where id = any (%s)", jobs[:2])
    queue.do("select dreamcut_retry_jobs(%s)", jobs[:2])
    assert possible()
    queue.do("delete from dreamcut_jobs where id = %s", jobs[0])
    assert possible()
    queue.do("update dreamcut_production_manifest set completed_jobs = 0, failed_jobs = 0, open_jobs = 3")
    queue.do("update dreamcut_jobs set status = 'completed' where id = any (%s)", jobs[1:])
    queue.do("delete from dreamcut_jobs where id = %s", jobs[1])
    assert possible()
    # When nobody is at work on it any more, the counts are taken from the jobs.
    queue.do("update dreamcut_production_manifest set total_jobs = 2, status = 'rendering'")
    queue.do("select dreamcut_reconcile()")
    found = progress(queue, manifest)
    assert (found["completed"], found["pending"], found["percent"]) == (2, 0, 100)


def test_totals_follow_late_inserts_and_deletes(queue: Queue) -> None:
    manifest = queue.client.submit_manifest({}, [{"job_id": "a", "type": TTS}, {"job_id": "b", "type": TTS}])
    queue.client.enqueue(TTS, {}, manifest_id=manifest, job_id="c")
    total = "select total_jobs from dreamcut_production_manifest"
    assert queue.rows(total) == [{"total_jobs": 3}]
    queue.do("delete from dreamcut_jobs where job_id = 'c'")
    assert queue.rows(total) == [{"total_jobs": 2}]
