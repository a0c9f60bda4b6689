"""What operators and producers do to jobs while others work on them: two transactions in a forced order.

As in test_races.py, each test is run again without what protects it, or says why that would show nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import psycopg
import pytest

from tests.sql.interleaving import (
    FIRST_LOCK_AWAY,
    TAKE_THE_LOCKS_AWAY,
    Meanwhile,
    Steps,
    alter,
    end,
    race,
    race_in,
    throw_away,
)
from tests.support import Blocked, Queue

pytestmark = pytest.mark.usefixtures("patient")
Another = Callable[[], Queue]
both_ways = pytest.mark.parametrize("locked", [True, False], ids=["locked", "without the locks"])
DROP = "select dreamcut_drop_dependency(%s, %s)"
ARCHIVE = "select jobs from dreamcut_archive_jobs('0', '0', 10)"
FENCE = "job.claims = outcome.claim and job.status = 'processing', false"


def fail(queue: Queue, job_id: str) -> None:
    worker = queue.worker()
    held = {job.job_id: job for job in queue.claim(worker, 10_000)}
    queue.fail(worker, held.pop(job_id), error_class="invalid_request")
    queue.hand_back(worker, *held.values())


# Cancel


@pytest.mark.parametrize("fenced", [True, False], ids=["fenced", "without the fence"])
def test_a_cancel_and_a_completion_of_the_same_job_at_once(
    queue: Queue, another: Another, database: str, fenced: bool
) -> None:
    """The job's own row makes them wait; what keeps the result out is that the status is checked again
    then."""
    manifest, jobs = queue.graph({"a": [], "b": ["a"]})
    if not fenced:
        alter(queue, "dreamcut_complete_jobs", (FENCE, "job.claims = outcome.claim, false"))
    worker = queue.worker()
    held = queue.claim_one(worker)
    operator = another()
    operator.cancel(jobs["a"])
    done = race(database, operator, lambda other: other.complete(worker, held))
    row = queue.job(jobs["a"])
    if fenced:
        assert done == (True, [])
        assert row["status"] == "cancelled" and row["result"] is None
    else:
        assert done == (True, [jobs["a"]])
        assert queue.states(manifest) == {"a": "completed", "b": "cancelled"}
        throw_away(queue)


def test_a_completion_and_then_a_cancel_of_the_same_job(
    queue: Queue, another: Another, database: str
) -> None:
    """No companion: the cancel, too, locks the job's own row, and sees then that it is over."""
    manifest, jobs = queue.graph({"a": [], "b": ["a"]})
    worker = queue.worker()
    held = queue.claim_one(worker)
    worker_side = another()
    worker_side.complete(worker, held)
    assert race(database, worker_side, lambda operator: operator.cancel(jobs["a"])) == (True, [])
    assert queue.states(manifest) == {"a": "completed", "b": "ready"}


@pytest.mark.parametrize("locked", [True, False], ids=["locked", "without its lock"])
def test_a_job_is_cancelled_while_it_is_being_claimed(
    queue: Queue, another: Another, database: str, locked: bool
) -> None:
    """Read without a lock, the job would look pending to the cancel: it would not tell the worker, nor write
    the attempt down."""
    job = queue.add(None, "a")
    if not locked:
        alter(
            queue,
            "dreamcut_cancel_jobs",
            (
                "('pending', 'processing')\n        order by job.id\n        for no key update",
                "('pending', 'processing')",
            ),
        )
    worker = queue.worker()
    claiming = another()
    held = claiming.claim_one(worker)
    assert race(database, claiming, lambda operator: operator.cancel(job)) == (True, [job])
    assert queue.job(job)["status"] == "cancelled"
    assert [line["outcome"] for line in queue.history(job)] == ["cancelled"] * locked
    beat = queue.heartbeat(worker, held)
    assert beat["cancelled"] == [job] and queue.complete(worker, held) == []


def test_a_claim_does_not_wait_for_a_cancel_and_leaves_the_job(
    queue: Queue, another: Another, database: str
) -> None:
    """No companion: a claim that did not skip the row would wait for it, and leave it then."""
    manifest, jobs = queue.graph({"a": [], "b": []})
    operator = another()
    operator.cancel(jobs["a"])
    worker = queue.worker()
    with Meanwhile(database, lambda side: side.claim(worker, 10)) as claim:
        assert not claim.waited
        assert [job.job_id for job in claim.result()] == ["b"]
    operator.connection.commit()
    assert queue.claim(worker, 10) == []
    assert queue.states(manifest) == {"a": "cancelled", "b": "processing"}


