"""A job that its workers die with: it runs out of attempts, and costs no other job one."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID, uuid4

from tests.support import Queue, names


def stall(queue: Queue, *jobs: UUID, times: int = 1) -> None:
    """Let one worker after the other claim these jobs, and only them, and die."""
    for _ in range(times):
        queue.come_due()
        worker = queue.worker()
        with queue.connection.transaction():
            queue.run("update dreamcut_jobs set priority = priority + 1000 where id = any (%s)", list(jobs))
            assert {held.id for held in queue.claim(worker, len(jobs))} == set(jobs)
            queue.run("update dreamcut_jobs set priority = priority - 1000 where id = any (%s)", list(jobs))
        queue.expire(worker)
        assert {row["id"] for row in queue.rescue()} == set(jobs)


def test_a_job_that_kills_its_workers_runs_out_of_attempts(queue: Queue) -> None:
    manifest, jobs = queue.graph({"a": [], "b": ["a"]})
    counted = []
    for stalls in range(1, 6):
        stall(queue, jobs["a"])
        row = queue.job(jobs["a"])
        assert (row["stalls"], row["suspect"], row["error_class"]) == (stalls, stalls >= 2, "stalled")
        counted.append(row["attempts"])
    assert counted == [0, 0, 1, 2, 3]  # the first two may have been the fault of another job
    assert queue.states(manifest) == {"a": "failed", "b": "cancelled"}
    assert queue.of_manifest(manifest)["status"] == "failed"
    lines = queue.history(jobs["a"])
    assert [line["outcome"] for line in lines] == ["retried"] * 4 + ["failed"]
    assert [line["attempt"] for line in lines] == [1, 1, 1, 2, 3]
    assert {line["error_class"] for line in lines} == {"stalled"}

    queue.retry(jobs["a"])
    row = queue.job(jobs["a"])
    assert (row["status"], row["attempts"], row["stalls"], row["suspect"]) == ("pending", 0, 0, False)


def test_what_is_handed_back_or_fails_in_order_has_not_stalled(queue: Queue) -> None:
    job = queue.add(None)
    worker = queue.worker()
    queue.hand_back(worker, queue.claim_one(worker))
    queue.fail(worker, queue.claim_one(worker), retry_after=0)
    queue.come_due()
    queue.claim_one(worker)
    queue.release(job)
    assert (queue.job(job)["attempts"], queue.job(job)["stalls"]) == (1, 0)


def test_a_worker_gets_one_suspect_at_a_time_beside_any_number_of_others(queue: Queue) -> None:
    stall(queue, *(queue.add(None, f"suspect-{n}", max_attempts=1) for n in range(3)), times=2)
    for n in range(3):
        queue.add(None, f"clean-{n}")
    queue.come_due()
    worker, another = queue.worker(), queue.worker()
    assert names(queue.claim(worker, 2)) == ["suspect-0", "clean-0"]
    assert names(queue.claim(worker, 2, may_take_suspect=False)) == ["clean-1", "clean-2"]
    assert queue.claim(worker, 2, may_take_suspect=False) == []
    assert names(queue.claim(another, 2)) == ["suspect-1"]
    reason = queue.value("select reason from dreamcut_job_states where job_id = 'suspect-2'")
    assert reason == "two workers have died with it; a worker runs one such job at a time"


def test_a_suspect_overtakes_nobody_and_takes_no_slot_of_another_type(queue: Queue) -> None:
    stall(queue, queue.add(None, "suspect", priority=3), times=2)
    queue.come_due()
    for n in range(3):
        queue.add(None, f"urgent-{n}", priority=7)
        queue.add(None, f"other-{n}", type="other")
    worker = queue.worker(["work", "other"])
    assert set(names(queue.claim_types(worker, {"work": 0, "other": 1}))) == {"other-0"}
    assert names(queue.claim(worker, 2)) == ["urgent-0", "urgent-1"]
    assert names(queue.claim(worker, 2)) == ["urgent-2", "suspect"]


def test_a_suspect_waits_while_its_provider_has_no_room(queue: Queue) -> None:
    stall(queue, queue.add(None, "suspect"), times=2)
    queue.come_due()
    queue.run("insert into dreamcut_providers (name, paused_until) values ('fal', now() + interval '1 hour')")
    worker = uuid4()
    queue.run(
        "select dreamcut_register_worker(%s, 'h', 1, '0', '{work}', '{1}', interval '60 s', '{fal}')",
        worker,
    )
    assert queue.claim(worker, 5) == []
    queue.run("update dreamcut_providers set paused_until = null")
    assert names(queue.claim(worker, 5)) == ["suspect"]


def test_two_workers_at_once_get_different_suspects(queue: Queue, another: Callable[[], Queue]) -> None:
    stall(queue, *(queue.add(None, f"suspect-{n}") for n in range(2)), times=2)
    queue.come_due()
    queue.value("select dreamcut_promote_jobs(1000)")
    first = another()
    assert names(first.claim(queue.worker(), 5)) == ["suspect-0"]
    assert names(queue.claim(queue.worker(), 5)) == ["suspect-1"]
    first.connection.commit()


def test_a_suspect_in_the_company_of_others_costs_them_no_attempt(queue: Queue) -> None:
    """Whoever is there when a killer dies, from its first death to its last, ends unharmed."""
    killer = queue.add(None, "killer", max_attempts=3)
    innocents = [queue.add(None, f"innocent-{n}", max_attempts=1) for n in range(6)]
    deaths = 0
    while queue.value("select count(*) from dreamcut_jobs where completed_at is null"):
        queue.come_due()
        worker = queue.worker()
        held = queue.claim(worker, 10)
        if "killer" in names(held):
            deaths += 1
            queue.expire(worker)
            queue.rescue()
        else:
            queue.complete(worker, *held)
    assert deaths == 5
    assert {queue.job(job)["status"] for job in innocents} == {"completed"}
    assert queue.job(killer)["error_class"] == "stalled"
