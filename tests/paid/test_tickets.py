"""A ticket, what a provider gave for money, outlives an outage, its attempt, and a drain."""

from __future__ import annotations

from uuid import UUID

import anyio
import asyncpg
import psycopg
import pytest

from dreamcuts.jobs import queued
from dreamcuts.providers.base import Ticket
from dreamcuts.queue.store import Store
from dreamcuts.sandbox import Sandbox
from dreamcuts.worker.calls import StoredCalls
from dreamcuts.worker.tickets import Tickets
from dreamcuts.worker.worker import Worker
from tests.money.conftest import Ledger
from tests.money.test_waiting import as_job
from tests.paid.conftest import SRPO, Work, beats, calls_of, closed, completed, image, posts
from tests.support import until

pytestmark = pytest.mark.anyio


async def test_a_ticket_outlives_an_outage_and_its_attempt(
    ledger: Ledger,
    sandbox: Sandbox,
    work: Work,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """fal accepts, the database is away, the lease runs out: the job comes back and knows what it paid."""
    monkeypatch.setattr(queued, "SUBMIT_GRACE_S", 0.0)
    sandbox.fail("hold", provider="fal", method="POST")
    sandbox.options.fal_queue_seconds = 0.5
    job = image(ledger)
    worker = work(image=1, lease=1.5)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await until(lambda: posts(sandbox) == 1)
        with closed(database, ledger):
            sandbox.faults.clear()
            await until(lambda: "is accepted, but cannot be stored yet" in caplog.text)
            await until(lambda: worker._lease.is_suspended)
            await until(lambda: _stopped(worker, job))
        await completed(ledger, job)
        worker.drain()
    [call] = calls_of(ledger, job)
    assert call["status"] == "succeeded" and call["request_id"] in caplog.text
    assert posts(sandbox) == 1 and len(sandbox.bills("fal")) == 1
    assert ledger.job(job)["claims"] >= 2  # more, if the machine slept for a lease


def _stopped(worker: Worker, job: UUID) -> bool:
    """The attempt has been told to stop and its job's code has ended, whether or not its outcome waits."""
    attempt = worker._slots.attempts.get(job)
    return attempt is None or attempt._scope.cancelled_caught


@pytest.mark.parametrize("again", [False, True])
async def test_a_job_goes_back_when_its_ticket_is_stored_or_it_is_told_again(
    ledger: Ledger, sandbox: Sandbox, work: Work, database: str, again: bool
) -> None:
    sandbox.fail("hold", provider="fal", method="POST")
    job = image(ledger)
    worker = work(image=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await until(lambda: posts(sandbox) == 1)
        first = worker._slots.attempts[job]
        with psycopg.connect(database) as holder:
            holder.execute("select from dreamcut_provider_calls for update")
            sandbox.faults.clear()
            await until(lambda: worker._tools.tickets.of(job))
            first.stop("handed_back")
            await until(lambda: first._scope.cancelled_caught)
            if again:
                first.stop("handed_back")
                await until(lambda: ledger.job(job)["status"] == "pending" or ledger.job(job)["claims"] == 2)
                assert calls_of(ledger, job)[0]["request_id"] is None
            else:
                await beats(worker, 3)
                assert ledger.job(job)["claims"] == 1 and ledger.job(job)["status"] == "processing"
            holder.rollback()
        await completed(ledger, job)
        worker.drain()
    assert ledger.job(job)["claims"] == 2 and posts(sandbox) == 1


async def test_an_open_call_is_seen_with_a_ticket_that_is_on_its_way(
    ledger: Ledger, database: str, store: Store
) -> None:
    worker, (held,) = ledger.held(1)
    tickets = Tickets(store)
    first = StoredCalls(store, worker, as_job(held), tickets=tickets)
    call = await first.begin("fal", SRPO, request={})
    with psycopg.connect(database) as holder:
        holder.execute("select from dreamcut_provider_calls for update")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first.submitted, call, Ticket("request-1", {"a": 1}))
            await until(lambda: tickets.of(held.id))
            tasks.cancel_scope.cancel()  # the attempt is stopped
        [seen] = await StoredCalls(store, worker, as_job(held), tickets=tickets).open_calls()
        assert seen.ticket == Ticket("request-1", {"a": 1})
        [elsewhere] = await StoredCalls(store, worker, as_job(held)).open_calls()
        assert elsewhere.ticket is None
        holder.rollback()
    await tickets.stored(held.id)
    assert ledger.call(call)["request_id"] == "request-1" and tickets.of(held.id) == {}


async def test_what_cannot_be_stored_before_the_end_is_in_the_log(
    ledger: Ledger, database: str, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    worker, (held,) = ledger.held(1)
    call = ledger.begin(worker, held)
    tickets = Tickets(store)
    with closed(database, ledger):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tickets.keep, held.id, call, Ticket("request-2"))
            await until(lambda: "request-2" in caplog.text)
            tasks.cancel_scope.cancel()
        caplog.clear()
        await tickets.aclose(limit_s=0.05)
    assert f"Request request-2 of call {call} could not be stored" in caplog.text
    assert tickets.of(held.id) == {}


async def test_the_end_of_the_process_waits_for_a_ticket(ledger: Ledger, database: str, store: Store) -> None:
    worker, (held,) = ledger.held(1)
    call = ledger.begin(worker, held)
    tickets = Tickets(store)
    with psycopg.connect(database) as holder:
        holder.execute("select from dreamcut_provider_calls for update")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tickets.keep, held.id, call, Ticket("request-3"))
            await until(lambda: tickets.of(held.id))
            tasks.cancel_scope.cancel()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tickets.aclose)
            holder.rollback()
    assert ledger.call(call)["request_id"] == "request-3"


async def test_a_ticket_that_postgres_never_takes_fails_the_attempt_and_is_logged(
    ledger: Ledger, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    worker, (held,) = ledger.held(1)
    call = ledger.begin(worker, held)
    tickets = Tickets(store)
    with pytest.raises((TypeError, asyncpg.DataError)):
        await tickets.keep(held.id, call, Ticket("request-4", {"client": object()}))
    assert "request-4" in caplog.text and tickets.of(held.id) == {}