# Retry


@both_ways
def test_a_job_is_cancelled_while_it_is_being_retried(
    queue: Queue, another: Another, database: str, locked: bool
) -> None:
    """Without the first lock the cancel sees a job that has ended, and does nothing: it would run all the
    same."""
    manifest, jobs = queue.graph({"a": [], "b": ["a"]})
    fail(queue, "a")
    if not locked:
        queue.run(FIRST_LOCK_AWAY)
    operator = another()
    assert set(operator.retry(jobs["a"])) == set(jobs.values())
    done = race(database, operator, lambda other: other.cancel(jobs["a"]))
    if locked:
        assert done == (True, [jobs["a"]])
        assert queue.states(manifest) == {"a": "cancelled", "b": "cancelled"}
    else:
        assert done == (False, [])
        assert queue.states(manifest) == {"a": "ready", "b": "blocked"}


@both_ways
def test_a_job_is_retried_while_it_is_being_cancelled(
    queue: Queue, another: Another, database: str, locked: bool
) -> None:
    """Without the first lock the retry sees a job that is not over, and does nothing."""
    manifest, jobs = queue.graph({"a": [], "b": ["a"]})
    if not locked:
        queue.run(FIRST_LOCK_AWAY)
    operator = another()
    operator.cancel(jobs["a"])
    waited, retried = race(database, operator, lambda other: other.retry(jobs["a"]))
    assert waited == locked
    assert set(retried) == (set(jobs.values()) if locked else set())
    assert set(queue.states(manifest).values()) == ({"ready", "blocked"} if locked else {"cancelled"})


@pytest.mark.parametrize("order", ["cancel first", "retry first"])
@both_ways
def test_a_dependent_is_retried_while_its_dependency_is_cancelled(
    queue: Queue, another: Another, database: str, order: str, locked: bool
) -> None:
    """Without the locks neither sees the other: the dependent is pending again, and what it waits for
    cancelled."""
    manifest, jobs = queue.graph({"a": [], "b": ["a"], "z": []})
    queue.cancel(jobs["b"])
    steps: Steps = {
        "cancel first": lambda side: side.cancel(jobs["a"]),
        "retry first": lambda side: side.retry(jobs["b"]),
    }
    if not locked:
        # When the retry is first, it counts the job into the manifest: that, too, makes the cancel wait.
        queue.run(FIRST_LOCK_AWAY if order == "cancel first" else TAKE_THE_LOCKS_AWAY)
    race_in(order, steps, database, another())
    states = queue.states(manifest)
    if not locked:
        assert (states["a"], states["b"]) == ("cancelled", "blocked")
        throw_away(queue)
    elif order == "cancel first":
        assert (states["a"], states["b"]) == ("ready", "blocked"), "the retry brings both back"
    else:
        assert (states["a"], states["b"]) == ("cancelled", "cancelled")


@pytest.mark.parametrize("order", ["failure first", "retry first"])
@both_ways
def test_one_cause_is_retried_while_another_fails(
    queue: Queue, another: Another, database: str, order: str, locked: bool
) -> None:
    """Without the locks the retry revives what the other failure will not let run, and nobody cancels it
    again."""
    manifest, jobs = queue.graph({"a": [], "b": [], "c": ["a", "b"]})
    worker = queue.worker()
    a, b = queue.claim(worker, 2)
    queue.fail(worker, a, error_class="invalid_request")
    steps: Steps = {
        "failure first": lambda side: end(side, "failed", worker, b),
        "retry first": lambda side: side.retry(jobs["a"]),
    }
    if not locked:
        queue.run(FIRST_LOCK_AWAY if order == "failure first" else TAKE_THE_LOCKS_AWAY)
    race_in(order, steps, database, another())
    right = {"a": "ready", "b": "failed", "c": "cancelled"}
    assert queue.states(manifest) == (right if locked else {**right, "c": "blocked"})
    if not locked:
        throw_away(queue)


