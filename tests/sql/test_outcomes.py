"""Outcomes are written once, by whoever holds the job; and a class of error decides what follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from psycopg.errors import LockNotAvailable
from psycopg.types.json import Jsonb

from dreamcuts.errors import ErrorClass
from tests.support import Queue


def test_a_completed_job_keeps_result_url_and_times(queue: Queue) -> None:
    job = queue.add(None, "a")
    worker = queue.worker()
    assert queue.complete(worker, queue.claim_one(worker)) == [job]
    row = queue.job(job)
    assert row["status"] == "completed" and row["result"] == {"made": "a"}
    assert row["completed_at"] is not None and row["error_class"] is None


@pytest.mark.parametrize("late", ["complete", "fail", "hand_back"])
@pytest.mark.parametrize("meanwhile", ["released", "released_and_claimed", "cancelled", "other", "completed"])
def test_a_late_outcome_is_refused(queue: Queue, late: str, meanwhile: str) -> None:
    job = queue.add(None, "a", max_attempts=1)
    worker = queue.worker()
    held = queue.claim_one(worker)
    if meanwhile == "cancelled":
        queue.cancel(job)
    elif meanwhile == "completed":
        queue.complete(worker, held)
    else:
        assert queue.release(job) == [job]
    if meanwhile == "released_and_claimed":
        queue.claim_one(worker)  # the same worker holds it again, under another claim
    elif meanwhile == "other":
        queue.claim_one(queue.worker())
    before, history = queue.job(job), queue.history(job)
    # Only the very same outcome of the very same claim is answered as written: the first answer may be lost.
    is_repeat = (meanwhile, late) == ("completed", "complete")
    assert getattr(queue, late)(worker, held) == ([job] if is_repeat else [])
    assert queue.job(job) == before
    assert queue.history(job) == history


def test_a_result_is_not_answered_as_written_for_another_claim_or_another_worker(queue: Queue) -> None:
    queue.add(None, "a")
    worker = queue.worker()
    held = queue.claim_one(worker)
    queue.complete(worker, held)
    assert queue.complete(worker, replace(held, claims=held.claims + 1)) == []
    assert queue.complete(queue.worker(), held) == []


@pytest.mark.parametrize("late", ["fail", "hand_back"])
def test_an_outcome_whose_history_is_taken_is_written_all_the_same(queue: Queue, late: str) -> None:
    """Somebody set claims back by hand: the next claim has a number that history already knows."""
    job, other = queue.add(None, "a"), queue.add(None, "b")
    worker = queue.worker()
    held = queue.claim(worker, 2)
    queue.hand_back(worker, *held)
    (before,) = queue.history(job)
    queue.run("update dreamcut_jobs set claims = 0 where id = %s", job)
    getattr(queue, late)(worker, *queue.claim(worker, 2))
    assert {queue.job(one)["status"] for one in (job, other)} == {"pending"}
    assert queue.history(job) == [before] and len(queue.history(other)) == 2


@pytest.mark.parametrize("outcome", ["complete", "fail", "hand_back"])
def test_an_outcome_does_not_wait_for_long_for_what_somebody_has_locked(
    queue: Queue, another: Callable[[], Queue], outcome: str
) -> None:
    """The worker then writes the others first, and tries again."""
    queue.add(None, "a")
    worker = queue.worker()
    held = queue.claim_one(worker)
    another().run("select from dreamcut_jobs where id = %s for update", held.id)
    queue.run("set statement_timeout = '20s'")
    with pytest.raises(LockNotAvailable):
        getattr(queue, outcome)(worker, held)


def test_one_refused_outcome_does_not_stop_the_others_of_its_batch(queue: Queue) -> None:
    jobs = [queue.add(None, name) for name in "abc"]
    worker = queue.worker()
    held = queue.claim(worker, 3)
    queue.cancel(jobs[1])
    assert sorted(queue.complete(worker, *held)) == sorted([jobs[0], jobs[2]])


def test_every_error_class_has_a_policy_of_its_own(queue: Queue) -> None:
    source = queue.value("select prosrc from pg_proc where proname = 'dreamcut_error_policy'")
    listed = {line.split("'")[1] for line in source.splitlines() if line.strip().startswith("('")}
    assert listed == {member.value for member in ErrorClass}


NO_RETRY = {"content_rejected", "invalid_request", "dependency_failed", "spend_limit", "cancelled"}
NOT_COUNTED = {"rate_limited", "auth", "quota", "paused"}


@pytest.mark.parametrize("error_class", [*(member.value for member in ErrorClass), "unheard_of"])
def test_what_follows_from_a_class(queue: Queue, error_class: str) -> None:
    job = queue.add(None, "a", max_attempts=2)
    worker = queue.worker()
    for _ in range(2):
        queue.fail(worker, queue.claim_one(worker), error_class=error_class)
        queue.come_due()
        if error_class in NO_RETRY:
            break
    row = queue.job(job)
    if error_class in NOT_COUNTED or error_class == "stalled":  # the first two times: see test_suspects.py
        assert (row["status"], row["attempts"]) == ("pending", 0)
    elif error_class in NO_RETRY:
        assert (row["status"], row["attempts"]) == (
            "cancelled" if error_class == "cancelled" else "failed",
            1,
        )
    else:
        assert (row["status"], row["attempts"]) == ("failed", 2)
    assert row["error_class"] == error_class and row["error_message"] == "it broke"
    assert (row["completed_at"] is None) == (row["status"] == "pending")


def test_the_history_keeps_every_attempt_that_did_not_succeed(queue: Queue) -> None:
    job = queue.add(None, "a", max_attempts=3)
    worker = queue.worker()
    queue.fail(worker, queue.claim_one(worker), detail={"status": 503}, message="one")
    queue.come_due()
    queue.hand_back(worker, queue.claim_one(worker), reason="deploy")
    queue.fail(worker, queue.claim_one(worker), error_class="rate_limited", message="three")
    queue.come_due()
    queue.fail(worker, queue.claim_one(worker), message="four")
    queue.come_due()
    queue.fail(worker, queue.claim_one(worker), message="five")
    found = [
        (row["claim"], row["attempt"], row["outcome"], row["error_class"], row["error_message"])
        for row in queue.history(job)
    ]
    assert found == [
        (1, 1, "retried", "transient", "one"),
        (2, 2, "released", None, "deploy"),
        (3, 2, "retried", "rate_limited", "three"),
        (4, 2, "retried", "transient", "four"),
        (5, 3, "failed", "transient", "five"),
    ]
    first = queue.history(job)[0]
    assert first["detail"] == {"status": 503} and first["worker_id"] == worker
    assert first["finished_at"] >= first["started_at"]


def delay_of(queue: Queue, row: dict[str, Any]) -> timedelta:
    """How long the job waits from when it failed."""
    failed_at = queue.value("select max(finished_at) from dreamcut_job_attempts where job = %s", row["id"])
    delay: timedelta = row["next_retry_at"] - failed_at
    return delay


def test_the_provider_s_retry_after_wins(queue: Queue) -> None:
    queue.add(None, retry_policy=Jsonb({"backoffSeconds": 1, "maxBackoffSeconds": 1}))
    worker = queue.worker()
    (row,) = queue.fail(worker, queue.claim_one(worker), retry_after=500)
    assert delay_of(queue, row) == timedelta(seconds=500)


def test_without_one_the_backoff_of_class_and_type_and_attempt_counts(queue: Queue) -> None:
    for _ in range(40):
        queue.add(None, retry_policy=Jsonb({"backoffSeconds": 100}), attempts=1, max_attempts=9)
    worker = queue.worker()
    rows = queue.fail(worker, *queue.claim(worker, 40), error_class="overloaded", base_s=1)
    delays = [delay_of(queue, row).total_seconds() for row in rows]
    assert max(delays) <= 800  # 100 s of the policy, four times for the class, twice for the second attempt
    assert max(delays) > 400 and min(delays) < 400  # each has a chance of 2^-40 to fail


@pytest.mark.parametrize("garbage", [-5.0, 1e300, float("inf"), float("nan")])
def test_a_retry_after_that_makes_no_sense_does_not_hold_the_job(queue: Queue, garbage: float) -> None:
    job = queue.add(None)
    worker = queue.worker()
    (row,) = queue.fail(worker, queue.claim_one(worker), retry_after=garbage)
    assert row["id"] == job and row["status"] == "pending"
    assert timedelta() <= delay_of(queue, row) <= timedelta(days=7)


def backoffs(queue: Queue, policy: Any, base_s: float, factor: int, attempt: int) -> list[float]:
    rows = queue.rows(
        "select extract(epoch from dreamcut_backoff(%s, make_interval(secs => %s), %s, %s))::float8 as delay"
        " from generate_series(1, 300)",
        Jsonb(policy), base_s, factor, attempt,
    )  # fmt: skip
    return [row["delay"] for row in rows]


@pytest.mark.parametrize(
    ("policy", "factor", "attempt", "ceiling"),
    [
        ({}, 1, 1, 10),
        ({}, 1, 3, 40),
        ({}, 4, 2, 80),
        ({}, 1, 0, 10),
        ({}, 1, 30, 3600),
        ({"backoffSeconds": 30}, 1, 2, 60),
        ({"backoffSeconds": 0}, 1, 5, 0),
        ({"maxBackoffSeconds": 20}, 1, 9, 20),
        ({"backoffSeconds": 2, "maxBackoffSeconds": 3, "maxRetries": 9}, 1, 1, 2),
    ],
)
def test_backoff_has_full_jitter_below_its_ceiling(
    queue: Queue, policy: dict[str, Any], factor: int, attempt: int, ceiling: float
) -> None:
    delays = backoffs(queue, policy, 10, factor, attempt)
    assert min(delays) >= 0 and max(delays) <= ceiling
    # 300 even draws: that none falls into an outer tenth has a chance of 0.9^300, some 10^-14.
    assert max(delays) >= 0.9 * ceiling and min(delays) <= 0.1 * ceiling


@pytest.mark.parametrize(
    "policy",
    [
        {"backoffSeconds": "soon", "maxBackoffSeconds": None},
        {"backoffSeconds": -1},
        {"maxBackoffSeconds": -1},
        {"backoffSeconds": {"a": 1}},
        {"backoffSeconds": 1e308, "maxBackoffSeconds": 1e308},
        {"backoffSeconds": 10**400, "maxBackoffSeconds": 10**400},
        {"backoffSeconds": 1e-320},
        {"maxRetries": "many"},
    ],
)
def test_a_policy_that_makes_no_sense_does_not_hold_the_job(queue: Queue, policy: dict[str, Any]) -> None:
    job = queue.add(None, retry_policy=Jsonb(policy))
    worker = queue.worker()
    (row,) = queue.fail(worker, queue.claim_one(worker))
    assert row["id"] == job and row["status"] == "pending"
    assert timedelta() <= delay_of(queue, row) <= timedelta(days=31)


def test_a_job_without_errors_never_enters_the_error_index(queue: Queue) -> None:
    queue.add(None, "good")
    queue.add(None, "bad", max_attempts=1)
    worker = queue.worker()
    good, bad = queue.claim(worker, 2)
    queue.complete(worker, good)
    queue.fail(worker, bad)
    rows = queue.rows("select job_id from dreamcut_jobs where error_class is not null order by seq")
    assert [row["job_id"] for row in rows] == ["bad"]


def test_success_after_errors_clears_them_and_keeps_the_history(queue: Queue) -> None:
    job = queue.add(None)
    worker = queue.worker()
    queue.fail(worker, queue.claim_one(worker))
    queue.come_due()
    queue.complete(worker, queue.claim_one(worker))
    row = queue.job(job)
    assert row["error_class"] is None and row["error_message"] is None and row["attempts"] == 2
    assert len(queue.history(job)) == 1


def test_a_cancelled_running_job_leaves_a_line_in_the_history(queue: Queue) -> None:
    job = queue.add(None)
    worker = queue.worker()
    queue.claim_one(worker)
    assert queue.cancel(job) == [job]
    assert queue.cancel(job) == []
    (line,) = queue.history(job)
    assert (line["outcome"], line["worker_id"]) == ("cancelled", worker)
