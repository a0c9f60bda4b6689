"""Answers of the database that are lost, late or not what the worker hoped for."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any
from uuid import UUID

import anyio
import psycopg
import pytest

from dreamcuts.jobs.base import Job
from dreamcuts.queue import outbox
from dreamcuts.queue.models import Heartbeat, Outcome, Settled
from dreamcuts.queue.store import Store
from dreamcuts.worker import maintenance
from tests.support import Queue, until
from tests.worker.conftest import Start
from tests.worker.play import Play
from tests.worker.test_locks import WAITING
from tests.worker.test_running import do, status

pytestmark = pytest.mark.anyio

REFUSE = """
    create sequence refusals;
    create function refuse() returns trigger language plpgsql as $$
    begin
        if new.status = 'completed' and new.job_id = 'refused' and nextval('refusals') <= {times} then
            raise exception 'not now' using errcode = '{sqlstate}';
        end if;
        return new;
    end $$;
    create trigger refuse before update on dreamcut_jobs for each row execute function refuse();
"""


async def test_a_registration_whose_answer_is_lost_is_repeated_and_the_worker_works(
    start: Start, queue: Queue, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    register, asked = Store.register, []

    async def unanswered(self: Store, worker: UUID, *rest: Any) -> Any:
        asked.append(worker)
        answer = await register(self, worker, *rest)
        if len(asked) == 2:
            raise ConnectionResetError("no answer")
        return answer

    monkeypatch.setattr(Store, "register", unanswered)
    async with start() as worker:
        await until(lambda: queue.value("select count(*) from dreamcut_workers") == 1)
        queue.run("update dreamcut_workers set state = 'lost'")
        await until(lambda: len(asked) == 3)
        job = queue.add(None)
        await until(lambda: status(queue, job) == ["completed"])
        assert asked[1] == asked[2] == worker._lease.worker
    states = {row["id"]: row["state"] for row in queue.rows("select id, state from dreamcut_workers")}
    assert states == {asked[0]: "lost", asked[1]: "stopped"}


async def test_an_incarnation_lost_between_two_registrations_comes_back_as_another(
    start: Start, queue: Queue, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    register, asked = Store.register, []

    async def lost(self: Store, worker: UUID, *rest: Any) -> Any:
        asked.append(worker)
        answer = await register(self, worker, *rest)
        if len(asked) == 2:
            queue.run("update dreamcut_workers set state = 'lost' where id = %s", worker)
            raise ConnectionResetError("no answer")
        return answer

    monkeypatch.setattr(Store, "register", lost)
    async with start():
        await until(lambda: queue.value("select count(*) from dreamcut_workers") == 1)
        queue.run("update dreamcut_workers set state = 'lost'")
        job = queue.add(None)
        await until(lambda: status(queue, job) == ["completed"])
        assert asked[1] == asked[2] != asked[3]
        assert queue.job(job)["worker_id"] == asked[3]
    states = {row["id"]: row["state"] for row in queue.rows("select id, state from dreamcut_workers")}
    assert states == {asked[0]: "lost", asked[1]: "lost", asked[3]: "stopped"}


async def test_the_lease_counts_from_when_the_heartbeat_was_sent(
    start: Start, queue: Queue, database: str
) -> None:
    async with start() as worker:
        await until(lambda: queue.value("select count(*) from dreamcut_workers") == 1)
        with psycopg.connect(database) as holder:
            holder.execute("select from dreamcut_workers for no key update")
            await until(lambda: queue.value(WAITING, "%beat(%") == 1)
            before, blocked = worker._lease.last_beat, time.monotonic()
            holder.rollback()
        await until(lambda: worker._lease.last_beat > before)
        first = worker._lease.last_beat
        assert before < first < blocked


async def test_a_registration_counts_from_when_it_was_sent(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    register = Store.register
    written, answer = anyio.Event(), anyio.Event()

    async def slow(self: Store, *given: Any) -> Any:
        slots = await register(self, *given)
        written.set()
        await answer.wait()
        return slots

    monkeypatch.setattr(Store, "register", slow)
    async with start(heartbeat=3600) as worker:
        await written.wait()
        asked = time.monotonic()
        answer.set()
        await worker.wait_registered()
        assert worker._lease.last_beat < asked


async def test_a_claim_that_is_answered_after_the_lease_is_over_is_handed_back(
    start: Start, queue: Queue, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claimed while the heartbeats do not get through; the answer comes when others may have the job."""
    claim, heartbeat = Store.claim, Store.heartbeat
    suspended, back = anyio.Event(), anyio.Event()
    job = queue.add(None, "a", payload=do("wait"), max_attempts=1)

    async def late(self: Store, worker: UUID, *rest: Any, **more: Any) -> list[Job]:
        claimed = await claim(self, worker, *rest, **more)
        await suspended.wait()
        return claimed

    async def unanswered(
        self: Store, worker: UUID, lease: timedelta, *, draining: bool, held: list[Job]
    ) -> Heartbeat:
        if not back.is_set():
            raise ConnectionResetError("no answer")
        return await heartbeat(self, worker, lease, draining=draining, held=held)

    monkeypatch.setattr(Store, "claim", late)
    monkeypatch.setattr(Store, "heartbeat", unanswered)
    async with start(lease=0.5) as worker:
        await until(lambda: status(queue, job) == ["processing"])
        await until(lambda: worker._lease.is_suspended)
        suspended.set()
        await until(lambda: status(queue, job) == ["pending"])
        assert play.active == 0 and queue.job(job)["attempts"] == 0
        back.set()
        await until(lambda: play.active == 1)
        play.go.set()
        await until(lambda: status(queue, job) == ["completed"])
    # The short lease may have run out once more meanwhile: that costs claims, and no attempt.
    assert queue.job(job)["attempts"] == 1 and queue.job(job)["claims"] >= 2


