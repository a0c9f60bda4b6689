"""A job that goes on after its time limit and heeds no cancellation costs its own slot, and nothing else."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import anyio
import anyio.to_thread
import psycopg
import pytest

from dreamcuts.jobs.base import JobContext, Result
from dreamcuts.providers.base import Ticket
from dreamcuts.worker import slots
from tests.support import DEADLINE_S, Queue, until
from tests.worker.conftest import Start
from tests.worker.play import Play, PlayPayload
from tests.worker.test_locks import WAITING
from tests.worker.test_running import do, status

pytestmark = pytest.mark.anyio

STUBBORN_S = 0.2
TICK_S = 0.02
LIMIT_S = 1.0


class Deaf(Play):
    """`free` lets its jobs end."""

    time_limit = timedelta(seconds=LIMIT_S)

    def __init__(self) -> None:
        super().__init__("deaf")
        self.free = threading.Event()

    async def _thread(self, ctx: JobContext, payload: PlayPayload) -> Result:
        await anyio.to_thread.run_sync(self.free.wait, DEADLINE_S)
        return Result(data={"late": True})

    async def _swallow(self, ctx: JobContext, payload: PlayPayload) -> Result:
        while not self.free.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                self.runs.append("swallowed")
        return Result(data={"late": True})

    async def _slow_ticket(self, ctx: JobContext, payload: PlayPayload) -> Result:
        call = await ctx.calls.begin("no_such_provider", "x", request={})
        self.runs.append("begun")
        await self.go.wait()
        await ctx.calls.submitted(call, Ticket("req-1", {}))
        return Result()


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "STUBBORN_S", STUBBORN_S)
    monkeypatch.setattr(slots, "TICK_S", TICK_S)


@pytest.fixture
def deaf() -> Iterator[Deaf]:
    job_type = Deaf()
    yield job_type
    job_type.free.set()


@pytest.mark.parametrize("how", ["thread", "swallow"])
@pytest.mark.parametrize("ends", ["never", "late"])
async def test_it_counts_as_timed_out_and_the_worker_lets_the_others_finish_and_ends(
    start: Start, queue: Queue, play: Play, deaf: Deaf, how: str, ends: str, caplog: pytest.LogCaptureFixture
) -> None:
    stuck = queue.add(None, "stuck", type="deaf", payload=do(how), max_attempts=1)
    other = queue.add(None, "other", payload=do("wait"))
    seen: list[tuple[list[str], Any]] = []

    def end_process() -> None:
        seen.append((status(queue, stuck, other), queue.value("select state from dreamcut_workers")))
        deaf.free.set()

    async with start(types=(deaf, play), end_process=end_process) as worker:
        await until(lambda: deaf.active == play.active == 1)
        await until(lambda: status(queue, stuck) == ["failed"])
        assert deaf.active == 1
        written = queue.job(stuck)
        assert (written["error_class"], written["attempts"]) == ("timed_out", 1)
        await worker.wait_draining()
        assert worker.wants_restart() and worker.worker_statuses()[0].active_jobs == 1
        later = queue.add(None, "later")
        if ends == "late":
            deaf.free.set()
            await until(lambda: deaf.active == 0)
        assert play.active == 1 and not seen  # the other one has its time
        play.go.set()
        if ends == "never":
            with anyio.fail_after(10):  # not the whole shutdown timeout: nothing is to come any more
                await until(lambda: seen)
    assert seen == ([(["failed", "completed"], "stopped")] if ends == "never" else [])
    assert queue.job(stuck) == written and len(queue.history(stuck)) == 1
    assert dict(worker.counts) == {"failed": 1, "completed": 1}
    assert status(queue, later) == ["pending"]
    (said,) = [line.getMessage() for line in caplog.records if line.levelno >= logging.ERROR]
    assert said.startswith("Job stuck goes on ") and "this worker drains and ends" in said


async def test_one_that_stops_when_told_costs_no_worker(
    start: Start, queue: Queue, play: Play, deaf: Deaf
) -> None:
    job = queue.add(None, type="deaf", payload=do("wait"), max_attempts=1)
    async with start(types=(deaf, play)) as worker:
        await until(lambda: status(queue, job) == ["failed"])
        more = queue.add(None)
        await until(lambda: status(queue, more) == ["completed"])
        assert worker.is_running() and not worker.wants_restart()
    assert queue.job(job)["error_class"] == "timed_out"


async def test_a_stop_of_the_whole_process_takes_no_job_s_time_to_end(
    start: Start, queue: Queue, deaf: Deaf
) -> None:
    """As after a laptop's sleep: the time is over for long when the worker looks, and nobody was told yet."""
    deaf.time_limit = timedelta(hours=1)
    job = queue.add(None, type="deaf", payload=do("wait"), max_attempts=1)
    async with start(types=(deaf,)) as worker:
        await until(lambda: deaf.active == 1)
        worker._slots.lanes["deaf"].limit_s = -10 * STUBBORN_S
        await until(lambda: status(queue, job) == ["failed"])
        assert worker.is_running() and not worker.wants_restart()
    assert queue.job(job)["error_class"] == "timed_out"


async def test_one_that_has_ended_and_only_waits_for_the_database_is_not_stubborn(
    start: Start, queue: Queue, deaf: Deaf, database: str
) -> None:
    """What is paid is being written down; that takes as long as the database takes."""
    deaf.time_limit = timedelta(hours=1)
    job = queue.add(None, type="deaf", payload=do("slow_ticket"), max_attempts=1)
    async with start(types=(deaf,)) as worker:
        await until(lambda: "begun" in deaf.runs)
        with psycopg.connect(database) as holder:
            holder.execute("select from dreamcut_provider_calls for update")
            deaf.go.set()
            await until(lambda: queue.value(WAITING, "%submitted_call%") == 1)
            worker._slots.lanes["deaf"].limit_s = 0.0
            await until(lambda: deaf.active == 0)  # it was told that its time is over
            told = time.monotonic()
            await until(lambda: time.monotonic() > told + STUBBORN_S + 10 * TICK_S)
            assert worker.is_running() and status(queue, job) == ["processing"]
            holder.rollback()
        await until(lambda: status(queue, job) == ["failed"])
        assert worker.is_running() and queue.job(job)["error_class"] == "timed_out"
    assert queue.value("select request_id from dreamcut_provider_calls") == "req-1"
