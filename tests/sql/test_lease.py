"""The lease of a worker: how it is taken, kept, lost and given up."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from tests.support import Queue, ids, ids_of


def test_registering_twice_is_registering_once(queue: Queue) -> None:
    """The answer to the first try was lost, and the worker asks again."""
    worker = queue.worker()
    queue.expire(worker)
    register(queue, worker)
    row = queue.row("select *, lease_expires_at > now() as holds from dreamcut_workers")
    assert (row["id"], row["state"], row["holds"]) == (worker, "live", True)


@pytest.mark.parametrize("state", ["lost", "stopped"])
def test_registering_does_not_revive_an_incarnation_that_ended(queue: Queue, state: str) -> None:
    worker = queue.worker()
    queue.run("update dreamcut_workers set state = %s where id = %s", state, worker)
    before = queue.row("select * from dreamcut_workers")
    register(queue, worker)
    assert queue.row("select * from dreamcut_workers") == before
    assert queue.heartbeat(worker)["alive"] is False


def test_a_heartbeat_extends_the_lease_and_says_what_was_taken(queue: Queue) -> None:
    jobs = [queue.add(None, name) for name in "abc"]
    worker = queue.worker(lease_s=5)
    held = queue.claim(worker, 3)
    queue.cancel(jobs[0])
    queue.release(jobs[1])
    beat = queue.heartbeat(worker, *held)
    assert beat == {
        "alive": True, "taken": beat["taken"], "cancelled": [jobs[0]], "rescue_due": False,
    }  # fmt: skip
    assert sorted(beat["taken"]) == sorted(jobs[:2])
    row = queue.row("select *, lease_expires_at - now() as left from dreamcut_workers where id = %s", worker)
    assert timedelta(seconds=50) < row["left"] <= timedelta(seconds=60) and row["active_jobs"] == 3


def test_a_job_that_we_hold_again_under_another_claim_counts_as_taken(queue: Queue) -> None:
    job = queue.add(None)
    worker = queue.worker()
    first = queue.claim_one(worker)
    queue.release(job)
    second = queue.claim_one(worker)
    assert queue.heartbeat(worker, first)["taken"] == [job]
    assert queue.heartbeat(worker, second)["taken"] == []


def test_a_deleted_job_counts_as_taken(queue: Queue) -> None:
    job = queue.add(None)
    worker = queue.worker()
    held = queue.claim_one(worker)
    queue.run("delete from dreamcut_jobs where id = %s", job)
    assert queue.heartbeat(worker, held)["taken"] == [job]


def test_a_lease_that_ran_out_but_that_nobody_acted_on_is_extended(queue: Queue) -> None:
    queue.add(None)
    worker = queue.worker()
    held = queue.claim_one(worker)
    queue.expire(worker)
    beat = queue.heartbeat(worker, held)
    assert beat["alive"] is True and beat["rescue_due"] is False
    assert queue.rescue() == []
    assert ids([held]) == queue.complete(worker, held)


def test_a_lost_worker_is_told_so_and_so_is_a_stranger(queue: Queue) -> None:
    queue.add(None)
    worker = queue.worker()
    held = queue.claim_one(worker)
    queue.expire(worker)
    queue.rescue()
    beat = queue.heartbeat(worker, held)
    assert beat["alive"] is False and beat["taken"] == [held.id]
    assert queue.heartbeat(uuid4())["alive"] is False
    assert queue.value("select state from dreamcut_workers where id = %s", worker) == "lost"


def test_leaving_empty_ends_the_incarnation_and_leaving_with_jobs_gives_them_up_at_once(
    queue: Queue,
) -> None:
    job = queue.add(None)
    empty, full = queue.worker(), queue.worker()
    queue.claim_one(full)
    queue.value("select dreamcut_leave_worker(%s, true)", empty)
    queue.value("select dreamcut_leave_worker(%s, false)", full)
    assert ids_of(queue.rescue()) == [job]
    states = {row["id"]: row["state"] for row in queue.rows("select id, state from dreamcut_workers")}
    assert states == {empty: "stopped", full: "lost"}


def test_incarnations_of_yesterday_are_forgotten(queue: Queue) -> None:
    old, live = queue.worker(), queue.worker()
    queue.run("update dreamcut_workers set state = 'lost' where id = %s", old)
    queue.run("update dreamcut_workers set heartbeat_at = now() - interval '2 days'")
    new = queue.worker()
    assert {row["id"] for row in queue.rows("select id from dreamcut_workers")} == {live, new}


def register(queue: Queue, worker: UUID) -> None:
    queue.run(
        "select dreamcut_register_worker(%s, 'host', 1, '0', array['work'], array[1], interval '60 s')",
        worker,
    )
