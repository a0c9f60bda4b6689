"""Postgres goes away and comes back, workers are stopped and go on: nothing is lost, or said twice."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.types.json import Jsonb

from dreamcuts.sandbox import Sandbox
from tests.chaos.machine import CrashingPostgres, StartWorker
from tests.chaos.plan import RETRIES, STATUS
from tests.support import Queue, wait_until

STEPS = "chaos_step:8"
IMAGES = "gen_image_falai:2"
AWAY = "The database does not answer"
BACK = "The database is back"
SUSPENDED = "No heartbeat for"
LEASE_S = 1.5
"""For outages that are longer; where none is, "60" keeps a machine that stalls from making one."""
STEP_MS = 3000
"""Long enough that all of them are seen to run at once."""
Reconnect = Callable[[], Queue]


@pytest.fixture
def database(crashing_postgres: CrashingPostgres) -> str:
    return crashing_postgres.dsn("dreamcuts")


@pytest.fixture
def again(database: str) -> Iterator[Reconnect]:
    """Gives the queue on a new connection: the one before may have been cut."""
    with ExitStack() as stack:
        yield lambda: Queue(stack.enter_context(closing(psycopg.connect(database, autocommit=True))))


def step(queue: Queue, name: str, ms: float) -> UUID:
    return queue.add(None, name, type="chaos_step", payload=Jsonb({"ms": ms}), retry_policy=Jsonb(RETRIES))


def image(queue: Queue) -> UUID:
    payload = {"prompt": "a comet", "imageSize": {"width": 64, "height": 64}, "fallbackProviders": []}
    return queue.add(
        queue.manifest(), type="gen_image_falai", payload=Jsonb(payload), retry_policy=Jsonb(RETRIES)
    )


def is_running(queue: Queue, *jobs: UUID) -> bool:
    return all(queue.job(job)["status"] == "processing" for job in jobs)


def test_outcomes_are_held_while_postgres_is_away_for_less_than_a_lease(
    crashing_postgres: CrashingPostgres, start_worker: StartWorker, again: Reconnect
) -> None:
    queue = again()
    worker = start_worker(STEPS, LEASE_S="30")
    jobs = [step(queue, f"step-{n}", STEP_MS) for n in range(4)]
    wait_until(lambda: is_running(queue, *jobs), "the jobs to run")
    crashing_postgres.crash()
    time.sleep(STEP_MS / 1000 + 0.5)  # the jobs end meanwhile; this is the outage itself
    crashing_postgres.come_back()
    queue = again()
    wait_until(lambda: all(queue.job(job)["completed_at"] for job in jobs), "the outcomes")
    for job in jobs:
        row = queue.job(job)
        assert (row["status"], row["claims"], row["result"]["pid"]) == ("completed", 1, worker.pid)
        assert queue.history(job) == []
    worker.wait_for(BACK)
    assert worker.stop() == 0
    said = worker.text()
    assert outages(said) in (1, 2, 3) and SUSPENDED not in said
    assert len(said.splitlines()) < 25, said


def test_after_an_outage_longer_than_the_lease_nobody_takes_what_others_have_finished(
    crashing_postgres: CrashingPostgres, start_worker: StartWorker, again: Reconnect
) -> None:
    """Every lease has run out when Postgres is back. Who is first must not rescue the jobs of the others."""
    queue = again()
    lease_s = 8.0
    workers = [start_worker("chaos_step:3", LEASE_S=str(lease_s)) for _ in range(2)]
    for worker in workers:
        worker.wait_for("serves")
    jobs = [step(queue, f"step-{n}", STEP_MS) for n in range(6)]
    wait_until(lambda: is_running(queue, *jobs), "the jobs to run")
    assert len({queue.job(job)["worker_id"] for job in jobs}) == 2
    crashing_postgres.crash()
    for worker in workers:
        worker.wait_for(SUSPENDED)  # the steps ended before; their outcomes are held
    first, second = workers
    second.send(signal.SIGSTOP)  # it comes back a little later than the first
    crashing_postgres.come_back()
    first.wait_for(BACK)
    time.sleep(1.0)  # well within the lease that the first gives the others
    second.send(signal.SIGCONT)
    queue = again()
    wait_until(lambda: all(queue.job(job)["completed_at"] for job in jobs), "the outcomes")
    assert {queue.job(job)["claims"] for job in jobs} == {1}
    for worker in workers:
        assert worker.stop() == 0
        said = worker.text()
        assert outages(said) in (1, 2, 3) and said.count(SUSPENDED) == 1
        assert "Rescued" not in said
        assert "Traceback" not in said


@pytest.mark.parametrize("how", ["refuses", "hangs"])
def test_a_worker_without_its_lease_calls_no_provider(
    crashing_postgres: CrashingPostgres,
    start_worker: StartWorker,
    again: Reconnect,
    sandbox: Sandbox,
    how: str,
) -> None:
    """Whether Postgres is gone or answers nothing: after a lease the polling of fal stops."""
    queue = again()
    sandbox.options.fal_queue_seconds = 60.0
    worker = start_worker(IMAGES)
    job = image(queue)
    wait_until(lambda: len(polls(sandbox)) >= 3, "the worker to poll")
    gone = time.time()
    crashing_postgres.crash() if how == "refuses" else crashing_postgres.freeze(True)
    try:
        worker.wait_for(SUSPENDED)
        time.sleep(0.5)  # what was under way arrives
        seen = len(polls(sandbox))
        assert polls(sandbox)[-1] < gone + LEASE_S + 10.0
        time.sleep(1.0)  # twenty polls of a worker that would go on
        assert len(polls(sandbox)) == seen
    finally:
        crashing_postgres.come_back() if how == "refuses" else crashing_postgres.freeze(False)
    sandbox.options.fal_queue_seconds = 0.05
    queue = again()
    wait_until(lambda: len(polls(sandbox)) > seen, "the request to be picked up")
    assert "Picking up request" in worker.text()
    queue.cancel(job)
    wait_until(lambda: not queue.rows("select 1 from dreamcut_provider_calls where finished_at is null"))
    assert len(sandbox.requests.entries("fal", "POST")) == 1
    assert outages(worker.text()) >= 1


def outages(text: str) -> int:
    """How many outages a worker's log tells of, each with its end.

    Its sessions may find out one after the other that they are dead, each of them once.
    """
    lines = re.findall(f"{AWAY}|{BACK}", text)
    assert lines == [AWAY, BACK] * (len(lines) // 2)
    return len(lines) // 2


def polls(sandbox: Sandbox) -> list[float]:
    asked = sandbox.requests.entries("fal", "GET")
    return [entry.at for entry in asked if re.search(STATUS, f"GET {entry.path}")]


def test_a_worker_that_was_stopped_for_longer_than_its_lease_overwrites_nothing(
    start_worker: StartWorker, again: Reconnect
) -> None:
    queue = again()
    ghost = start_worker(STEPS, LEASE_S="60")
    ghost.wait_for("serves")
    job = step(queue, "contested", STEP_MS)
    wait_until(lambda: is_running(queue, job), "the job to run")
    ghost.send(signal.SIGSTOP)
    queue.expire(queue.job(job)["worker_id"])
    heir = start_worker(STEPS, LEASE_S="60")
    wait_until(lambda: queue.job(job)["completed_at"], "the heir to finish")
    before = queue.job(job)
    assert before["result"]["pid"] == heir.pid
    ghost.send(signal.SIGCONT)
    ghost.wait_for("lost its lease")
    other = step(queue, "later", 1)
    wait_until(lambda: queue.job(other)["completed_at"], "a job after it")
    assert queue.job(job) == before
    assert [row["error_class"] for row in queue.history(job)] == ["stalled"]
    wait_until(lambda: ghost.text().count("serves") == 2, "the ghost to come back as a new incarnation")
    assert (ghost.stop(), heir.stop()) == (0, 0)
    assert not re.search(r"Job contested completed", ghost.text())


def test_a_claim_whose_answer_was_lost_is_handed_back(
    start_worker: StartWorker, again: Reconnect, database: str
) -> None:
    """Committed, but the connection broke before the worker heard of it: nobody would ever run the job."""
    queue = again()
    worker = start_worker(STEPS, LEASE_S="60")
    worker.wait_for("serves")
    (incarnation,) = queue.rows("select id from dreamcut_workers")
    with psycopg.connect(database) as holder:
        # The worker's next claim waits for this lock, and is cut off while it does.
        holder.execute("select 1 from dreamcut_workers where id = %s for update", [incarnation["id"]])
        find = (
            "select pid from pg_stat_activity where wait_event_type = 'Lock' and query like '%%claim_jobs%%'"
            " and application_name = 'dreamcuts'"
        )

        def claiming() -> list[dict[str, Any]]:
            queue.run("select pg_notify('dreamcut_jobs', 'chaos_step')")  # a reason to claim
            return queue.rows(find)

        waiting = wait_until(claiming, "a claim that waits")
        job = step(queue, "unheard", 1)
        holder.execute("select * from dreamcut_claim_jobs(%s, '{chaos_step}', '{1}')", [incarnation["id"]])
        queue.rows("select pg_terminate_backend(%s, 5000)", waiting[0]["pid"])
        holder.commit()
    wait_until(lambda: queue.job(job)["completed_at"], "the job")
    row = queue.job(job)
    assert (row["status"], row["claims"], row["attempts"]) == ("completed", 2, 1)
    assert [entry["outcome"] for entry in queue.history(job)] == ["released"]
    assert "Handed back 1 jobs whose claim was not answered" in worker.text()


def test_a_worker_that_leaves_hands_back_what_it_never_heard_of(again: Reconnect) -> None:
    queue = again()
    worker = queue.worker(["chaos_step"])
    job = step(queue, "unheard", 1)
    queue.claim_one(worker, "chaos_step")
    queue.run("select dreamcut_leave_worker(%s, true)", worker)
    row = queue.job(job)
    assert (row["status"], row["attempts"]) == ("pending", 0)


def test_a_worker_with_a_wrong_clock_does_nothing_too_early(
    start_worker: StartWorker, again: Reconnect
) -> None:
    """All times are Postgres' own: a clock that is a day off changes neither delays nor leases."""
    queue = again()
    delayed = step(queue, "delayed", 1)
    queue.run("update dreamcut_jobs set next_retry_at = now() + interval '1 hour' where id = %s", delayed)
    fast = start_worker(STEPS, CHAOS_CLOCK_OFFSET_S="86400", LEASE_S="60")
    slow = start_worker(STEPS, CHAOS_CLOCK_OFFSET_S="-86400", LEASE_S="60")
    jobs = [step(queue, f"step-{n}", 50) for n in range(20)]
    wait_until(lambda: all(queue.job(job)["completed_at"] for job in jobs), "the jobs")
    for worker in (fast, slow):
        worker.wait_for("serves")
    held = "select min(lease_expires_at - now()) from dreamcut_workers where state = 'live'"
    assert 0 < queue.value(held).total_seconds() <= 60
    assert queue.job(delayed)["status"] == "pending"
    years = {line[1:11] for line in fast.text().splitlines() + slow.text().splitlines() if line[:2] == "[2"}
    assert len(years) == 2, "the clocks were not off"
    assert (fast.stop(), slow.stop()) == (0, 0)
    assert "Rescued" not in fast.text() + slow.text()


