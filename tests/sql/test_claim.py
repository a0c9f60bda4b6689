"""Claiming: the order, the slots, and that no job is ever given to two."""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

import psycopg
import pytest

from tests.support import LEASE_LOST, Queue, ids, names


def test_the_most_urgent_first_then_the_oldest(queue: Queue) -> None:
    for job_id, priority in [("a", 5), ("b", 20), ("c", 5), ("d", 20), ("e", 0)]:
        queue.add(None, job_id, priority=priority)
    worker = queue.worker()
    assert names(queue.claim(worker, 3)) == ["b", "d", "a"]
    assert names(queue.claim(worker, 3)) == ["c", "e"]
    assert queue.claim(worker, 3) == []


def test_each_type_has_its_own_slots(queue: Queue) -> None:
    for type in ("tts", "image", "video"):
        for _ in range(5):
            queue.add(None, type=type, priority=20 if type == "tts" else 5)
    worker = queue.worker(["tts", "image", "video"])
    held = queue.claim_types(worker, {"tts": 3, "image": 2, "unknown": 4, "video": 0})
    types = [queue.job(job)["type"] for job in ids(held)]
    assert sorted(types) == ["image", "image", "tts", "tts", "tts"]


def test_a_claim_counts_and_says_who_holds_the_job_since_when(queue: Queue) -> None:
    job = queue.add(None, "a")
    worker = queue.worker()
    held = queue.claim_one(worker)
    row = queue.job(job)
    assert (held.attempts, held.claims) == (1, 1)
    assert (row["status"], row["worker_id"], row["attempts"], row["claims"]) == ("processing", worker, 1, 1)
    assert row["started_at"] is not None and row["ready"] is False
    queue.hand_back(worker, held)
    again = queue.claim_one(worker)
    assert (again.attempts, again.claims) == (1, 2)


def test_jobs_that_another_claim_holds_are_skipped_without_waiting(
    queue: Queue, another: Callable[[], Queue]
) -> None:
    for number in range(4):
        queue.add(None, f"j{number}")
    first, second = another(), another()
    one, two = queue.worker(), queue.worker()
    taken = first.claim(one, 2)
    others = second.claim(two, 10)
    assert names(taken) == ["j0", "j1"] and names(others) == ["j2", "j3"]
    first.connection.rollback()
    second.connection.commit()
    assert names(queue.claim(one, 10)) == ["j0", "j1"]


def test_a_claim_waits_for_nobody_who_holds_the_manifest(queue: Queue, another: Callable[[], Queue]) -> None:
    manifest, _ = queue.graph({"a": []})
    holder = another()
    holder.run("select from dreamcut_production_manifest where id = %s for update", manifest)
    queue.run("set lock_timeout = '5s'")
    worker = queue.worker()
    held = queue.claim_one(worker)
    assert queue.of_manifest(manifest)["status"] == "planning"
    holder.connection.rollback()
    queue.hand_back(worker, held)
    queue.claim_one(worker)
    assert queue.of_manifest(manifest)["status"] == "rendering"


@pytest.mark.parametrize("status", ["planning", "ready_to_dispatch"])
def test_the_first_claim_starts_the_manifest(queue: Queue, status: str) -> None:
    manifest = queue.manifest(status=status)
    queue.add(manifest, "a")
    queue.add(manifest, "b")
    worker = queue.worker()
    queue.claim_one(worker)
    started = queue.of_manifest(manifest)
    assert started["status"] == "rendering" and started["started_at"] is not None
    queue.claim_one(worker)
    assert queue.of_manifest(manifest)["started_at"] == started["started_at"]


def test_a_delayed_job_is_not_claimed_before_its_time_and_is_after(queue: Queue) -> None:
    worker = queue.worker()
    job = queue.value(
        "select dreamcut_enqueue('work', p_run_at => now() + interval '1 hour', p_job_id => 'later')"
    )
    assert queue.claim(worker) == []
    assert queue.value("select state from dreamcut_job_states where id = %s", job) == "delayed"
    queue.come_due()
    held = queue.claim_one(worker)
    assert held.id == job
    assert queue.job(job)["next_retry_at"] is None


def test_promoting_leaves_what_is_not_due_and_what_another_promotes(
    queue: Queue, another: Callable[[], Queue]
) -> None:
    soon = [queue.add(None, f"s{n}", next_retry_at="2026-01-01T00:00:00Z") for n in range(3)]
    later = queue.add(None, "later", next_retry_at="2999-01-01T00:00:00Z")
    holder = another()
    holder.run("select from dreamcut_jobs where id = %s for update", soon[0])
    queue.run("set lock_timeout = '5s'")
    assert queue.value("select dreamcut_promote_jobs(2)") == 2
    assert queue.value("select dreamcut_promote_jobs(10)") == 0
    holder.connection.rollback()
    assert queue.value("select dreamcut_promote_jobs(10)") == 1
    assert queue.job(later)["ready"] is False


def test_a_promoted_job_that_still_waits_stays_blocked(queue: Queue) -> None:
    manifest = queue.manifest()
    queue.add(manifest, "a", next_retry_at="2999-01-01T00:00:00Z")
    queue.add(manifest, "b", ["a"], next_retry_at="2026-01-01T00:00:00Z")
    assert queue.claim(queue.worker()) == []
    assert queue.states(manifest) == {"a": "delayed", "b": "blocked"}


def test_a_blocked_job_is_never_claimed(queue: Queue) -> None:
    manifest, _ = queue.graph({"b": ["a"], "c": ["b"]})
    worker = queue.worker()
    assert queue.claim(worker, 10) == []
    queue.add(manifest, "a")
    assert names(queue.claim(worker, 10)) == ["a"]


@pytest.mark.parametrize("state", ["lost", "stopped"])
def test_a_worker_without_a_lease_is_refused(queue: Queue, state: str) -> None:
    job = queue.add(None)
    worker = queue.worker()
    queue.run("update dreamcut_workers set state = %s where id = %s", state, worker)
    for stranger in (worker, uuid4()):
        with pytest.raises(psycopg.Error) as raised:
            queue.claim(stranger)
        assert raised.value.sqlstate == LEASE_LOST
    assert queue.job(job)["status"] == "pending"


@pytest.mark.parametrize("status", ["processing", "completed", "failed", "cancelled"])
def test_only_pending_jobs_are_claimed(queue: Queue, status: str) -> None:
    queue.add(None, status=status)
    assert queue.claim(queue.worker()) == []
