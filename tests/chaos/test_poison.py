"""One poisoned job cannot hurt others: every kind at once in one worker, and an innocent job among them."""

from __future__ import annotations

import json
import re
import signal
from typing import Any
from uuid import UUID

import psycopg
import pytest
from click.testing import CliRunner
from psycopg.types.json import Jsonb

from dreamcuts.cli import cli
from tests.chaos.jobtypes import POISON, STEP
from tests.chaos.machine import StartWorker, WorkerProcess
from tests.chaos.plan import RETRIES
from tests.support import Queue, wait_until

SCRIPTS = (
    "한국어 العربية हिन्दी 中文 עברית ไทย Ελληνικά 🎬👩🏽‍🚀 \u202eRTL\u202c e\u0301 \u200b\ufeff\x01\x1f\x7f"
)

MISBEHAVIOURS = {
    # how: the class of its end, and a part of the message
    "base_exception": ("bug", "Unexpected Rude: not even an Exception"),
    "system_exit": ("bug", "Unexpected SystemExit: 3"),
    "keyboard_interrupt": ("bug", "Unexpected KeyboardInterrupt"),
    "cancelled": ("bug", "Unexpected CancelledError"),
    "never_returns": ("timed_out", "longer than 0:00:01"),
    "recursion": ("bug", "RecursionError"),
    "not_json": ("bug", "The result is not JSON: TypeError"),
    "not_a_number": ("bug", "The result is not JSON: ValueError"),
    "no_result": ("bug", "returned dict, not Result"),
    "nul_error": ("transient", "an error with � and ? in it"),
    "too_large": ("invalid_request", "The result is too large: 20,000,011 characters of JSON"),
    "endless_error": ("transient", "eeeeeeee"),
    "nested": ("bug", "The result is not JSON: RecursionError"),
}


def poison(queue: Queue, how: str, **more: Any) -> UUID:
    return queue.add(
        None,
        f"poison-{how}",
        type=POISON,
        payload=Jsonb({"how": how, **more}),
        retry_policy=Jsonb({"backoffSeconds": 0.01}),
        max_attempts=2,
    )


def step(queue: Queue, name: str, **payload: Any) -> UUID:
    return queue.add(None, name, type=STEP, payload=Jsonb(payload), retry_policy=Jsonb(RETRIES))


def expire(queue: Queue, worker: WorkerProcess) -> None:
    """Let the lease of a process that is gone be over."""
    queue.run(
        "update dreamcut_workers set lease_expires_at = now() - interval '1 second' where pid = %s",
        worker.pid,
    )


def test_every_misbehaviour_is_contained(start_worker: StartWorker, queue: Queue) -> None:
    worker = start_worker(f"{POISON}:20,{STEP}:2", LEASE_S="20", HEARTBEAT_S="2")
    innocent = step(queue, "innocent", ms=2500)
    jobs = {how: poison(queue, how) for how in MISBEHAVIOURS}
    fine = {"nul": poison(queue, "nul"), "large": poison(queue, "large")}
    fine["scripts"] = poison(queue, "scripts", text=SCRIPTS)
    for job in (innocent, *jobs.values(), *fine.values()):
        wait_until(lambda job=job: queue.job(job)["completed_at"], "the job's end")

    for how, (error_class, message) in MISBEHAVIOURS.items():
        row = queue.job(jobs[how])
        assert (row["status"], row["error_class"]) == ("failed", error_class), how
        assert message in row["error_message"], how
        assert len(row["error_message"]) <= 4000
        assert row["attempts"] == (1 if error_class == "invalid_request" else 2), how
    assert "Traceback" in queue.history(jobs["base_exception"])[0]["detail"]["traceback"]

    row = queue.job(fine["nul"])
    assert row["result"] == {"text": "before�after", "k�ey": ["? half a pair"]}
    assert len(queue.job(fine["large"])["result"]["text"]) == 10_000_000
    assert queue.job(fine["scripts"])["result"]["text"] == SCRIPTS

    row = queue.job(innocent)
    assert (row["status"], row["claims"], row["result"]["pid"]) == ("completed", 1, worker.pid)
    assert worker.stop() == 0
    assert queue.inconsistencies() == []


