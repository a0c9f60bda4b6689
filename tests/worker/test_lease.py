"""A worker that loses its lease, its connections or an answer loses no job and runs none twice."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.lowlevel
import psycopg
import pytest

from dreamcuts.queue.store import Store
from tests.support import Queue, is_blocked, until
from tests.worker.conftest import Start, until_listening
from tests.worker.play import Play
from tests.worker.test_running import do, status

pytestmark = pytest.mark.anyio

KILL = """
    select pg_terminate_backend(pid) from pg_stat_activity
    where datname = current_database() and application_name = 'dreamcuts'
"""


async def test_a_worker_that_was_declared_lost_comes_back_and_drops_what_it_had(
    start: Start, queue: Queue, play: Play
) -> None:
    job = queue.add(None, "a", payload=do("wait"))
    async with start():
        await until(lambda: play.active == 1)
        first = queue.job(job)["worker_id"]
        queue.expire(first)
        assert [row["id"] for row in queue.rescue()] in ([job], [])  # or its own heartbeat was faster
        queue.run("update dreamcut_workers set state = 'lost' where id = %s", first)
        await until(lambda: queue.value("select count(*) from dreamcut_workers where state = 'live'") == 1)
        await until(lambda: play.ended == ["a"])
        queue.run("update dreamcut_workers set lease_expires_at = now() where id = %s", first)
        if queue.job(job)["worker_id"] == first:
            queue.release(job)
        queue.come_due()
        await until(lambda: play.runs == ["a", "a"])
        play.go.set()
        await until(lambda: status(queue, job) == ["completed"])
        assert queue.job(job)["worker_id"] != first
    assert queue.job(job)["claims"] == 2


async def test_all_connections_are_lost_in_the_middle_of_a_job(
    start: Start, queue: Queue, play: Play
) -> None:
    jobs = [queue.add(None, name, payload=do("wait")) for name in "abc"]
    async with start():
        await until(lambda: play.active == 3)
        for _ in range(3):
            queue.rows(KILL)
            await anyio.lowlevel.checkpoint()
        play.go.set()
        await until(lambda: set(status(queue, *jobs)) == {"completed"})
        more = queue.add(None)
        await until(lambda: status(queue, more) == ["completed"])
    assert sorted(play.runs)[:3] == ["a", "b", "c"] and len(play.runs) == 4
    assert {queue.job(job)["claims"] for job in jobs} == {1}


async def test_the_database_is_closed_to_everybody_for_a_while(
    start: Start, queue: Queue, play: Play, database: str
) -> None:
    job = queue.add(None, "a", payload=do("wait"))
    name = database.rsplit("/", 1)[1]
    async with start() as worker:
        await until(lambda: play.active == 1)
        with psycopg.connect(database.rsplit("/", 1)[0] + "/postgres", autocommit=True) as outside:
            outside.execute(f'alter database "{name}" allow_connections false')
            queue.rows(KILL)
            play.go.set()
            await until(lambda: worker._outage._since is not None and play.ended)
            assert worker.is_beating()
            outside.execute(f'alter database "{name}" allow_connections true')
        await until(lambda: status(queue, job) == ["completed"])
    assert play.runs == ["a"]


async def test_a_claim_whose_answer_was_lost_strands_no_job(
    start: Start, queue: Queue, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The claim is committed, the connection dies before the worker hears of it; the worker lives on."""
    job = queue.add(None, "a", max_attempts=1)
    claim = Store.claim
    lost: list[int] = []

    async def unanswered(self: Store, *given: Any, **more: Any) -> Any:
        claimed = await claim(self, *given, **more)
        if claimed and not lost:
            lost.append(len(claimed))
            raise ConnectionResetError("no answer")
        return claimed

    monkeypatch.setattr(Store, "claim", unanswered)
    async with start():
        await until(lambda: status(queue, job) == ["completed"])
    assert lost == [1] and play.runs == ["a"]
    assert (queue.job(job)["claims"], queue.job(job)["attempts"]) == (2, 1)


