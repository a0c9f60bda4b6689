"""How a worker ends, and how its jobs are stopped: none is lost, none runs twice, no attempt is used up."""

from __future__ import annotations

import anyio
import pytest

from tests.support import Queue, until
from tests.worker.conftest import Start, until_listening
from tests.worker.play import Play
from tests.worker.test_running import do, status

pytestmark = pytest.mark.anyio

SUBMITTED = "select count(*) from dreamcut_provider_calls where request_id is not null"


async def test_a_draining_worker_lets_its_jobs_finish_and_claims_no_more(
    start: Start, queue: Queue, play: Play
) -> None:
    running = queue.add(None, payload=do("wait"))
    async with start(slots=1) as worker:
        await until(lambda: play.active == 1)
        worker.drain()
        later = queue.add(None)
        await until(lambda: queue.value("select state from dreamcut_workers") == "draining")
        play.go.set()
        await until(lambda: queue.value("select state from dreamcut_workers") == "stopped")
    assert status(queue, running, later) == ["completed", "pending"]


async def test_a_second_drain_hands_back_at_once_and_unharmed(start: Start, queue: Queue, play: Play) -> None:
    job = queue.add(None, payload=do("wait"), max_attempts=1)
    async with start() as worker:
        await until(lambda: play.active == 1)
        worker.drain()
        worker.drain()
        await until(lambda: queue.value("select state from dreamcut_workers") == "stopped")
    row = queue.job(job)
    assert (row["status"], row["attempts"], row["claims"], row["ready"]) == ("pending", 0, 1, True)
    (line,) = queue.history(job)
    assert (line["outcome"], line["error_message"]) == ("released", "handed back by a worker that stopped")


async def test_when_the_shutdown_timeout_is_over_jobs_are_handed_back(
    start: Start, queue: Queue, play: Play
) -> None:
    job = queue.add(None, payload=do("wait"), max_attempts=1)
    async with start(shutdown_timeout=0.05) as worker:
        await until(lambda: play.active == 1)
        worker.drain()
        await until(lambda: queue.value("select state from dreamcut_workers") == "stopped")
    assert (queue.job(job)["status"], queue.job(job)["attempts"]) == ("pending", 0)


async def test_a_job_that_turns_a_stop_into_a_result_is_not_lost(
    start: Start, queue: Queue, play: Play
) -> None:
    job = queue.add(None, payload=do("ignore_cancel"))
    async with start():
        await until(lambda: play.active == 1)
    assert status(queue, job) == ["completed"]


async def test_a_cancelled_job_is_stopped_at_once_and_its_result_dropped(
    start: Start, queue: Queue, play: Play
) -> None:
    stopped = queue.add(None, "stopped", payload=do("wait"))
    stubborn = queue.add(None, "stubborn", payload=do("ignore_cancel"))
    async with start(heartbeat=3600) as worker:
        await until_listening(queue)
        await until(lambda: play.active == 2)
        queue.cancel(stopped, stubborn)
        await until(lambda: sorted(play.ended) == ["stopped", "stubborn"])
        await until(lambda: worker.counts.get("refused") == 1)
    assert status(queue, stopped, stubborn) == ["cancelled", "cancelled"]
    assert queue.job(stubborn)["result"] is None


async def test_the_open_call_of_a_cancelled_job_is_cancelled_too(
    start: Start, queue: Queue, play: Play
) -> None:
    job = queue.add(None, payload=do("paid"))
    async with start():
        await until(lambda: queue.value(SUBMITTED) == 1)
        queue.cancel(job)
        await until(lambda: queue.value("select status from dreamcut_provider_calls") != "submitted")
    row = queue.row("select status, error from dreamcut_provider_calls")
    # The provider of this call is not known here, so whether it was billed is not known either.
    assert row["status"] == "unknown" and "no_such_provider" in row["error"]


@pytest.mark.parametrize("how", ["drain", "release"])
async def test_the_open_call_of_a_job_that_goes_back_stays_open(
    start: Start, queue: Queue, play: Play, how: str
) -> None:
    job = queue.add(None, payload=do("paid"))
    async with start():
        await until(lambda: queue.value(SUBMITTED) == 1)
        if how == "release":
            with queue.connection.transaction():  # and nobody claims it again
                queue.release(job)
                queue.run("update dreamcut_jobs set next_retry_at = 'infinity' where id = %s", job)
            await until(lambda: play.ended)
    assert queue.value("select status from dreamcut_provider_calls") == "submitted"


async def test_a_released_job_is_stopped_and_run_again_by_whoever_is_free(
    start: Start, queue: Queue, play: Play
) -> None:
    job = queue.add(None, "a", payload=do("wait"), max_attempts=1)
    async with start():
        await until(lambda: play.active == 1)
        queue.release(job)
        await until(lambda: play.runs == ["a", "a"] and play.ended == ["a"])
        play.go.set()
        await until(lambda: status(queue, job) == ["completed"])
    assert (queue.job(job)["attempts"], queue.job(job)["claims"]) == (1, 2)


async def test_an_idle_worker_stops_without_waiting_for_its_poll(start: Start) -> None:
    with anyio.fail_after(20):
        async with start(poll_interval=3600, heartbeat=3600) as worker:
            await worker.wait_registered()