def test_a_payload_that_python_cannot_read_fails_alone(
    start_worker: StartWorker, queue: Queue, database: str
) -> None:
    """Postgres stores what Python's JSON refuses. In one claim with it come innocent jobs."""
    digits = queue.add(None, "digits", type=STEP)
    queue.run("update dreamcut_jobs set payload = '{\"ms\": 1e5000}' where id = %s", digits)
    deep = queue.add(None, "deep", type=STEP)
    nested = "[" * 1500 + "]" * 1500
    queue.run(f"update dreamcut_jobs set payload = '{{\"ms\": {nested}}}' where id = %s", deep)
    innocents = [step(queue, f"innocent-{n}", ms=1) for n in range(3)]
    worker = start_worker(f"{STEP}:10")
    unfinished = "select 1 from dreamcut_jobs where completed_at is null"
    wait_until(lambda: not queue.rows(unfinished), "the end of the jobs")
    for job in innocents:
        assert (queue.job(job)["status"], queue.job(job)["claims"]) == ("completed", 1)
    for job in (digits, deep):
        row = queue.row(
            "select status, error_class, error_message, attempts from dreamcut_jobs where id = %s", job
        )
        assert (row["status"], row["error_class"], row["attempts"]) == ("failed", "invalid_request", 1)
        assert row["error_message"].startswith("The payload cannot be read: ")
    assert worker.stop() == 0

    shown = CliRunner(env={"DATABASE_URL": database}).invoke(cli, ["jobs", "show", str(digits), "--json"])
    assert shown.exit_code == 0, shown.stderr
    assert "Exceeds the limit" in json.loads(shown.stdout)["payload"]["unreadable"]


def test_a_job_that_blocks_the_event_loop_is_named_with_its_stack(
    start_worker: StartWorker, queue: Queue
) -> None:
    worker = start_worker(f"{STEP}:2", LEASE_S="30")
    blocking = step(queue, "blocking", ms=0, blockMs=6500)
    wait_until(lambda: queue.job(blocking)["completed_at"], "the job's end")
    text = worker.text()
    assert re.search(r"The event loop has hung for \d+\.\d s", text), text
    assert "jobtypes.py" in text
    assert "time.sleep(payload.block_ms / 1000)" in text
    worker.wait_for("The event loop goes on after ")
    assert worker.text().count("The event loop has hung") == 1


def test_whoever_is_there_when_a_job_kills_its_worker_is_unharmed(
    start_worker: StartWorker, queue: Queue
) -> None:
    """The worker is started again and again, as a service manager does, and nobody helps."""

    def start() -> WorkerProcess:
        return start_worker(f"{POISON}:2,{STEP}:8", LEASE_S="60")

    killer = queue.add(
        None,
        "killer",
        type=POISON,
        payload=Jsonb({"how": "kill"}),
        retry_policy=Jsonb(RETRIES),
        max_attempts=1,
    )
    innocents = [
        queue.add(
            None, f"i{n}", type=STEP, payload=Jsonb({"ms": 800}), retry_policy=Jsonb(RETRIES), max_attempts=1
        )
        for n in range(6)
    ]
    workers = [start()]

    def is_over(*jobs: UUID) -> bool:
        if workers[-1].is_over():
            expire(queue, workers[-1])
            workers.append(start())
        return all(queue.job(job)["completed_at"] for job in jobs)

    wait_until(lambda: is_over(killer), "the killer's end")
    wait_until(lambda: is_over(*innocents), "the end of the others")
    row = queue.job(killer)
    assert (row["status"], row["error_class"], row["attempts"]) == ("failed", "stalled", 1)
    assert row["claims"] == row["stalls"] == 3  # twice in company, once without another suspect
    assert len(workers) == 4
    for job in innocents:
        row = queue.job(job)
        assert (row["status"], row["attempts"]) == ("completed", 1)
        assert row["stalls"] >= 1  # they were there
    assert workers[-1].stop() == 0


