"""Two transactions at once. No race is left to chance: one waits, as Postgres itself says, for the other."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest

from tests.support import Blocked, Queue

TAKE_THE_LOCKS_AWAY = """
    create or replace function dreamcut_lock_manifests(p_jobs uuid[]) returns void
    language plpgsql set search_path = public, pg_temp as 'begin end';
    create or replace function dreamcut_settle(p_jobs uuid[]) returns void
    language plpgsql set search_path = public, pg_temp as
    'begin perform dreamcut_release_dependents(p_jobs); perform dreamcut_fail_dependents(p_jobs); end';
"""


def test_two_last_dependencies_that_complete_at_once_free_the_dependent_once(
    queue: Queue, another: Callable[[], Queue], database: str
) -> None:
    manifest, jobs = queue.graph({"a": [], "b": [], "c": ["a", "b"]})
    worker = queue.worker()
    a, b = queue.claim(worker, 2)
    first = another()
    first.complete(worker, a)
    with Blocked(database, lambda second: second.complete(worker, b)) as later:
        assert queue.states(manifest)["c"] == "blocked"
        first.connection.commit()
        assert later.result() == [jobs["b"]]
    assert queue.states(manifest)["c"] == "ready"
    assert queue.job(jobs["c"])["unmet_dependencies"] == 0


def test_a_dependency_completes_while_its_dependent_is_being_inserted(
    queue: Queue, another: Callable[[], Queue], database: str
) -> None:
    manifest, jobs = queue.graph({"a": []})
    worker = queue.worker()
    held = queue.claim_one(worker)
    producer = another()
    producer.add(manifest, "b", ["a"])
    with Blocked(database, lambda other: other.complete(worker, held)) as completion:
        producer.connection.commit()
        assert completion.result() == [jobs["a"]]
    assert queue.states(manifest) == {"a": "completed", "b": "ready"}


def test_without_the_locks_that_dependent_waits_for_ever(
    queue: Queue, another: Callable[[], Queue], database: str
) -> None:
    """The companion of the test above: the lock is what makes it pass (and reconciling mends even this)."""
    manifest, _ = queue.graph({"a": []})
    queue.run(TAKE_THE_LOCKS_AWAY)
    worker = queue.worker()
    held = queue.claim_one(worker)
    producer = another()
    producer.add(manifest, "b", ["a"])
    queue.complete(worker, held)
    producer.connection.commit()
    assert queue.states(manifest) == {"a": "completed", "b": "blocked"}
    assert queue.reconcile() == 1
    assert queue.states(manifest) == {"a": "completed", "b": "ready"}
    queue.run("update dreamcut_production_manifest set open_jobs = 1")  # the count is not what this is about


def test_a_dependent_is_inserted_while_its_dependency_completes(
    queue: Queue, another: Callable[[], Queue], database: str
) -> None:
    manifest, _ = queue.graph({"a": [], "z": []})
    worker = queue.worker()
    held = queue.claim_one(worker)
    worker_side = another()
    worker_side.complete(worker, held)
    with Blocked(database, lambda producer: producer.add(manifest, "b", ["a"])) as insert:
        worker_side.connection.commit()
        insert.result()
    assert queue.states(manifest)["b"] == "ready"


def test_without_the_locks_the_inserted_dependent_waits_for_ever(
    queue: Queue, another: Callable[[], Queue]
) -> None:
    """The companion of the test above: the dependency's end is not committed, so the insert cannot see it."""
    manifest, _ = queue.graph({"a": [], "z": []})
    queue.run(TAKE_THE_LOCKS_AWAY)
    worker = queue.worker()
    held = queue.claim_one(worker)
    worker_side = another()
    worker_side.complete(worker, held)
    queue.add(manifest, "b", ["a"])
    worker_side.connection.commit()
    assert queue.states(manifest)["b"] == "blocked"
    assert queue.reconcile() == 1
    queue.run("update dreamcut_production_manifest set open_jobs = 2")


@pytest.mark.parametrize("order", ["dependency first", "dependent first"])
def test_both_are_inserted_in_two_open_transactions(
    queue: Queue, another: Callable[[], Queue], database: str, order: str
) -> None:
    manifest = queue.manifest()
    one: tuple[str, list[str]] = ("a", [])
    two: tuple[str, list[str]] = ("b", ["a"])
    if order == "dependent first":
        one, two = two, one
    first = another()
    first.add(manifest, *one)
    with Blocked(database, lambda second: second.add(manifest, *two)) as insert:
        first.connection.commit()
        insert.result()
    assert queue.states(manifest) == {"a": "ready", "b": "blocked"}
    queue.finish("a")
    assert queue.states(manifest)["b"] == "ready"


