"""A worker that is paused around its request to a provider (SIGSTOP, a machine that swaps, a frozen VM).

The other workers see a lease that ran out, and one of them takes the job over. What the paused one still does
when it goes on is the question; the sandbox's own count of bills is the answer.
"""

from __future__ import annotations

import signal

import pytest

from dreamcuts.sandbox import Sandbox
from tests.chaos.kill_points import LOCK_CALLS, POLL_S, Stage, locked
from tests.chaos.machine import StartWorker, WorkerProcess
from tests.chaos.plan import SUBMIT
from tests.support import Queue, wait_until

LEASE_S = "4"


@pytest.fixture
def there(start_worker: StartWorker, queue: Queue, database: str, sandbox: Sandbox) -> Stage:
    """With a lease that runs out while a worker is paused, and not for less."""
    return Stage(
        database,
        queue,
        sandbox,
        "fal",
        lambda slots: start_worker(slots, PROVIDER_POLL_S=POLL_S["fal"], LEASE_S=LEASE_S),
    )


def come_back(ghost: WorkerProcess, queue: Queue) -> None:
    """Let the paused worker go on, until it has heard that it is lost and has nothing left to do."""
    ghost.send(signal.SIGCONT)
    ghost.wait_for("lost its lease")
    wait_until(lambda: ghost.text().count("serves") >= 2, "the ghost to come back as a new incarnation")
    assert ghost.stop() == 0


@pytest.mark.parametrize("when", ["the call waits for a lock", "the call's answer is on its way"])
def test_paused_before_the_request_is_sent(there: Stage, queue: Queue, database: str, when: str) -> None:
    """Paid once: the fence refuses a late call, and our own clock one whose answer waited for us."""
    with locked(database, LOCK_CALLS) as holder:
        ghost = there.worker()
        job = there.add()
        there.wait_for_a_lock("begin_call")
        ghost.send(signal.SIGSTOP)
        if "answer" in when:
            holder.rollback()
            wait_until(lambda: there.calls(job) == ["intent"], "the call to be admitted")
        else:
            queue.expire(queue.job(job)["worker_id"])
            wait_until(lambda: queue.rescue(), "the rescue")
    row = there.finish(there.worker(), job)
    come_back(ghost, queue)
    assert queue.job(job) == row
    assert there.submits() == 1
    assert there.bills(job) == 1


def test_paused_while_the_request_is_under_way(there: Stage, queue: Queue) -> None:
    """The window that remains, as for a kill: paid twice, and the ledger knows the id of the lost request."""
    there.sandbox.fail("delay", provider="fal", pattern=SUBMIT, seconds=0.5)
    ghost = there.worker()
    job = there.add()
    there.wait_for_a_request("fal", SUBMIT)
    ghost.send(signal.SIGSTOP)
    row = there.finish(there.worker(), job)
    ghost.send(signal.SIGCONT)
    wait_until(lambda: all(id_ for id_ in request_ids(queue)), "the lost request's id")
    come_back(ghost, queue)
    assert queue.job(job) == row
    assert there.bills(job) == 2
    assert there.calls(job) == ["unknown", "succeeded"]
    assert len(set(request_ids(queue))) == 2


def request_ids(queue: Queue) -> list[str | None]:
    return [row["request_id"] for row in queue.rows("select request_id from dreamcut_provider_calls")]