def test_sigterm_under_load_uses_up_no_attempt(
    start_worker: StartWorker, again: Reconnect, sandbox: Sandbox
) -> None:
    """A deploy: what cannot finish is handed back, and the next worker picks its open request up."""
    queue = again()
    sandbox.options.fal_queue_seconds = 10.0
    old = start_worker("chaos_step:3,gen_image_falai:2", CHAOS_SHUTDOWN_S="0.2", LEASE_S="60")
    jobs = [step(queue, f"step-{n}", 30_000) for n in range(3)] + [image(queue)]
    wait_until(lambda: is_running(queue, *jobs), "the jobs to run")
    wait_until(lambda: polls(sandbox), "the request to be submitted")
    began = time.monotonic()
    assert old.stop() == 0
    assert time.monotonic() - began < 15
    for job in jobs:
        assert (queue.job(job)["status"], queue.job(job)["attempts"]) == ("pending", 0)
    queue.run("update dreamcut_jobs set payload = '{\"ms\": 1}' where type = 'chaos_step'")
    start_worker("chaos_step:3,gen_image_falai:2")
    wait_until(lambda: all(queue.job(job)["completed_at"] for job in jobs), "the next worker")
    assert {queue.job(job)["attempts"] for job in jobs} == {1}
    assert len(sandbox.bills()) == 1
