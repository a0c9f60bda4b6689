"""After a restart of Postgres every lease has run out, because nobody could extend it. That alone makes no
worker dead: it counts as dead when the server has been up for as long as its lease
(dreamcut_is_lease_over)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from tests.chaos.machine import CrashingPostgres
from tests.sql.interleaving import alter
from tests.support import Queue, wait_until

SINCE_THE_START = (
    "and pg_postmaster_start_time() + (p_worker.lease_expires_at - p_worker.heartbeat_at) < now()"
)
IS_OVER = "select dreamcut_is_lease_over(worker) from dreamcut_workers worker where id = %s"
LONG_S, SHORT_S = 3600, 1


@contextmanager
def connected(server: CrashingPostgres) -> Iterator[Queue]:
    with psycopg.connect(server.dsn("dreamcuts"), autocommit=True) as connection:
        yield Queue(connection)


@pytest.mark.parametrize("guarded", [True, False], ids=["as it is", "without that clause"])
def test_a_lease_that_ran_out_while_the_server_was_away_is_not_over_at_once_and_is_later(
    crashing_postgres: CrashingPostgres, guarded: bool
) -> None:
    server = crashing_postgres
    with connected(server) as queue:
        if not guarded:
            alter(queue, "dreamcut_is_lease_over", (SINCE_THE_START, ""))
        long, short = queue.worker(["long"], lease_s=LONG_S), queue.worker(["short"], lease_s=SHORT_S)
        rescuer = queue.worker(["none"], lease_s=10 * LONG_S)
        jobs = {type: queue.add(None, type, type=type) for type in ("long", "short")}
        for type, worker in (("long", long), ("short", short)):
            queue.claim_one(worker, type)
        # They beat for the last time just before the outage, which then took a day.
        queue.run(
            "update dreamcut_workers set heartbeat_at = heartbeat_at - interval '1 day',"
            " lease_expires_at = lease_expires_at - interval '1 day' where id <> %s",
            rescuer,
        )
    server.crash()
    server.come_back()
    with connected(server) as queue:
        if not guarded:
            assert queue.value(IS_OVER, long) and queue.heartbeat(rescuer)["rescue_due"]
            assert {row["id"] for row in queue.rescue()} == set(jobs.values()), (
                "taken from one who may well live"
            )
            return
        assert queue.value("select lease_expires_at < now() from dreamcut_workers where id = %s", long)
        assert queue.value(IS_OVER, long) is False
        # The short one has had its time: what it holds is taken, and nothing else.
        wait_until(lambda: queue.value(IS_OVER, short), "the short lease to be over")
        assert queue.heartbeat(rescuer)["rescue_due"] is True
        assert [row["id"] for row in queue.rescue()] == [jobs["short"]]
        assert queue.heartbeat(rescuer)["rescue_due"] is False
        assert queue.job(jobs["long"])["status"] == "processing"
        assert queue.value("select state from dreamcut_workers where id = %s", long) == "live"
        # It comes back, and what it holds is still its own.
        assert queue.heartbeat(long, lease_s=LONG_S)["alive"] is True
        # A server that has been up for longer than the lease leaves it no excuse.
        queue.run(
            "update dreamcut_workers set lease_expires_at = now() - interval '1 second',"
            " heartbeat_at = now() - interval '2 seconds' where id = %s",
            long,
        )
        wait_until(lambda: queue.value(IS_OVER, long), "the other lease to be over")
        assert [row["id"] for row in queue.rescue()] == [jobs["long"]]


def test_a_worker_of_before_the_restart_is_not_stuck_and_not_dead_to_the_views(
    crashing_postgres: CrashingPostgres,
) -> None:
    """Whoever asks uses the same rule: nobody is told that its job has lost its worker, right after a
    restart."""
    server = crashing_postgres
    with connected(server) as queue:
        worker = queue.worker(lease_s=LONG_S)
        queue.add(None, "held")
        queue.claim_one(worker)
        queue.add(None, "waiting")
        queue.run(
            "update dreamcut_workers set heartbeat_at = heartbeat_at - interval '1 day',"
            " lease_expires_at = lease_expires_at - interval '1 day'"
        )
    server.crash()
    server.come_back()
    with connected(server) as queue:
        assert queue.rows("select * from dreamcut_stuck_jobs") == []
