"""kill -9 at each point between claim and finish: the sandbox's own count of bills is the judge.

A worker is held at a point by the outside world, never by a hook in its code: the sandbox delays or does not
answer, or the test holds a lock in Postgres that the worker's next statement waits for. Then it is killed,
and another worker carries the job to its end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.types.json import Jsonb

from dreamcuts.sandbox import Sandbox
from tests.chaos.machine import StartWorker, WorkerProcess
from tests.chaos.plan import RESULT, RETRIES, STATUS, SUBMIT
from tests.support import Queue, wait_until

UPLOAD = r"^POST /storage/v1/object/"
IMAGES = "gen_image_falai:2"


@pytest.fixture
def job(queue: Queue) -> UUID:
    payload = {"prompt": "a lighthouse", "imageSize": {"width": 64, "height": 64}, "fallbackProviders": []}
    return queue.add(
        queue.manifest(),
        "job_gen_lighthouse",
        type="gen_image_falai",
        payload=Jsonb(payload),
        retry_policy=Jsonb(RETRIES),
    )


@contextmanager
def locked(dsn: str, statement: str, *values: Any) -> Iterator[psycopg.Connection[Any]]:
    """Hold a lock for the time of the block."""
    with psycopg.connect(dsn) as holder:
        holder.execute(statement.encode(), values)
        yield holder
        holder.rollback()


def waits_for_a_lock(queue: Queue, statement: str) -> list[int]:
    """Backends of workers that wait for a lock in a statement of that name."""
    rows = queue.rows(
        "select pid from pg_stat_activity where application_name = 'dreamcuts'"
        " and wait_event_type = 'Lock' and query like %s",
        f"%{statement}%",
    )
    return [row["pid"] for row in rows]


def cut_off(queue: Queue, backends: list[int]) -> None:
    """End the statements of a killed worker, which Postgres would otherwise carry out once they can go on."""
    for pid in backends:
        queue.rows("select pg_terminate_backend(%s, 5000)", pid)


def requests(sandbox: Sandbox, provider: str, pattern: str) -> int:
    found = sandbox.requests.entries(provider)
    return sum(1 for entry in found if re.search(pattern, f"{entry.method} {entry.path}"))


def finish(start_worker: StartWorker, queue: Queue, job: UUID) -> dict[str, Any]:
    """Another worker takes the job over; returns its row when it has ended."""
    worker = start_worker(IMAGES)
    worker.wait_for("serves")
    wait_until(lambda: queue.job(job)["completed_at"] or worker.is_over(), "the end of the job")
    row = queue.job(job)
    assert row["completed_at"], worker.text()
    assert row["status"] == "completed", (row["error_class"], row["error_message"])
    assert queue.inconsistencies() == []
    return row


def calls(queue: Queue) -> list[str]:
    return [
        row["status"] for row in queue.rows("select status from dreamcut_provider_calls order by created_at")
    ]


def test_killed_before_the_submit(
    start_worker: StartWorker, queue: Queue, database: str, job: UUID, sandbox: Sandbox
) -> None:
    with locked(database, "lock table dreamcut_provider_calls in share row exclusive mode"):
        worker = start_worker(IMAGES)
        backends = wait_until(lambda: waits_for_a_lock(queue, "begin_call"), "the worker to begin its call")
        worker.kill()
        cut_off(queue, backends)
    finish(start_worker, queue, job)
    assert len(sandbox.bills()) == 1
    assert calls(queue) == ["succeeded"]


def test_killed_after_the_intent_and_before_the_submit_arrived(
    start_worker: StartWorker, queue: Queue, job: UUID, sandbox: Sandbox
) -> None:
    sandbox.fail("hang", provider="fal", pattern=SUBMIT)
    worker = start_worker(IMAGES)
    wait_until(lambda: requests(sandbox, "fal", SUBMIT), "the submit")
    worker.kill()
    finish(start_worker, queue, job)
    assert len(sandbox.bills()) == 1
    assert calls(queue) == ["unknown", "succeeded"]


def submitted_but_not_told(
    start_worker: StartWorker, queue: Queue, database: str, sandbox: Sandbox
) -> Iterator[tuple[WorkerProcess, list[int]]]:
    """A worker that has fal's answer to its submit, and waits to store the id in it."""
    sandbox.fail("delay", provider="fal", pattern=SUBMIT, seconds=1.0)
    worker = start_worker(IMAGES)
    wait_until(lambda: requests(sandbox, "fal", SUBMIT), "the submit")
    with locked(database, "lock table dreamcut_provider_calls in share row exclusive mode"):
        backends = wait_until(lambda: waits_for_a_lock(queue, "submitted_call"), "the id to be stored")
        yield worker, backends


