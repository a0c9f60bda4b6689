"""Somebody holds a lock in the database for long: a producer's open transaction, an operator's, a script's.

What does not need it goes on, and the lease holds; what needs it is done when the lock is gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import anyio
import psycopg
import pytest
from psycopg.types.json import Jsonb

from dreamcuts.jobs.base import JobContext, Result
from dreamcuts.queue import outbox
from dreamcuts.queue.models import Outcome, Settled
from dreamcuts.queue.store import Store
from dreamcuts.worker import ending
from dreamcuts.worker.worker import Worker
from tests.support import Queue, until
from tests.worker.conftest import Start
from tests.worker.play import Play, PlayPayload
from tests.worker.test_running import do, status

pytestmark = pytest.mark.anyio

WAITING = """
    select count(*) from pg_stat_activity
    where datname = current_database() and application_name = 'dreamcuts'
        and cardinality(pg_blocking_pids(pid)) > 0 and query like %s
"""
CONNECTED = """
    select count(*) from pg_stat_activity
    where datname = current_database() and application_name = 'dreamcuts'
"""
LEAVING = "select state, lease_expires_at <= now() as is_over from dreamcut_workers"
LIMITED = {"metadata": {"featureFlags": {"maxTotalCost": 5}}}


class Caller(Play):
    """Begins a paid call, which counts under the lock of a manifest with a spend limit."""

    async def _begin(self, ctx: JobContext, payload: PlayPayload) -> Result:
        call = await ctx.calls.begin("no_such_provider", "x", request={}, estimate_usd=0.1)
        await ctx.calls.finish(call, "succeeded", cost_usd=0.1)
        return Result()


@pytest.fixture
def holder(database: str) -> Iterator[psycopg.Connection]:
    """A session that locks and then sits in its transaction."""
    with psycopg.connect(database) as connection:
        yield connection


@pytest.fixture(autouse=True)
def short_times(queue: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    for function in ("complete", "fail", "hand_back"):
        queue.run(f"alter function dreamcut_{function}_jobs set lock_timeout = '150ms'")
    monkeypatch.setattr(outbox, "ASIDE_S", 0.3)
    monkeypatch.setattr(ending, "WRITE_S", 5.0)


def lock(holder: psycopg.Connection, manifest: UUID) -> None:
    holder.execute("select from dreamcut_production_manifest where id = %s for no key update", [manifest])


async def beats(worker: Worker) -> None:
    """Wait until the worker has said several times that it lives."""
    for _ in range(10):
        before = worker._lease.last_beat
        await until(lambda before=before: worker._lease.last_beat > before)


async def test_a_rescue_leaves_a_locked_manifest_and_takes_all_others(
    start: Start, queue: Queue, play: Play, holder: psycopg.Connection
) -> None:
    manifest, jobs = queue.graph({"a": []}, payload=do("quick"))
    others = [queue.add(queue.manifest(), payload=do("quick")), queue.add(None, payload=do("quick"))]
    dead = queue.worker()
    queue.claim(dead, 3)
    lock(holder, manifest)
    queue.expire(dead)
    async with start():
        await until(lambda: not any(queue.job(job)["status"] == "processing" for job in others))
        queue.come_due()
        await until(lambda: status(queue, *others) == ["completed"] * 2)
        assert queue.job(jobs["a"])["worker_id"] == dead
        holder.rollback()
        await until(lambda: queue.job(jobs["a"])["worker_id"] != dead)
        queue.come_due()
        await until(lambda: status(queue, jobs["a"]) == ["completed"])
    assert queue.value("select state from dreamcut_workers where id = %s", dead) == "lost"


async def test_a_rescue_that_hangs_keeps_nobody_from_his_heartbeats(
    start: Start, queue: Queue, play: Play, holder: psycopg.Connection
) -> None:
    """Whatever it waits for: the healthy worker that carries it out keeps its lease and its jobs."""
    queue.run("alter function dreamcut_rescue rename to really_rescue")
    queue.run("""
        create function dreamcut_rescue() returns table (id uuid, status text, worker_id uuid) as $$
            select pg_advisory_xact_lock(42);
            select * from really_rescue()
        $$ language sql
    """)
    abandoned = queue.add(None, "abandoned", payload=do("quick"))
    dead = queue.worker()
    queue.claim_one(dead)
    job = queue.add(None, "healthy", payload=do("wait"))
    holder.execute("select pg_advisory_xact_lock(42)")
    async with start() as worker:
        await until(lambda: play.active == 1)
        queue.expire(dead)
        await until(lambda: queue.value(WAITING, "%dreamcut_rescue%") == 1)
        await beats(worker)
        assert play.ended == []
        holder.rollback()
        # Not "pending": its backoff counts from when the rescue began, and may be over by now.
        await until(lambda: queue.job(abandoned)["worker_id"] != dead)
        play.go.set()
        await until(lambda: status(queue, job) == ["completed"])
    assert queue.job(job)["claims"] == 1


async def test_outcomes_of_a_locked_manifest_wait_and_all_others_are_written(
    start: Start, queue: Queue, play: Play, holder: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked, mine = queue.graph({"a": [], "b": []}, payload=do("wait"))
    others = [queue.add(queue.manifest(), payload=do("wait")) for _ in range(3)]
    others += [queue.add(None, payload=do("wait")) for _ in range(2)]
    written: list[set[UUID | None]] = []
    write = Store.write

    async def watched(self: Store, worker: UUID, outcomes: list[Outcome]) -> list[Settled]:
        written.append({outcome.job.manifest_id for outcome in outcomes})
        return await write(self, worker, outcomes)

    monkeypatch.setattr(Store, "write", watched)
    async with start() as worker:
        await until(lambda: play.active == 7)
        lock(holder, locked)
        play.go.set()
        await until(lambda: status(queue, *others) == ["completed"] * 5)
        # What comes now does not wait with the locked ones' outcomes, nor they with it.
        await until(lambda: worker._outbox._aside)
        before = len(written)
        more = [queue.add(manifest, payload=do("quick")) for manifest in (None, queue.manifest())]
        await until(lambda: status(queue, *more) == ["completed"] * 2)
        await until(lambda: {locked} in written[before:])
        assert all(batch == {locked} or locked not in batch for batch in written[before:])
        assert status(queue, *mine.values()) == ["processing"] * 2
        # The worker may hear of it a little later than we see it.
        await until(lambda: {job.id for job in worker._outbox.held()} == set(mine.values()))
        holder.rollback()
        await until(lambda: status(queue, *mine.values()) == ["completed"] * 2)
        await until(lambda: worker.counts == {"completed": 9})
    assert {queue.job(job)["claims"] for job in [*mine.values(), *others, *more]} == {1}
    assert queue.inconsistencies() == []


async def test_one_locked_job_holds_up_no_other_that_has_no_manifest(
    start: Start, queue: Queue, play: Play, holder: psycopg.Connection
) -> None:
    jobs = [queue.add(None, payload=do("wait")) for _ in range(4)]
    async with start() as worker:
        await until(lambda: play.active == 4)
        holder.execute("select from dreamcut_jobs where id = %s for update", [jobs[0]])
        play.go.set()
        await until(lambda: status(queue, *jobs[1:]) == ["completed"] * 3)
        assert status(queue, jobs[0]) == ["processing"]
        holder.rollback()
        await until(lambda: status(queue, jobs[0]) == ["completed"])
        await until(lambda: worker.counts == {"completed": 4})


async def test_a_drain_leaves_to_the_rescue_only_what_is_locked(
    start: Start, queue: Queue, play: Play, holder: psycopg.Connection
) -> None:
    locked, mine = queue.graph({"a": [], "b": []}, payload=do("wait"), max_attempts=3)
    others = [queue.add(queue.manifest(), payload=do("wait")) for _ in range(3)]
    async with start(shutdown_timeout=0.5):
        await until(lambda: play.active == 5)
        lock(holder, locked)
        play.go.set()
        await until(lambda: len(play.ended) == 5)
        await until(lambda: status(queue, *others) == ["completed"] * 3)
    assert queue.row(LEAVING) == {"state": "draining", "is_over": True}
    assert status(queue, *others) == ["completed"] * 3
    assert status(queue, *mine.values()) == ["processing"] * 2
    await until(lambda: queue.value(CONNECTED) == 0)  # the last try may still wait for the lock
    holder.rollback()
    assert {row["id"] for row in queue.rescue()} == set(mine.values())
    assert queue.value("select state from dreamcut_workers") == "lost"


async def test_a_drain_hands_back_all_jobs_but_the_one_that_is_locked(
    start: Start, queue: Queue, play: Play, holder: psycopg.Connection
) -> None:
    jobs = [queue.add(None, payload=do("wait"), max_attempts=1) for _ in range(3)]
    async with start():
        await until(lambda: play.active == 3)
        holder.execute("select from dreamcut_jobs where id = %s for update", [jobs[0]])
    assert status(queue, *jobs) == ["processing", "pending", "pending"]
    assert queue.row(LEAVING)["is_over"] is True
    await until(lambda: queue.value(CONNECTED) == 0)
    holder.rollback()
    assert [row["id"] for row in queue.rescue()] == jobs[:1]


async def test_jobs_that_hang_on_all_connections_keep_nobody_from_his_heartbeats(
    start: Start, queue: Queue, play: Play, holder: psycopg.Connection
) -> None:
    caller = Caller("caller")
    manifest = queue.manifest(manifest_json=Jsonb(LIMITED))
    calls = [queue.add(manifest, type="caller", payload=do("begin")) for _ in range(4)]
    job = queue.add(None, payload=do("wait"))
    lock(holder, manifest)
    async with start(types=(play, caller), connections=2) as worker:
        await until(lambda: queue.value(WAITING, "%dreamcut_begin_call%") == 2 and play.active == 1)
        await beats(worker)
        assert (play.ended, caller.ended) == ([], [])
        holder.rollback()
        await until(lambda: status(queue, *calls) == ["completed"] * 4)
        play.go.set()
        await until(lambda: status(queue, job) == ["completed"])
    assert queue.job(job)["claims"] == 1
    assert queue.value("select count(*) from dreamcut_provider_calls where status = 'succeeded'") == 4


async def test_the_lock_is_held_until_the_jobs_have_ended_and_nobody_is_in_a_hurry(
    start: Start, queue: Queue, play: Play, holder: psycopg.Connection
) -> None:
    """Draining waits for a lock within the shutdown timeout, and then the worker ends in order."""
    manifest, jobs = queue.graph({"a": []}, payload=do("wait"))
    async with start(shutdown_timeout=20) as worker:
        await until(lambda: play.active == 1)
        lock(holder, manifest)
        play.go.set()
        await until(lambda: worker._outbox._aside)
        worker.drain()
        with anyio.move_on_after(0.5):
            await until(lambda: queue.row(LEAVING)["is_over"])
            pytest.fail("it left while its outcome waits")
        holder.rollback()
        await until(lambda: queue.value("select state from dreamcut_workers") == "stopped")
    assert status(queue, jobs["a"]) == ["completed"]
