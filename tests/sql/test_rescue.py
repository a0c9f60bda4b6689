"""What becomes of the jobs of a worker that is lost, and of those that nobody runs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from tests.sql.interleaving import Meanwhile
from tests.support import LEASE_LOST, Blocked, Queue, ids_of


def without_waiting(database: str, call: Callable[[Queue], Any]) -> Any:
    """What the call returns, that waits for nobody who has a transaction open."""
    with Meanwhile(database, call) as statement:
        assert not statement.waited
        return statement.result()


def test_the_jobs_of_a_worker_whose_lease_ran_out_go_back(queue: Queue) -> None:
    manifest, jobs = queue.graph({"a": [], "b": ["a"]})
    worker, rescuer = queue.worker(), queue.worker()
    queue.claim_one(worker)
    assert queue.rescue() == []
    queue.expire(worker)
    assert queue.heartbeat(rescuer)["rescue_due"] is True
    assert queue.rescue() == [{"id": jobs["a"], "status": "pending", "worker_id": worker}]
    row = queue.job(jobs["a"])
    assert (row["status"], row["attempts"], row["error_class"], row["worker_id"]) == (
        "pending", 0, "stalled", None,
    )  # fmt: skip
    assert row["next_retry_at"] - queue.value("select now()") <= timedelta(seconds=5)
    (line,) = queue.history(jobs["a"])
    assert (line["outcome"], line["error_class"], line["worker_id"]) == ("retried", "stalled", worker)
    assert queue.heartbeat(rescuer)["rescue_due"] is False
    queue.come_due()
    queue.finish("a")
    assert queue.states(manifest)["b"] == "ready"


def test_several_lost_workers_and_manifests_in_one_rescue(queue: Queue) -> None:
    jobs = [queue.graph({"a": []})[1]["a"] for _ in range(4)] + [queue.add(None)]
    workers = [queue.worker() for _ in range(5)]
    for worker in workers:
        queue.claim_one(worker)
    for worker in workers[:4]:
        queue.expire(worker)
    assert len(queue.rescue()) == 4
    assert sum(queue.job(job)["status"] == "processing" for job in jobs) == 1


def test_one_job_that_cannot_be_backed_off_does_not_stop_the_rescue_of_the_others(queue: Queue) -> None:
    queue.add(None, retry_policy=psycopg.types.json.Jsonb({"backoffSeconds": 10**400}))
    queue.add(None)
    worker = queue.worker()
    queue.claim(worker, 2)
    queue.expire(worker)
    assert len(queue.rescue()) == 2


def test_a_claim_under_way_keeps_its_worker_from_being_rescued(
    queue: Queue, another: Callable[[], Queue]
) -> None:
    job = queue.add(None)
    worker = queue.worker()
    claiming = another()
    claiming.claim_one(worker)
    queue.expire(worker)
    queue.run("set lock_timeout = '5s'")
    assert queue.rescue() == []
    assert queue.value("select state from dreamcut_workers where id = %s", worker) == "live"
    claiming.connection.commit()
    assert ids_of(queue.rescue()) == [job]  # the job that the claim took is found, and not left behind


def test_without_that_lock_the_claimed_job_would_belong_to_a_lost_worker(
    queue: Queue, another: Callable[[], Queue]
) -> None:
    """The companion of the test above: the lock on the worker's row is what makes it pass."""
    source = queue.value("select pg_get_functiondef('dreamcut_claim_jobs'::regproc)")
    assert "for key share of worker;" in source
    queue.run(source.replace("for key share of worker;", ";").replace("%", "%%"))
    job = queue.add(None)
    worker = queue.worker()
    claiming = another()
    claiming.claim_one(worker)
    queue.expire(worker)
    queue.rescue()
    claiming.connection.commit()
    assert queue.rescue() == []
    assert queue.job(job)["status"] == "processing"  # for ever: nobody looks for it again