def test_killed_after_the_submit_before_the_id_is_stored(
    start_worker: StartWorker, queue: Queue, database: str, job: UUID, sandbox: Sandbox
) -> None:
    """The one window that remains: fal's queue takes no key of ours. Paid twice, and the ledger says so."""
    for worker, backends in submitted_but_not_told(start_worker, queue, database, sandbox):
        worker.kill()
        cut_off(queue, backends)  # as if the statement had never reached Postgres
    finish(start_worker, queue, job)
    assert len(sandbox.bills()) == 2
    assert calls(queue) == ["unknown", "succeeded"]


def test_killed_while_the_id_is_on_its_way_to_postgres(
    start_worker: StartWorker, queue: Queue, database: str, job: UUID, sandbox: Sandbox
) -> None:
    """From here on nothing is lost: the statement is carried out without its worker."""
    for worker, _ in submitted_but_not_told(start_worker, queue, database, sandbox):
        worker.kill()
    finish(start_worker, queue, job)
    assert len(sandbox.bills()) == 1
    assert calls(queue) == ["succeeded"]


def test_killed_after_the_id_is_stored(
    start_worker: StartWorker, queue: Queue, job: UUID, sandbox: Sandbox
) -> None:
    sandbox.options.fal_queue_seconds = 3.0
    worker = start_worker(IMAGES)
    wait_until(lambda: calls(queue) == ["submitted"], "the id to be stored")
    worker.kill()
    finish(start_worker, queue, job)
    assert len(sandbox.bills()) == 1
    assert requests(sandbox, "fal", SUBMIT) == 1
    assert calls(queue) == ["succeeded"]


@pytest.mark.parametrize(
    ("provider", "pattern"),
    [
        pytest.param("fal", STATUS, id="while polling"),
        pytest.param("fal", RESULT, id="while fetching the result"),
        pytest.param("files", r"^GET /", id="after the result, during the download"),
        pytest.param("supabase", UPLOAD, id="during the upload"),
    ],
)
def test_killed_while_a_request_is_under_way(
    start_worker: StartWorker, queue: Queue, job: UUID, sandbox: Sandbox, provider: str, pattern: str
) -> None:
    sandbox.fail("hang", provider=provider, pattern=pattern)
    worker = start_worker(IMAGES)
    wait_until(lambda: requests(sandbox, provider, pattern), "the request")
    worker.kill()
    finish(start_worker, queue, job)
    assert len(sandbox.bills()) == 1
    assert requests(sandbox, "fal", SUBMIT) == 1
    assert calls(queue) == ["succeeded"]


def test_killed_before_the_finish(
    start_worker: StartWorker, queue: Queue, database: str, job: UUID, sandbox: Sandbox
) -> None:
    """The call is closed and paid, the file is stored; only the job's own outcome is not written yet."""
    manifest = queue.job(job)["manifest_id"]
    lock = "select 1 from dreamcut_production_manifest where id = %s for no key update"
    with locked(database, lock, manifest):
        worker = start_worker(IMAGES)
        backends = wait_until(lambda: waits_for_a_lock(queue, "complete_jobs"), "the outcome to be written")
        assert calls(queue) == ["succeeded"]
        worker.kill()
        cut_off(queue, backends)
    row = finish(start_worker, queue, job)
    assert row["claims"] == 2
    assert len(sandbox.bills()) == 1
    assert requests(sandbox, "fal", SUBMIT) == 1
    assert calls(queue) == ["succeeded"]


def test_killed_again_and_again(start_worker: StartWorker, queue: Queue, job: UUID, sandbox: Sandbox) -> None:
    """A request that takes long is picked up by worker after worker: attempts are used up, and one price."""
    sandbox.options.fal_queue_seconds = 8.0
    # The first two use up no attempt: they might have been the fault of another job.
    for claim in (1, 2, 3, 4, 5):
        worker = start_worker(IMAGES)
        wait_until(lambda claim=claim: queue.job(job)["claims"] == claim, "the claim")  # type: ignore[misc]
        if claim == 1:
            wait_until(lambda: calls(queue) == ["submitted"], "the id to be stored")
        else:
            worker.wait_for("Picking up request")
        worker.kill()
    wait_until(lambda: _rescued(queue, job), "the rescue")
    row = queue.job(job)
    assert (row["status"], row["error_class"], row["attempts"]) == ("failed", "stalled", 3)
    queue.retry(job)
    finish(start_worker, queue, job)
    assert len(sandbox.bills()) == 1
    assert requests(sandbox, "fal", SUBMIT) == 1


def _rescued(queue: Queue, job: UUID) -> bool:
    queue.rescue()
    return bool(queue.job(job)["completed_at"])
