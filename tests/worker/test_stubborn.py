"""A job that blocks a thread, and cannot be stopped, holds up nobody: what else there is to do is done."""

from __future__ import annotations

import logging
import threading
from typing import Any

import anyio
import anyio.to_thread
import pytest

from dreamcuts.jobs.base import JobContext, Result
from dreamcuts.worker import ending
from tests.support import DEADLINE_S, Queue, until
from tests.worker.conftest import Start
from tests.worker.play import Play, PlayPayload
from tests.worker.test_running import do, status

pytestmark = pytest.mark.anyio

LEAVING = "select state, lease_expires_at <= now() as is_over from dreamcut_workers"


class Stubborn(Play):
    """`free` ends the thread, at the end of the test."""

    def __init__(self) -> None:
        super().__init__()
        self.free = threading.Event()

    async def _thread(self, ctx: JobContext, payload: PlayPayload) -> Result:
        await anyio.to_thread.run_sync(self.free.wait, DEADLINE_S)
        return Result()


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "STOP_GRACE_S", 1.0)
    monkeypatch.setattr(ending, "LAST_GRACE_S", 0.5)


@pytest.mark.parametrize("how", ["told twice", "the timeout is over"])
async def test_the_process_is_ended_after_everything_else_is_written(
    start: Start, queue: Queue, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    play = Stubborn()
    stuck = queue.add(None, "stuck", payload=do("thread"), max_attempts=3)
    waiting = queue.add(None, "waiting", payload=do("wait"), max_attempts=1)
    late = queue.add(None, "late", payload=do("ignore_cancel"))
    seen: list[tuple[dict[str, Any], list[str]]] = []

    def end_process() -> None:
        seen.append((queue.row(LEAVING), status(queue, stuck, waiting, late)))
        # In its place, the process would be gone now: whoever is next rescues the job.
        assert [row["id"] for row in queue.rescue()] == [stuck]
        play.free.set()

    try:
        timeout = 20.0 if how == "told twice" else 0.1
        async with start(types=(play,), end_process=end_process, shutdown_timeout=timeout) as worker:
            await until(lambda: play.active == 3)
            worker.drain()
            if how == "told twice":
                worker.drain()
            with anyio.fail_after(10):
                await until(lambda: seen)
    finally:
        play.free.set()
    ((row, states),) = seen
    assert row["is_over"] is True and row["state"] != "stopped"
    assert states == ["processing", "pending", "completed"]
    assert queue.job(waiting)["attempts"] == 0
    said = [line.getMessage() for line in caplog.records if line.levelno >= logging.ERROR]
    assert said == ["Jobs do not stop and will be rescued: stuck"]


async def test_no_heartbeat_takes_the_lease_again_that_was_given_up(start: Start, queue: Queue) -> None:
    """While the process is about to end, its loops still turn."""
    play = Stubborn()
    queue.add(None, payload=do("thread"))
    ended = anyio.Event()
    try:
        async with start(types=(play,), end_process=ended.set) as worker:
            await until(lambda: play.active == 1)
            worker.drain()
            worker.drain()
            await ended.wait()
            worker._lease.beat_soon()
            with anyio.move_on_after(0.5):
                await until(lambda: not queue.row(LEAVING)["is_over"])
                pytest.fail("it lives on")
            play.free.set()
    finally:
        play.free.set()


async def test_a_process_whose_jobs_stop_is_not_ended(start: Start, queue: Queue, play: Play) -> None:
    ended: list[bool] = []
    queue.add(None, payload=do("wait"))
    async with start(end_process=lambda: ended.append(True)):
        await until(lambda: play.active == 1)
    assert ended == [] and queue.value("select state from dreamcut_workers") == "stopped"