@pytest.mark.parametrize("order", ["retry first", "completion first"])
def test_a_retry_and_a_completion_at_once(queue: Queue, another: Another, database: str, order: str) -> None:
    """No companion: both change the dependent's own row, and each takes off or leaves what the other does not
    touch."""
    manifest, jobs = queue.graph({"a": [], "b": [], "c": ["a", "b"]})
    worker = queue.worker()
    a, b = queue.claim(worker, 2)
    queue.fail(worker, a, error_class="invalid_request")
    steps: Steps = {
        "retry first": lambda side: side.retry(jobs["a"]),
        "completion first": lambda side: side.complete(worker, b),
    }
    assert race_in(order, steps, database, another())[0]
    assert queue.states(manifest) == {"a": "ready", "b": "completed", "c": "blocked"}
    queue.finish("a")
    assert queue.states(manifest)["c"] == "ready"


@pytest.mark.parametrize("order", ["insert first", "retry first"])
@both_ways
def test_a_job_is_retried_while_a_dependent_of_it_is_inserted(
    queue: Queue, another: Another, database: str, order: str, locked: bool
) -> None:
    """Without the locks the dependent is cancelled for a failure that is no more, and nothing revives it."""
    manifest, jobs = queue.graph({"a": [], "z": []})
    fail(queue, "a")
    steps: Steps = {
        "insert first": lambda side: side.add(manifest, "b", ["a"]),
        "retry first": lambda side: side.retry(jobs["a"]),
    }
    if not locked:
        queue.run(FIRST_LOCK_AWAY if order == "insert first" else TAKE_THE_LOCKS_AWAY)
    race_in(order, steps, database, another())
    assert queue.states(manifest) == {"a": "ready", "b": "blocked" if locked else "cancelled", "z": "ready"}
    if not locked:
        throw_away(queue)


@pytest.mark.parametrize("end_first", [True, False], ids=["archive first", "retry first"])
def test_a_failed_job_is_retried_while_it_is_being_archived(
    queue: Queue, another: Another, database: str, end_first: bool
) -> None:
    """The archive takes it, or the retry does, and never both. No companion for the archive being first:
    whoever waits for the manifest or for the deleted row finds nothing to retry. The next test has the
    other's."""
    manifest, jobs = queue.graph({"a": [], "b": ["a"]})
    fail(queue, "a")
    first = another()
    if end_first:
        assert first.value(ARCHIVE) == 2
        assert race(database, first, lambda other: other.retry(jobs["a"])) == (True, [])
        assert queue.states(manifest) == {}
        row = queue.of_manifest(manifest)
        assert (row["status"], row["retry_count"], row["total_jobs"]) == ("failed", 0, 2)
    else:
        first.retry(jobs["a"])
        assert race(database, first, lambda other: other.value(ARCHIVE)) == (False, 0)
        assert queue.states(manifest) == {"a": "ready", "b": "blocked"}
        assert queue.value(ARCHIVE) == 0


def test_without_its_lock_the_archive_would_take_a_job_that_was_retried(
    queue: Queue, another: Another, database: str
) -> None:
    """The companion of the test above: the job is pending, and gone."""
    manifest, jobs = queue.graph({"a": [], "b": ["a"]})
    fail(queue, "a")
    alter(queue, "dreamcut_archive_jobs", ("limit p_limit\n        for update skip locked", "limit p_limit"))
    operator = another()
    operator.retry(jobs["a"])
    assert race(database, operator, lambda other: other.value(ARCHIVE)) == (True, 2)
    assert queue.states(manifest) == {}
    assert queue.of_manifest(manifest)["status"] != "failed"
    throw_away(queue)


@pytest.mark.parametrize("end_first", [True, False], ids=["archive first", "retry first"])
def test_a_job_without_a_manifest_is_retried_while_it_is_being_archived(
    queue: Queue, another: Another, database: str, end_first: bool
) -> None:
    """No companion: with the job's row in the place of the manifest's it is the two tests above."""
    job = queue.add(None, "a")
    fail(queue, "a")
    first = another()
    if end_first:
        assert first.value(ARCHIVE) == 1
        assert race(database, first, lambda other: other.retry(job)) == (True, [])
        assert queue.value("select status from dreamcut_archived_jobs where id = %s", job) == "failed"
    else:
        first.retry(job)
        assert race(database, first, lambda other: other.value(ARCHIVE)) == (False, 0)
        assert queue.job(job)["ready"] is True


# Drop a dependency


