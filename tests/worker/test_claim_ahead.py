"""Short jobs are claimed before a slot is free for them. What waits so is never stuck, lost or run twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import anyio
import pytest
from psycopg.types.json import Jsonb

from dreamcuts.queue import outbox
from dreamcuts.queue.models import Job
from dreamcuts.queue.store import Lookout, Store
from dreamcuts.worker import claiming, slots
from dreamcuts.worker.worker import Worker
from tests.support import Queue, until
from tests.worker.conftest import Start
from tests.worker.play import Play
from tests.worker.test_running import completed, do, status

pytestmark = pytest.mark.anyio

HOUR_S = 3600.0
ENDED = "select count(*) from dreamcut_jobs where completed_at is not null"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many jobs of one type each claim asked for."""
    numbers: list[int] = []
    claim = Store.claim

    async def noted(self: Store, worker: UUID, lookouts: Sequence[Lookout], **more: Any) -> list[Job]:
        numbers.extend(each.jobs for each in lookouts)
        return await claim(self, worker, lookouts, **more)

    monkeypatch.setattr(Store, "claim", noted)
    return numbers


@pytest.fixture
def greedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there is claimed ahead, however long the last jobs took on a machine that stalls."""
    monkeypatch.setattr(slots, "HORIZON_S", HOUR_S)


def fill(queue: Queue, number: int, payload: Jsonb, prefix: str = "j") -> list[UUID]:
    made = queue.rows(
        "insert into dreamcut_jobs (type, job_id, payload)"
        " select 'work', %s || n, %s from generate_series(1, %s) n returning id",
        prefix,
        payload,
        number,
    )
    return [row["id"] for row in made]


def waiting(worker: Worker) -> list[UUID]:
    return [entry.job.id for entry in worker._slots.lanes["work"].waiting]


async def until_jobs_wait_behind_one(
    queue: Queue, play: Play, worker: Worker, number: int = 20
) -> tuple[UUID, list[UUID]]:
    """Short jobs make the worker claim ahead; then comes one that takes long, and others are behind it.

    For tests of a `greedy` worker: all of them are held.
    """
    with queue.connection.transaction():
        fill(queue, 200, do("quick"), "quick")
        (long,) = fill(queue, 1, do("wait"), "long")
        behind = fill(queue, number, do("quick"), "behind")
    await until(lambda: play.runs[-1:] == ["long1"] and waiting(worker) and completed(queue) == 200)
    return long, behind


async def test_short_jobs_are_claimed_ahead_and_each_runs_once(
    start: Start, queue: Queue, play: Play, asked: list[int]
) -> None:
    fill(queue, 2000, do("quick"))
    async with start(slots=2, until_idle=True) as worker:
        await worker.wait_draining()
    assert dict(worker.counts) == {"completed": 2000}
    assert max(asked) > 2 and len(asked) < 1000
    assert play.most <= 2 and set(Counter(play.runs).values()) == {1}
    assert queue.value("select max(claims) from dreamcut_jobs") == 1


async def test_without_claiming_ahead_as_many_are_held_as_there_are_slots(
    start: Start, queue: Queue, asked: list[int]
) -> None:
    fill(queue, 200, do("quick"))
    async with start(slots=2, until_idle=True, claim_ahead=False) as worker:
        await worker.wait_draining()
    assert dict(worker.counts) == {"completed": 200} and max(asked) == 2


async def test_jobs_longer_than_the_horizon_are_not_claimed_ahead(
    start: Start, queue: Queue, play: Play, asked: list[int]
) -> None:
    fill(queue, 12, do("nap", number=round(slots.HORIZON_S * 1000) + 10))
    async with start(slots=1, until_idle=True) as worker:
        await worker.wait_draining()
    assert dict(worker.counts) == {"completed": 12} and max(asked) == 1


async def test_of_long_jobs_each_worker_gets_its_share_at_once(start: Start, queue: Queue) -> None:
    fill(queue, 4, do("wait"))
    one, two = Play(), Play()
    async with start(slots=1, types=(one,)), start(slots=1, types=(two,)):
        await until(lambda: one.active == two.active == 1)
        assert queue.value("select count(*) from dreamcut_jobs where status = 'pending'") == 2
        one.go.set()
        two.go.set()
        await until(lambda: completed(queue) == 4)
    assert queue.value("select max(claims) from dreamcut_jobs") == 1


async def test_what_waits_behind_a_job_that_takes_long_goes_back_and_another_worker_runs_it(
    start: Start, queue: Queue, play: Play, greedy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    helper = Play()
    async with start(slots=1) as worker:
        long, behind = await until_jobs_wait_behind_one(queue, play, worker)
        held = waiting(worker)
        monkeypatch.setattr(slots, "LONGEST_WAIT_S", 0.01)
        await until(lambda: not waiting(worker) and set(status(queue, *behind)) == {"pending"})
        monkeypatch.setattr(slots, "LONGEST_WAIT_S", HOUR_S)
        assert {queue.job(job)["attempts"] for job in behind} == {0}
        async with start(slots=1, types=(helper,)):
            await until(lambda: set(status(queue, *behind)) == {"completed"})
        assert status(queue, long) == ["processing"] and len(helper.runs) == len(behind)
        play.go.set()
        await until(lambda: status(queue, long) == ["completed"])
    assert queue.job(long)["claims"] == 1
    assert {queue.job(job)["attempts"] for job in behind} == {1}
    (line,) = queue.history(held[0])
    assert (line["outcome"], line["error_class"]) == ("released", None)
    assert line["error_message"].startswith("claimed ahead, but")


async def test_a_drain_hands_back_what_waits_at_once(
    start: Start, queue: Queue, play: Play, greedy: None
) -> None:
    async with start(slots=1) as worker:
        long, behind = await until_jobs_wait_behind_one(queue, play, worker)
        worker.drain()
        await until(lambda: set(status(queue, *behind)) == {"pending"})
        assert {queue.job(job)["attempts"] for job in behind} == {0}
        assert play.active == 1 and status(queue, long) == ["processing"]
        play.go.set()
        await until(lambda: queue.value("select state from dreamcut_workers") == "stopped")
    assert status(queue, long) == ["completed"]
    assert not any(name.startswith("behind") for name in play.runs)


async def test_a_job_that_is_cancelled_while_it_waits_does_not_run(
    start: Start, queue: Queue, play: Play, greedy: None
) -> None:
    async with start(slots=1) as worker:
        await until_jobs_wait_behind_one(queue, play, worker)
        cancelled = waiting(worker)[0]
        queue.cancel(cancelled)
        await until(lambda: cancelled not in waiting(worker))
        play.go.set()
        await until(lambda: queue.value(ENDED) == 221)
    assert status(queue, cancelled) == ["cancelled"]
    assert queue.job(cancelled)["job_id"] not in play.runs
    assert worker.counts["completed"] == 220 and "refused" not in worker.counts


async def test_a_job_that_is_released_while_it_waits_runs_once(
    start: Start, queue: Queue, play: Play, greedy: None
) -> None:
    async with start(slots=1) as worker:
        await until_jobs_wait_behind_one(queue, play, worker)
        lane = worker._slots.lanes["work"].waiting
        entry, released = lane[-1], lane[-1].job.id
        queue.release(released)
        await until(lambda: entry not in lane)  # it may be there under its next claim
        play.go.set()
        await until(lambda: completed(queue) == 221)
    assert play.runs.count(queue.job(released)["job_id"]) == 1
    assert queue.job(released)["attempts"] == 1


async def test_a_lost_lease_drops_what_waits_and_each_of_them_runs_once(
    start: Start, queue: Queue, play: Play, greedy: None
) -> None:
    async with start(slots=1) as worker:
        long, _ = await until_jobs_wait_behind_one(queue, play, worker)
        first = queue.job(long)["worker_id"]
        with queue.connection.transaction():
            queue.expire(first)
            rescued = {row["id"] for row in queue.rescue()}
            queue.run(
                "update dreamcut_jobs set next_retry_at = 'infinity' where id = any (%s)", list(rescued)
            )
        assert long in rescued and len(rescued) > 1
        await until(lambda: play.ended[-1] == "long1" and not waiting(worker))
        play.go.set()
        queue.come_due()
        await until(lambda: completed(queue) == 221)
    runs = Counter(play.runs)
    assert runs.pop("long1") == 2 and set(runs.values()) == {1}
    assert {queue.job(job)["attempts"] for job in rescued} == {1}
    assert first != worker._lease.worker


async def test_a_more_urgent_job_of_which_nobody_tells_starts_before_the_deep_queue_is_drained(
    start: Start, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claims go on from the last place; now and then one begins with the most urgent."""
    monkeypatch.setattr(slots, "AT_ONCE_S", HOUR_S)  # a job that took longer is a reason to begin there, too
    monkeypatch.setattr(claiming, "RESCAN_SHARE", 1)  # where claims take long, it would be seldom
    fill(queue, 15000, do("quick"))
    async with start(slots=2, poll_interval=HOUR_S) as worker:
        await until(worker._hears)  # until then each outcome is a reason to begin there
        await until(lambda: completed(queue) > 100)
        # As a notification that is lost with its connection: no trigger speaks.
        queue.run("set session_replication_role = replica")
        urgent = queue.add(None, "urgent", payload=do("quick"), priority=20)
        queue.run("set session_replication_role = origin")
        await until(lambda: status(queue, urgent) == ["completed"])
        assert worker.is_running()
        left = queue.value("select count(*) from dreamcut_jobs where ready")
    assert left > 0, "it was found only when there was nothing else"