def test_a_failure_and_a_completion_at_once(
    queue: Queue, another: Callable[[], Queue], database: str
) -> None:
    manifest, _ = queue.graph({"a": [], "b": [], "c": ["a", "b"], "d": ["c"]})
    worker = queue.worker()
    a, b = queue.claim(worker, 2)
    first = another()
    first.fail(worker, a, error_class="invalid_request")
    with Blocked(database, lambda second: second.complete(worker, b)) as later:
        first.connection.commit()
        later.result()
    assert queue.states(manifest) == {"a": "failed", "b": "completed", "c": "cancelled", "d": "cancelled"}
    assert queue.of_manifest(manifest)["status"] == "failed"


def test_a_cancel_and_a_completion_of_the_same_job_at_once(
    queue: Queue, another: Callable[[], Queue], database: str
) -> None:
    _, jobs = queue.graph({"a": [], "b": ["a"]})
    worker = queue.worker()
    held = queue.claim_one(worker)
    operator = another()
    operator.cancel(jobs["a"])
    with Blocked(database, lambda other: other.complete(worker, held)) as completion:
        operator.connection.commit()
        assert completion.result() == []
    assert queue.job(jobs["a"])["status"] == "cancelled" and queue.job(jobs["a"])["result"] is None


def test_a_retry_and_a_completion_at_once(queue: Queue, another: Callable[[], Queue], database: str) -> None:
    manifest, jobs = queue.graph({"a": [], "b": [], "c": ["a", "b"]})
    worker = queue.worker()
    a, b = queue.claim(worker, 2)
    queue.fail(worker, a, error_class="invalid_request")
    operator = another()
    operator.retry(jobs["a"])
    with Blocked(database, lambda other: other.complete(worker, b)) as completion:
        operator.connection.commit()
        completion.result()
    assert queue.states(manifest) == {"a": "ready", "b": "completed", "c": "blocked"}
    queue.finish("a")
    assert queue.states(manifest)["c"] == "ready"


@pytest.mark.parametrize("order", ["low first", "high first"])
def test_who_waits_for_one_manifest_holds_none_that_comes_later(
    queue: Queue, another: Callable[[], Queue], database: str, order: str
) -> None:
    """Manifests are locked in the order of their ids: so no two batches can wait for each other."""
    low, high = sorted(queue.graph({"a": []})[0] for _ in range(2))
    worker = queue.worker()
    held = sorted(queue.claim(worker, 2), key=lambda job: queue.job(job.id)["manifest_id"])
    if order == "high first":
        held.reverse()
    holder = another()
    holder.run("select from dreamcut_production_manifest where id = %s for update", low)
    with Blocked(database, lambda other: other.complete(worker, *held)) as batch:
        probe = "select from dreamcut_production_manifest where id = %s for update skip locked"
        assert len(queue.rows(probe, high)) == 1
        holder.connection.rollback()
        assert len(batch.result()) == 2


def test_the_last_two_jobs_of_a_manifest_end_at_once_and_it_ends_once(
    queue: Queue, another: Callable[[], Queue], database: str
) -> None:
    manifest, _ = queue.graph({"a": [], "b": []})
    worker = queue.worker()
    a, b = queue.claim(worker, 2)
    first = another()
    first.complete(worker, a)
    with Blocked(database, lambda other: other.complete(worker, b)) as second:
        first.connection.commit()
        second.result()
    assert queue.of_manifest(manifest)["status"] == "done"


def test_a_rolled_back_completion_frees_nobody(queue: Queue, another: Callable[[], Queue]) -> None:
    manifest, _ = queue.graph({"a": [], "b": ["a"]})
    worker = queue.worker()
    held = queue.claim_one(worker)
    other = another()
    other.complete(worker, held)
    other.connection.rollback()
    assert queue.states(manifest) == {"a": "processing", "b": "blocked"}
    queue.complete(worker, held)
    assert queue.states(manifest) == {"a": "completed", "b": "ready"}


def test_deleting_a_running_job_while_it_completes_ends_without_a_dangling_count(
    queue: Queue, another: Callable[[], Queue], database: str
) -> None:
    manifest, jobs = queue.graph({"a": [], "b": []})
    worker = queue.worker()
    held = queue.claim_one(worker)
    deleting = another()
    deleting.run("delete from dreamcut_jobs where id = %s", jobs["a"])
    with Blocked(database, lambda other: other.complete(worker, held)) as completion:
        deleting.connection.commit()
        assert completion.result() == []
    assert queue.of_manifest(manifest)["open_jobs"] == 1


def test_an_error_in_the_producers_transaction_leaves_nothing(
    queue: Queue, another: Callable[[], Queue]
) -> None:
    manifest, _ = queue.graph({"a": []})
    producer = another()
    producer.add(manifest, "b", ["a"])
    with pytest.raises(psycopg.errors.UniqueViolation):
        producer.add(manifest, "a")
    producer.connection.rollback()
    assert queue.of_manifest(manifest)["open_jobs"] == 1
    assert queue.value("select count(*) from dreamcut_job_dependencies") == 0
