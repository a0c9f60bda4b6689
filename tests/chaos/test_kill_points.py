"""kill -9 at each point between claim and finish: the sandbox's own count of bills is the judge."""

from __future__ import annotations

from collections.abc import Callable
from uuid import UUID

import pytest

from dreamcuts.sandbox import Sandbox
from tests.chaos.kill_points import ALL, LEASE_S, POLL_S, POLLS, PROVIDERS, Point, Stage, kill_once
from tests.chaos.machine import StartWorker
from tests.support import Queue, wait_until


@pytest.fixture
def stage(start_worker: StartWorker, queue: Queue, database: str, sandbox: Sandbox) -> Callable[[str], Stage]:
    def of(provider: str) -> Stage:
        poll = POLL_S[provider]
        return Stage(
            database,
            queue,
            sandbox,
            provider,
            lambda slots: start_worker(slots, PROVIDER_POLL_S=poll, LEASE_S=LEASE_S),
        )

    return of


@pytest.mark.parametrize(
    ("point", "provider"),
    [pytest.param(point, provider, id=f"{provider}: {point.name}") for point, provider in ALL],
)
def test_killed_once_at_each_point(stage: Callable[[str], Stage], point: Point, provider: str) -> None:
    there = stage(provider)
    _, bills = kill_once(there, point, there.worker())
    assert bills == point.bills
    assert there.submits() == len(point.ledger)


@pytest.mark.parametrize("provider", PROVIDERS)
def test_killed_again_and_again(stage: Callable[[str], Stage], provider: str) -> None:
    """A request that takes long is picked up by worker after worker: attempts are used up, and one price."""
    there = stage(provider)
    there.sandbox.fail("hang", provider=provider, pattern=POLLS[provider], times=None)
    job = there.add()
    # The first two use up no attempt: they might have been the fault of another job.
    for claim in (1, 2, 3, 4, 5):
        worker = there.worker()
        if claim == 1:
            wait_until(lambda: there.calls(job) == ["submitted"], "the id to be stored")
        else:
            worker.wait_for("Picking up request")
        assert there.queue.job(job)["claims"] == claim
        worker.kill()
        there.expire(worker)
    wait_until(lambda: _rescued(there.queue, job), "the rescue")
    row = there.queue.job(job)
    assert (row["status"], row["error_class"], row["attempts"]) == ("failed", "stalled", 3)
    there.sandbox.faults.clear()
    there.queue.retry(job)
    there.finish(there.worker(), job)
    assert there.bills(job) == 1
    assert there.submits() == 1


@pytest.mark.parametrize("provider", PROVIDERS)
def test_killed_while_the_provider_is_at_its_limit(stage: Callable[[str], Stage], provider: str) -> None:
    """The open call takes the last place, and only the job that it belongs to can give it back."""
    there = stage(provider)
    there.queue.rows("select dreamcut_limit_provider(%s, '{\"maxConcurrent\": 1}')", provider)
    there.sandbox.fail("hang", provider=provider, pattern=POLLS[provider])
    worker = there.worker()
    job, behind = there.add(), there.add()
    there.wait_for_a_request(provider, POLLS[provider])
    worker.kill()
    there.expire(worker)
    successor = there.worker()
    there.finish(successor, job)
    there.finish(successor, behind)
    assert (there.bills(job), there.bills(behind)) == (1, 1)


def _rescued(queue: Queue, job: UUID) -> bool:
    queue.rescue()
    return bool(queue.job(job)["completed_at"])