def test_a_claim_waits_for_a_rescue_of_its_worker_and_is_refused(
    queue: Queue, another: Callable[[], Queue], database: str
) -> None:
    job = queue.add(None)
    worker = queue.worker()
    queue.expire(worker)
    rescuing = another()
    rescuing.rescue()
    with Blocked(database, lambda other: other.claim(worker)) as claim:
        rescuing.connection.commit()
        with pytest.raises(psycopg.Error) as raised:
            claim.result()
    assert raised.value.sqlstate == LEASE_LOST
    assert queue.job(job)["status"] == "pending"


def test_two_rescuers_at_once_do_it_once(queue: Queue, another: Callable[[], Queue]) -> None:
    job = queue.add(None)
    worker = queue.worker()
    queue.claim_one(worker)
    queue.expire(worker)
    first = another()
    assert ids_of(first.rescue()) == [job]
    queue.run("set lock_timeout = '5s'")
    assert queue.rescue() == []
    first.connection.commit()
    assert queue.rescue() == []
    assert len(queue.history(job)) == 1


def test_a_rescue_does_not_wait_for_an_outcome_being_written_and_leaves_it(
    queue: Queue, another: Callable[[], Queue], database: str
) -> None:
    manifest, jobs = queue.graph({"a": []})
    jobs["alone"] = queue.add(None, "alone")
    worker = queue.worker()
    held = queue.claim(worker, 2)
    queue.expire(worker)
    finishing = another()
    finishing.complete(worker, *held)
    assert without_waiting(database, Queue.rescue) == []
    assert queue.value("select state from dreamcut_workers where id = %s", worker) == "live"
    finishing.connection.commit()
    assert queue.rescue() == []
    assert {queue.job(job)["status"] for job in jobs.values()} == {"completed"}
    assert queue.of_manifest(manifest)["status"] == "done"
    assert queue.value("select state from dreamcut_workers where id = %s", worker) == "lost"


@pytest.mark.parametrize("what", ["dreamcut_production_manifest", "dreamcut_jobs"])
def test_what_somebody_has_locked_is_left_to_the_next_rescue(
    queue: Queue, another: Callable[[], Queue], database: str, what: str
) -> None:
    """A producer's open transaction on one manifest, an operator's on one job: all others are rescued."""
    (locked, blocked), (_, free) = queue.graph({"a": []}), queue.graph({"a": []})
    alone = queue.add(None)
    worker, rescuer = queue.worker(), queue.worker()
    queue.claim(worker, 3)
    queue.expire(worker)
    holder = another()
    row = locked if what == "dreamcut_production_manifest" else blocked["a"]
    holder.run(f"select from {what} where id = %s for update", row)
    assert set(ids_of(without_waiting(database, Queue.rescue))) == {free["a"], alone}
    assert queue.job(blocked["a"])["status"] == "processing"
    assert queue.value("select state from dreamcut_workers where id = %s", worker) == "live"
    assert queue.heartbeat(rescuer)["rescue_due"] is True
    holder.connection.rollback()
    assert ids_of(queue.rescue()) == [blocked["a"]]
    assert queue.value("select state from dreamcut_workers where id = %s", worker) == "lost"
    assert queue.heartbeat(rescuer)["rescue_due"] is False
    assert queue.rescue() == []


def test_a_locked_dependent_holds_up_its_own_manifest_alone(
    queue: Queue, another: Callable[[], Queue]
) -> None:
    """A job that fails for good cancels its dependents; somebody has one locked: the others are rescued."""
    queue.run("alter function dreamcut_fail_jobs set lock_timeout = '100ms'")
    (_, stuck), (_, free) = (queue.graph({"a": [], "b": ["a"]}, max_attempts=1) for _ in range(2))
    alone = queue.add(None)
    workers = [queue.worker() for _ in range(2)]
    queue.claim(workers[0], 3)
    (_, other) = queue.graph({"a": [], "b": ["a"]}, max_attempts=1)
    queue.claim(workers[1], 1)
    for worker in workers:
        queue.expire(worker)
    queue.run(
        "update dreamcut_jobs set stalls = 2 where status = 'processing'"
    )  # so that their attempts count
    holder = another()
    holder.run("select from dreamcut_jobs where id = %s for update", stuck["b"])
    assert set(ids_of(queue.rescue())) == {free["a"], alone, other["a"]}
    assert queue.job(stuck["a"])["status"] == "processing"
    assert [queue.job(graph["b"])["status"] for graph in (stuck, free, other)] == [
        "pending",
        "cancelled",
        "cancelled",
    ]
    assert [
        queue.value("select state from dreamcut_workers where id = %s", worker) for worker in workers
    ] == [
        "live",
        "lost",
    ]
    holder.connection.rollback()
    assert ids_of(queue.rescue()) == [stuck["a"]]
    assert (queue.job(stuck["a"])["status"], queue.job(stuck["b"])["status"]) == ("failed", "cancelled")