async def test_a_result_whose_answer_is_lost_counts_as_written(
    start: Start, queue: Queue, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Store.write
    lost: list[int] = []
    jobs = [queue.add(None, name, payload=do("quick")) for name in "ab"]

    async def unanswered(self: Store, worker: UUID, outcomes: list[Outcome]) -> list[Settled]:
        settled = await write(self, worker, outcomes)
        if not lost:
            lost.append(len(settled))
            raise ConnectionResetError("no answer")
        return settled

    monkeypatch.setattr(Store, "write", unanswered)
    async with start() as worker:
        await until(lambda: sum(worker.counts.values()) == 2)
    assert lost and worker.counts == {"completed": 2}
    assert {queue.job(job)["claims"] for job in jobs} == {1}


@pytest.mark.parametrize("sqlstate", ["XX000", "42883", "0A000"])
async def test_an_error_that_is_not_the_outcome_s_is_tried_again(
    start: Start, queue: Queue, play: Play, sqlstate: str
) -> None:
    queue.run(REFUSE.format(times=2, sqlstate=sqlstate))
    jobs = [queue.add(None, name, payload=do("quick")) for name in ("refused", "other")]
    async with start() as worker:
        await until(lambda: status(queue, *jobs) == ["completed"] * 2)
        await until(lambda: worker.counts == {"completed": 2})
    assert {queue.job(job)["claims"] for job in jobs} == {1}
    assert queue.job(jobs[0])["result"] == {"attempt": 1}
    assert queue.value("select last_value from refusals") == 3


@pytest.mark.parametrize("sqlstate", ["22P02", "23514", "54000"])
async def test_a_value_that_cannot_be_stored_fails_its_job_alone(
    start: Start, queue: Queue, play: Play, sqlstate: str
) -> None:
    queue.run(REFUSE.format(times=1000, sqlstate=sqlstate))
    jobs = [queue.add(None, name, payload=do("wait"), max_attempts=1) for name in ("refused", "b", "c")]
    async with start():
        await until(lambda: play.active == 3)
        play.go.set()
        await until(lambda: status(queue, *jobs) == ["failed", "completed", "completed"])
    row = queue.job(jobs[0])
    assert row["error_class"] == "bug" and "not now" in row["error_message"]
    assert queue.value("select last_value from refusals") == 2  # in the batch, and alone


async def test_an_error_that_does_not_pass_fails_the_job_after_some_tries(
    start: Start, queue: Queue, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "retry_delay", lambda _tries: 0.01)
    queue.run(REFUSE.format(times=1000, sqlstate="XX000"))
    jobs = [queue.add(None, name, payload=do("wait"), max_attempts=1) for name in ("refused", "b")]
    async with start():
        await until(lambda: play.active == 2)
        play.go.set()
        await until(lambda: status(queue, *jobs) == ["failed", "completed"])
    assert queue.job(jobs[0])["error_class"] == "bug"


async def test_a_stray_is_found_and_run(
    start: Start, queue: Queue, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processing under an incarnation that has stopped: no rescue looks for it."""
    monkeypatch.setattr(maintenance, "STRAYS_EVERY_S", 0.2)
    job = queue.add(None, payload=do("quick"), max_attempts=1)
    stopped = queue.worker()
    queue.claim_one(stopped)
    queue.run("update dreamcut_workers set state = 'stopped' where id = %s", stopped)
    async with start():
        await until(lambda: status(queue, job) == ["completed"])
    assert (queue.job(job)["attempts"], queue.job(job)["claims"]) == (1, 2)