async def test_an_unanswered_claim_right_before_the_end_strands_no_job(
    start: Start, queue: Queue, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = queue.add(None, "a", max_attempts=1)
    claim = Store.claim
    lost = anyio.Event()

    async def unanswered(self: Store, *given: Any, **more: Any) -> Any:
        if lost.is_set():
            raise ConnectionResetError("still no answer")
        if await claim(self, *given, **more):
            lost.set()
            raise ConnectionResetError("no answer")
        return []

    monkeypatch.setattr(Store, "claim", unanswered)
    async with start():
        await lost.wait()
    row = queue.job(job)
    assert (row["status"], row["attempts"]) == ("pending", 0) and play.runs == []


async def test_a_heartbeat_that_is_late_does_not_stop_the_job_s_next_claim(
    start: Start, queue: Queue, play: Play, database: str
) -> None:
    """The heartbeat was sent for claim 1, and is answered when the same worker already runs claim 2."""
    job = queue.add(None, "a", payload=do("wait"))
    async with start(heartbeat=3600) as running:
        await until_listening(queue)
        await until(lambda: play.active == 1)
        worker = queue.job(job)["worker_id"]
        with psycopg.connect(database) as holder:
            holder.execute("select from dreamcut_workers where id = %s for no key update", [worker])
            queue.run("select pg_notify('dreamcut_workers', %s)", str(worker))
            await until(
                lambda: any(
                    is_blocked(queue.connection, row["pid"])
                    for row in queue.rows("select pid from pg_stat_activity where query like '%%beat(%%'")
                )
            )
            queue.release(job)
            await until(lambda: play.runs == ["a", "a"])
            before = running._lease.last_beat
            holder.rollback()
        await until(lambda: running._lease.last_beat > before)
        play.go.set()
        await until(lambda: status(queue, job) == ["completed"])
    assert queue.job(job)["claims"] == 2


@pytest.mark.parametrize("function", ["dreamcut_claim_jobs", "dreamcut_heartbeat"])
async def test_a_function_that_is_away_during_a_migration_costs_no_job(
    start: Start, queue: Queue, play: Play, function: str, caplog: pytest.LogCaptureFixture
) -> None:
    job = queue.add(None, "a", payload=do("wait"))
    async with start():
        await until(lambda: play.active == 1)
        queue.run(f"alter function {function} rename to away")
        more = queue.add(None, "b")
        await until(lambda: "The database does not answer" in caplog.text)
        queue.run(f"alter function away rename to {function}")
        await until(lambda: status(queue, more) == ["completed"])
        play.go.set()
        await until(lambda: status(queue, job) == ["completed"])
    assert play.runs == ["a", "b"]


async def test_it_rescues_the_jobs_of_others_and_runs_them(start: Start, queue: Queue, play: Play) -> None:
    dead = queue.worker()
    job = queue.add(None, "a", payload=do("quick"))
    queue.claim_one(dead)
    queue.expire(dead)
    async with start():
        await until(lambda: queue.job(job)["status"] != "processing")
        queue.come_due()
        await until(lambda: status(queue, job) == ["completed"])
    assert [line["error_class"] for line in queue.history(job)] == ["stalled"]


async def test_a_lease_that_runs_out_while_the_database_is_away_stops_the_jobs(
    start: Start, queue: Queue, play: Play, database: str
) -> None:
    job = queue.add(None, "a", payload=do("wait"), max_attempts=1)
    name = database.rsplit("/", 1)[1]
    async with start(lease=0.5) as worker:
        await until(lambda: play.active == 1)
        first = worker._lease.worker
        with psycopg.connect(database.rsplit("/", 1)[0] + "/postgres", autocommit=True) as outside:
            outside.execute(f'alter database "{name}" allow_connections false')
            queue.rows(KILL)
            await until(lambda: play.active == 0)  # others might be running it by now
            outside.execute(f'alter database "{name}" allow_connections true')
        await until(lambda: play.active == 1)  # nobody else took it: the lease still held
        play.go.set()
        await until(lambda: status(queue, job) == ["completed"])
        assert worker._lease.worker == first
    # On a machine that stalls the short lease runs out more often: that costs claims, and no attempt.
    assert queue.job(job)["attempts"] == 1
    assert queue.job(job)["claims"] == len(play.runs) >= 2