def test_reconcile_leaves_what_belongs_to_a_locked_manifest_to_the_next_time(
    queue: Queue, another: Callable[[], Queue], database: str
) -> None:
    graphs = [queue.graph({"a": [], "b": ["a"]}) for _ in range(2)]
    # By hand, past the functions: nobody told the dependents.
    queue.run("update dreamcut_jobs set status = 'completed', completed_at = now() where job_id = 'a'")
    queue.run("update dreamcut_production_manifest set open_jobs = 1")
    holder = another()
    (locked, _), (free, _) = graphs
    holder.run("select from dreamcut_production_manifest where id = %s for no key update", locked)
    assert without_waiting(database, Queue.reconcile) == 1
    assert (queue.states(free)["b"], queue.states(locked)["b"]) == ("ready", "blocked")
    holder.connection.rollback()
    assert queue.reconcile() == 1
    assert queue.states(locked)["b"] == "ready"


@pytest.mark.parametrize("holder", ["stopped", "lost", "gone", "unaware", "claimed just now", "holds it"])
def test_what_is_processing_although_nobody_runs_it_goes_back_unharmed(queue: Queue, holder: str) -> None:
    job = queue.add(None, "a", max_attempts=1)
    worker = queue.worker()
    held = queue.claim_one(worker)
    if holder in ("stopped", "lost"):
        queue.run("update dreamcut_workers set state = %s where id = %s", holder, worker)
    elif holder == "gone":
        queue.run("delete from dreamcut_workers where id = %s", worker)
    else:
        queue.heartbeat(worker, *([held] if holder == "holds it" else []))
        age = "1 minute 50 seconds" if holder == "claimed just now" else "2 minutes 10 seconds"
        queue.run("update dreamcut_jobs set started_at = now() - %s::interval where id = %s", age, job)
    is_stray = holder not in ("claimed just now", "holds it")
    assert queue.value("select dreamcut_return_strays()") == int(is_stray)
    row = queue.job(job)
    assert (row["status"], row["attempts"], row["ready"]) == (
        ("pending", 0, True) if is_stray else ("processing", 1, False)
    )
    assert [line["outcome"] for line in queue.history(job)] == ["released"] * is_stray
    # Whoever believed to hold it is fenced, and it can be run and end.
    assert queue.complete(worker, held) == ([] if is_stray else [job])
    if is_stray:
        queue.finish("a")


def test_strays_of_several_workers_go_back_at_once_and_what_is_held_or_locked_stays(
    queue: Queue, another: Callable[[], Queue], database: str
) -> None:
    for _ in range(6):
        queue.add(None)
    gone, live = queue.worker(), queue.worker()
    locked, *_ = queue.claim(gone, 3)
    _, known, fresh = queue.claim(live, 3)
    queue.run("delete from dreamcut_workers where id = %s", gone)
    queue.heartbeat(live, known)
    queue.run("update dreamcut_jobs set started_at = now() - interval '3 minutes' where id <> %s", fresh.id)
    holder = another()
    holder.run("select from dreamcut_jobs where id = %s for update", locked.id)
    assert without_waiting(database, lambda side: side.value("select dreamcut_return_strays()")) == 3
    left = queue.rows("select id from dreamcut_jobs where status = 'processing'")
    assert set(ids_of(left)) == {locked.id, known.id, fresh.id}
    holder.connection.rollback()
    assert queue.value("select dreamcut_return_strays()") == 1