async def test_without_that_it_would_be_the_last(
    start: Start, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "AT_ONCE_S", HOUR_S)
    monkeypatch.setattr(claiming, "RESCAN_S", HOUR_S)
    fill(queue, 3000, do("quick"))
    async with start(slots=2, poll_interval=HOUR_S) as worker:
        await until(worker._hears)
        await until(lambda: completed(queue) > 50)
        queue.run("set session_replication_role = replica")
        urgent = queue.add(None, "urgent", payload=do("quick"), priority=20)
        queue.run("set session_replication_role = origin")
        await until(lambda: status(queue, urgent) == ["completed"])
        assert queue.value("select count(*) from dreamcut_jobs where ready") == 0


async def test_a_worker_whose_outcomes_wait_claims_no_more(
    start: Start, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claims are quicker than outcomes: else what is done and not written would fill the memory."""
    monkeypatch.setattr(outbox, "LARGEST_BATCH", 50)
    monkeypatch.setattr(slots, "LARGEST_CLAIM", 100)
    may_write = anyio.Event()
    write = Store.write

    async def held_up(self: Store, *given: Any) -> Any:
        await may_write.wait()
        return await write(self, *given)

    monkeypatch.setattr(Store, "write", held_up)
    fill(queue, 3000, do("quick"))
    async with start(slots=20) as worker:
        await until(lambda: worker._claim_loop._waits_for_outbox)
        claimed = queue.value("select count(*) from dreamcut_jobs where status = 'processing'")
        assert 100 < claimed < 1000
        may_write.set()
        await until(lambda: completed(queue) == 3000)
    assert queue.value("select max(claims) from dreamcut_jobs") == 1
