"""A worker that is paused around its request to a provider (SIGSTOP, a machine that swaps, a frozen VM).

The other workers see a lease that ran out, and one of them takes the job over. What the paused one still does
when it goes on is the question; the sandbox's own count of bills is the answer.
"""

from __future__ import annotations

import signal
from uuid import UUID

import pytest

from dreamcuts.sandbox import Sandbox
from tests.chaos.machine import StartWorker, WorkerProcess
from tests.chaos.plan import SUBMIT
from tests.chaos.test_kill_points import IMAGES, calls, finish, job, locked, requests, waits_for_a_lock
from tests.support import Queue, wait_until

__all__ = ["job"]  # the fixture

CALLS_LOCKED = "lock table dreamcut_provider_calls in share row exclusive mode"


def come_back(ghost: WorkerProcess, queue: Queue) -> None:
    """Let the paused worker go on, until it has heard that it is lost and has nothing left to do."""
    ghost.send(signal.SIGCONT)
    ghost.wait_for("lost its lease")
    wait_until(lambda: ghost.text().count("serves") == 2, "the ghost to come back as a new incarnation")
    assert ghost.stop() == 0


@pytest.mark.parametrize("when", ["the call waits for a lock", "the call's answer is on its way"])
def test_paused_before_the_request_is_sent(
    start_worker: StartWorker, queue: Queue, database: str, job: UUID, sandbox: Sandbox, when: str
) -> None:
    """Paid once: the fence refuses a late call, and our own clock one whose answer waited for us."""
    with locked(database, CALLS_LOCKED) as holder:
        ghost = start_worker(IMAGES)
        wait_until(lambda: waits_for_a_lock(queue, "begin_call"), "the worker to begin its call")
        ghost.send(signal.SIGSTOP)
        if "answer" in when:
            holder.rollback()
            wait_until(lambda: calls(queue) == ["intent"], "the call to be admitted")
        else:
            queue.expire(queue.job(job)["worker_id"])
            wait_until(lambda: queue.rescue(), "the rescue")
    row = finish(start_worker, queue, job)
    come_back(ghost, queue)
    assert queue.job(job) == row
    assert requests(sandbox, "fal", SUBMIT) == 1
    assert len(sandbox.bills()) == 1


def test_paused_while_the_request_is_under_way(
    start_worker: StartWorker, queue: Queue, job: UUID, sandbox: Sandbox
) -> None:
    """The window that remains, as for a kill: paid twice, and the ledger knows the id of the lost request."""
    sandbox.fail("delay", provider="fal", pattern=SUBMIT, seconds=0.5)
    ghost = start_worker(IMAGES)
    wait_until(lambda: requests(sandbox, "fal", SUBMIT), "the submit")
    ghost.send(signal.SIGSTOP)
    row = finish(start_worker, queue, job)
    ghost.send(signal.SIGCONT)
    wait_until(lambda: all(id_ for id_ in request_ids(queue)), "the lost request's id")
    come_back(ghost, queue)
    assert queue.job(job) == row
    assert len(sandbox.bills()) == 2
    assert calls(queue) == ["unknown", "succeeded"]
    assert len(set(request_ids(queue))) == 2


def request_ids(queue: Queue) -> list[str | None]:
    return [row["request_id"] for row in queue.rows("select request_id from dreamcut_provider_calls")]