@pytest.mark.parametrize("order", ["completion first", "drop first"])
@both_ways
def test_a_dependency_is_dropped_while_it_completes(
    queue: Queue, another: Another, database: str, order: str, locked: bool
) -> None:
    """The wait is taken off once. That needs no lock but the wait's own row, which only one can delete;
    without the manifest's the drop only says that it did what the completion has done."""
    manifest, jobs = queue.graph({"a": [], "b": ["a", "z"], "z": []})
    worker = queue.worker()
    held = queue.claim_one(worker)
    if not locked:
        queue.run(FIRST_LOCK_AWAY)
    first = another()
    if order == "completion first":
        first.complete(worker, held)
        dropped = race(database, first, lambda other: other.value(DROP, jobs["b"], "a"))
        assert dropped == (True, not locked)
    else:
        assert first.value(DROP, jobs["b"], "a") is True
        assert race(database, first, lambda other: other.complete(worker, held)) == (True, [jobs["a"]])
    assert queue.job(jobs["b"])["unmet_dependencies"] == 1
    queue.finish("z")
    assert queue.states(manifest)["b"] == "ready"


@pytest.mark.parametrize("order", ["completion first", "drop first"])
def test_the_last_dependency_is_dropped_while_the_one_before_completes(
    queue: Queue, another: Another, database: str, order: str
) -> None:
    """No companion: as with two completions (test_races.py)."""
    manifest, jobs = queue.graph({"a": [], "b": ["a", "ghost"]})
    worker = queue.worker()
    held = queue.claim_one(worker)
    steps: Steps = {
        "completion first": lambda side: side.complete(worker, held),
        "drop first": lambda side: side.value(DROP, jobs["b"], "ghost"),
    }
    assert race_in(order, steps, database, another())[0]
    assert queue.states(manifest) == {"a": "completed", "b": "ready"}


# Delete


def test_deleting_a_running_job_while_it_completes_ends_without_a_dangling_count(
    queue: Queue, another: Another, database: str
) -> None:
    """No companion: the completion waits for the job's row, and finds it gone."""
    manifest, jobs = queue.graph({"a": [], "b": []})
    worker = queue.worker()
    held = queue.claim_one(worker)
    deleting = another()
    delete(deleting, jobs["a"])
    assert race(database, deleting, lambda other: other.complete(worker, held)) == (True, [])
    assert queue.of_manifest(manifest)["open_jobs"] == 1


@pytest.mark.parametrize("order", ["delete first", "insert first"])
@pytest.mark.parametrize("status", ["pending", "completed"])
def test_a_dependency_is_deleted_while_its_dependent_is_inserted(
    queue: Queue, another: Another, database: str, order: str, status: str
) -> None:
    """Deleted before or after the dependent came: it waits for a missing job, or was freed by what had
    completed. No companion: the counts are subtracted and added in the manifest's own row."""
    manifest, jobs = queue.graph({"a": [], "z": []})
    if status == "completed":
        queue.finish("a")
    steps: Steps = {
        "delete first": lambda side: delete(side, jobs["a"]),
        "insert first": lambda side: side.add(manifest, "b", ["a"]),
    }
    assert race_in(order, steps, database, another())[0]
    freed = status == "completed" and order == "insert first"
    assert queue.states(manifest) == {"b": "ready" if freed else "blocked", "z": "ready"}
    row = queue.of_manifest(manifest)
    assert (row["open_jobs"], row["total_jobs"]) == (2, 2)
    if not freed:
        queue.add(manifest, "a")
        queue.finish("a")
        assert queue.states(manifest)["b"] == "ready"


@pytest.mark.parametrize("order", ["delete first", "insert first"])
def test_a_manifest_is_deleted_while_a_job_of_it_is_inserted(
    queue: Queue, another: Another, database: str, order: str
) -> None:
    """No companion: the foreign key's own lock of the manifest does it."""
    manifest, _ = queue.graph({"a": []})

    def delete_it(side: Queue) -> None:
        side.run("delete from dreamcut_production_manifest where id = %s", manifest)

    first = another()
    if order == "delete first":
        delete_it(first)
        with Blocked(database, lambda producer: producer.add(manifest, "b", ["a"])) as insert:
            first.connection.commit()
            with pytest.raises(psycopg.errors.ForeignKeyViolation):
                insert.result()
    else:
        first.add(manifest, "b", ["a"])
        assert race(database, first, delete_it)[0]
    for table in ("dreamcut_jobs", "dreamcut_job_dependencies", "dreamcut_production_manifest"):
        assert queue.rows(f"select 1 from {table}") == []


def delete(queue: Queue, job: UUID) -> None:
    queue.run("delete from dreamcut_jobs where id = %s", job)
