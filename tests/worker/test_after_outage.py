"""After an outage, in which every lease has run out: who is back first takes nobody's jobs."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from dreamcuts.db.migrate import migrate
from dreamcuts.worker.worker import Worker
from tests.chaos.machine import DURABLE, CrashingPostgres
from tests.support import Queue, until
from tests.worker.conftest import Start
from tests.worker.play import Play
from tests.worker.test_running import do, status

pytestmark = pytest.mark.anyio

LEASE_S = 8.0
"""Of the worker: so long it waits for the others, from the time when Postgres answers again."""
OTHERS_LEASE_S = 0.5


@pytest.fixture
def freezing() -> Iterator[CrashingPostgres]:
    """A server of this test alone."""
    with CrashingPostgres(prefer="system", settings=DURABLE) as server:
        migrate(server.dsn())
        yield server


async def test_a_worker_that_is_back_first_leaves_the_others_the_time_to_say_that_they_live(
    start: Start, play: Play, freezing: CrashingPostgres
) -> None:
    """Postgres hangs and goes on, without a start that dreamcut_is_lease_over could see."""
    with psycopg.connect(freezing.dsn(), autocommit=True) as connection:
        queue = Queue(connection)
        async with start(dsn=freezing.dsn(), lease=LEASE_S) as worker:
            await worker.wait_registered()
            # The other worker: it lives, and comes back a moment later.
            other = queue.worker(lease_s=LEASE_S)
            job = queue.add(None, "a", payload=do("quick"), type="others")
            held = queue.claim_one(other, "others")
            queue.heartbeat(other, held, lease_s=OTHERS_LEASE_S)
            freezing.freeze(True)
            try:
                await until(lambda: worker._outage.seconds_since() == 0 and worker.database_silence() > 1.5)
            finally:
                freezing.freeze(False)
            await until_it_has_seen(queue, worker, other)
            beat = queue.heartbeat(other, held, lease_s=60)
            assert beat["alive"] is True and beat["taken"] == []
            assert queue.complete(other, held) == [job]
            more = queue.add(None)
            await until(lambda: status(queue, more) == ["completed"])
        assert queue.job(job)["claims"] == 1 and queue.history(job) == []


async def test_and_then_rescues_who_does_not(start: Start, freezing: CrashingPostgres) -> None:
    with psycopg.connect(freezing.dsn(), autocommit=True) as connection:
        queue = Queue(connection)
        async with start(dsn=freezing.dsn(), lease=LEASE_S) as worker:
            await worker.wait_registered()
            other = queue.worker(lease_s=LEASE_S)
            job = queue.add(None, "a", type="others")
            held = queue.claim_one(other, "others")
            queue.heartbeat(other, held, lease_s=OTHERS_LEASE_S)
            freezing.freeze(True)
            try:
                await until(lambda: worker._outage.seconds_since() == 0)
            finally:
                freezing.freeze(False)
            await until(lambda: status(queue, job) == ["pending"])
            assert worker._outage.seconds_since() > LEASE_S


async def until_it_has_seen(queue: Queue, worker: Worker, other: object) -> None:
    """Wait until heartbeats have told the worker several times that the other's lease is over."""
    is_over = "select lease_expires_at < now() from dreamcut_workers where id = %s"
    await until(lambda: worker._outage.seconds_since() > 0 and queue.value(is_over, other))
    for _ in range(5):
        before = worker._lease.last_beat
        await until(lambda before=before: worker._lease.last_beat > before)
