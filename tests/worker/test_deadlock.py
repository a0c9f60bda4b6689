"""A producer changes a job and then adds one, in one transaction, while the manifest's jobs end.

It locks a job and then the manifest, the queue's functions the manifest and then the jobs: a deadlock, of
which Postgres ends one side. Which one, is decided here by whose `deadlock_timeout` is shorter.
"""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

import anyio.to_thread
import psycopg
import pytest
from psycopg.types.json import Jsonb

from tests.support import Queue, until
from tests.worker.conftest import Start
from tests.worker.play import Play
from tests.worker.test_locks import WAITING
from tests.worker.test_running import do, status

pytestmark = pytest.mark.anyio

NEVER = "60s"


def change(producer: psycopg.Connection, job: UUID) -> None:
    producer.execute(
        "update dreamcut_jobs set payload = payload || %s where id = %s", [Jsonb({"number": 7}), job]
    )


def add(producer: psycopg.Connection, manifest: UUID) -> None:
    producer.execute(
        "insert into dreamcut_jobs (manifest_id, job_id, type, payload, depends_on)"
        " values (%s, 'c', 'work', %s, '{a}')",
        [manifest, do("quick")],
    )


@pytest.mark.parametrize("victim", ["worker", "producer"])
async def test_nothing_is_lost_whichever_side_postgres_ends(
    start: Start, queue: Queue, play: Play, database: str, victim: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    # The worker's side counts from before the producer waits, and looks only once.
    soon = "5s" if victim == "worker" else "1s"
    timeouts: Mapping[str, str] = {"worker": NEVER, "producer": NEVER, victim: soon}
    name = database.rsplit("/", 1)[1]
    queue.run(f"alter database \"{name}\" set deadlock_timeout = '{timeouts['worker']}'")
    queue.run(f"alter function dreamcut_complete_jobs set lock_timeout = '{NEVER}'")
    manifest, jobs = queue.graph({"a": [], "b": ["a"]}, payload=do("wait"))
    async with start():
        await until(lambda: play.active == 1)
        with psycopg.connect(database) as producer:
            producer.execute(f"set deadlock_timeout = '{timeouts['producer']}'")
            producer.commit()
            change(producer, jobs["b"])
            play.go.set()
            await until(lambda: queue.value(WAITING, "%dreamcut_complete_jobs%") == 1)
            if victim == "producer":
                with pytest.raises(psycopg.errors.DeadlockDetected):
                    await anyio.to_thread.run_sync(add, producer, manifest)
                producer.rollback()
            while True:  # and again, as a producer should: b's own outcome may come next
                try:
                    change(producer, jobs["b"])
                    await anyio.to_thread.run_sync(add, producer, manifest)
                    producer.commit()
                    break
                except psycopg.errors.DeadlockDetected:
                    producer.rollback()
        await until(lambda: set(queue.states(manifest).values()) == {"completed"})
    assert ("DeadlockDetectedError" in caplog.text) == (victim == "worker")
    assert "The database does not answer" not in caplog.text
    assert queue.states(manifest).keys() == {"a", "b", "c"}
    assert queue.job(jobs["b"])["payload"]["number"] == 7
    assert status(queue, *jobs.values()) == ["completed"] * 2
    assert queue.value("select max(claims) from dreamcut_jobs") == 1
    assert queue.of_manifest(manifest)["status"] == "done"
    assert queue.inconsistencies() == []