def test_a_job_that_eats_all_memory_fails_alone(start_worker: StartWorker, queue: Queue) -> None:
    """Where the operating system refuses it more, as a limit of the service does. Else see the one above."""
    worker = start_worker(f"{POISON}:2,{STEP}:2", CHAOS_MEMORY_MB="1500", LEASE_S="20", HEARTBEAT_S="2")
    innocent = step(queue, "innocent", ms=2500)
    glutton = poison(queue, "eat_memory")
    for job in (innocent, glutton):
        wait_until(lambda job=job: queue.job(job)["completed_at"], "the job's end")
    row = queue.job(glutton)
    assert (row["status"], row["error_class"], row["attempts"]) == ("failed", "bug", 2)
    assert row["error_message"].startswith("Unexpected MemoryError")
    assert "_eat_memory" in queue.history(glutton)[0]["detail"]["traceback"]
    row = queue.job(innocent)
    assert (row["status"], row["claims"], row["result"]["pid"]) == ("completed", 1, worker.pid)
    assert worker.stop() == 0


def test_a_job_that_kills_its_worker_runs_out_of_attempts(start_worker: StartWorker, queue: Queue) -> None:
    """As one that eats all memory does: the kernel sends SIGKILL. The attempt was counted at the claim."""
    job = queue.add(
        None, "glutton", type=STEP, payload=Jsonb({"ms": 60_000}), retry_policy=Jsonb(RETRIES), max_attempts=1
    )
    for claim in (1, 2, 3):
        worker = start_worker(f"{STEP}:2", LEASE_S="60")
        wait_until(lambda claim=claim: queue.job(job)["claims"] == claim, "the claim")
        worker.send(signal.SIGKILL)
        worker.process.wait(30)
        expire(queue, worker)
    survivor = start_worker(f"{STEP}:2")
    innocent = step(queue, "innocent", ms=1)
    wait_until(lambda: queue.job(job)["completed_at"], "the job's end")
    row = queue.job(job)
    assert (row["status"], row["error_class"], row["attempts"]) == ("failed", "stalled", 1)
    wait_until(lambda: queue.job(innocent)["completed_at"], "the innocent job")
    assert survivor.stop() == 0


def test_a_huge_payload_is_refused_with_its_size_and_the_limit(queue: Queue) -> None:
    with pytest.raises(psycopg.errors.CheckViolation) as refused:
        queue.add(None, "huge", payload=Jsonb({"text": "x" * 1_048_577}))
    said = refused.value.diag
    assert said.message_primary == 'the payload of job "huge" has 1048589 bytes, and 1048576 is the limit'
    assert "dreamcut_limits" in (said.message_hint or "")
    assert queue.value("select count(*) from dreamcut_jobs") == 0

    fits = queue.add(None, "fits", payload=Jsonb({"text": "x" * 1_048_500}))
    with pytest.raises(psycopg.errors.CheckViolation):
        queue.run(
            "update dreamcut_jobs set payload = payload || %s where id = %s", Jsonb({"y": "y" * 100}), fits
        )


def test_the_payload_limit_can_be_changed_and_old_rows_still_run(queue: Queue) -> None:
    queue.run("update dreamcut_limits set value = 3000000 where name = 'payload_bytes'")
    large = queue.add(None, "large", payload=Jsonb({"text": "x" * 2_000_000}))
    queue.run("update dreamcut_limits set value = 10000 where name = 'payload_bytes'")
    with pytest.raises(psycopg.errors.CheckViolation):
        queue.add(None, "refused", payload=Jsonb({"text": "x" * 10_000}))
    worker = queue.worker()
    held = queue.claim_one(worker)
    assert queue.complete(worker, held) == [large]
