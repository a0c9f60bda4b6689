"""Nothing is paid twice, when the database, the worker or an answer goes away at the worst moment.

Real workers and the real fal client against the sandbox, which counts what was asked and what was billed.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import anyio
import asyncpg
import psycopg
import pytest
from psycopg.types.json import Jsonb

from dreamcuts.config import Settings
from dreamcuts.db.pool import open_pool
from dreamcuts.errors import ErrorClass, StorageError
from dreamcuts.jobs import paid, queued
from dreamcuts.jobs.registry import load_job_types
from dreamcuts.providers.base import Done, Ticket
from dreamcuts.queue.outbox import Outbox
from dreamcuts.queue.store import Store
from dreamcuts.sandbox import Sandbox
from dreamcuts.storage.base import Asset
from dreamcuts.storage.local import LocalStorage
from dreamcuts.storage.paths import StorageFailed
from dreamcuts.worker import context
from dreamcuts.worker.tickets import Tickets
from dreamcuts.worker.tools import Tools, tools_from
from dreamcuts.worker.worker import Worker, WorkerOptions
from tests.money.conftest import Ledger
from tests.support import Held, until
from tests.worker.test_lease import KILL

pytestmark = pytest.mark.anyio

SRPO = "fal-ai/flux/srpo"
IMAGE = {"prompt": "A small lighthouse", "model": "flux-srpo", "imageSize": "square"}
Work = Callable[..., Worker]


@pytest.fixture
def ledger(connection: psycopg.Connection[Any]) -> Ledger:
    return Ledger(connection)


@pytest.fixture
def settings(sandbox: Sandbox) -> Settings:
    environment = {name.lower(): value for name, value in sandbox.environment().items()}
    sandbox.options.fal_queue_seconds = 0.05
    return Settings.load(**environment, provider_poll_s=0.05, retry_delay_ms=0)


@pytest.fixture
def work(database: str, settings: Settings) -> Work:
    """`work(image=1, lease=0.5)`: a worker for these types, by short name, against the sandbox."""

    def make(lease: float = 30, heartbeat: float = 0.1, **slots: int) -> Worker:
        types = {job_type.short_name: job_type for job_type in load_job_types().values()}
        options = WorkerOptions(
            slots={types[name].name: number for name, number in slots.items()},
            poll_interval=0.05,
            heartbeat=heartbeat,
            lease=lease,
            shutdown_timeout=0,
        )
        return Worker(database, load_job_types(), options, tools_from(settings))

    return make


@pytest.fixture
async def store(database: str) -> AsyncIterator[Store]:
    pool = await open_pool(database, size=2)
    yield Store(pool)
    await pool.close()


@pytest.fixture
async def tools(store: Store, settings: Settings) -> AsyncIterator[Tools]:
    async with tools_from(settings)(store) as made:
        yield made


@contextmanager
def closed(database: str, ledger: Ledger) -> Any:
    """Close the database to everybody for the block; the test's own connection stays."""
    server, name = database.rsplit("/", 1)
    with psycopg.connect(f"{server}/postgres", autocommit=True) as outside:
        outside.execute(f'alter database "{name}" allow_connections false')
        try:
            ledger.rows(KILL)
            yield
        finally:
            outside.execute(f'alter database "{name}" allow_connections true')


def posts(sandbox: Sandbox) -> int:
    return len(sandbox.requests.entries("fal", "POST"))


def image(ledger: Ledger, **payload: Any) -> UUID:
    return ledger.add(None, type="gen_image_falai", payload=Jsonb({**IMAGE, **payload}))


def calls_of(ledger: Ledger, job: UUID) -> list[dict[str, Any]]:
    return ledger.rows("select * from dreamcut_provider_calls where job = %s order by created_at", job)


async def completed(ledger: Ledger, job: UUID) -> None:
    await until(lambda: ledger.job(job)["status"] == "completed")


# The ticket, in an outage


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
    sandbox.fail("delay", provider="fal", method="POST", seconds=0.5)
    sandbox.options.fal_queue_seconds = 0.5
    job = image(ledger)
    worker = work(image=1, lease=1.5)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await until(lambda: posts(sandbox) == 1)
        with closed(database, ledger):
            await until(lambda: "is accepted, but cannot be stored yet" in caplog.text)
            await until(lambda: worker._suspended)
            await until(lambda: _stopped(worker, job))
        await completed(ledger, job)
        worker.drain()
    [call] = calls_of(ledger, job)
    assert call["status"] == "succeeded" and call["request_id"] in caplog.text
    assert posts(sandbox) == 1 and len(sandbox.bills("fal")) == 1
    assert ledger.job(job)["claims"] == 2


def _stopped(worker: Worker, job: UUID) -> bool:
    """The attempt has been told to stop and its job's code has ended, whether or not its outcome waits."""
    attempt = worker._attempts.get(job)
    return attempt is None or attempt._scope.cancelled_caught


async def test_an_open_call_is_seen_with_a_ticket_that_is_on_its_way(
    ledger: Ledger, database: str, store: Store
) -> None:
    from dreamcuts.worker.calls import StoredCalls
    from tests.money.test_waiting import as_job

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


# The outcome that was lost after the call succeeded


async def finished_call(ledger: Ledger, tools: Tools, **payload: Any) -> tuple[UUID, UUID]:
    """A job whose worker died between its call's success and its own: the job, the call."""
    body: dict[str, Any] = {}
    worker, (held,) = ledger.held(1, type="gen_image_falai", payload=Jsonb({**IMAGE, **payload}))
    call = ledger.begin(worker, held, endpoint=SRPO)
    body = await _body_of(tools, held)
    ledger.run("update dreamcut_provider_calls set request = %s where id = %s", Jsonb(body), call)
    fal: Any = tools.providers.get("fal")
    ticket: Ticket = await fal.submit(SRPO, body)
    ledger.run("select dreamcut_submitted_call(%s, %s, %s)", call, ticket.request_id, Jsonb(ticket.detail))
    with anyio.fail_after(20):
        while not isinstance(await fal.poll(SRPO, ticket), Done):
            await anyio.sleep(0.02)
    ledger.close(call, usd=0.01)
    ledger.expire(worker)
    ledger.rescue()
    ledger.come_due()
    return held.id, call


async def _body_of(tools: Tools, held: Held) -> dict[str, Any]:
    """What the job type sends for IMAGE: taken from a job that ran."""
    return {
        "prompt": IMAGE["prompt"],
        "image_size": "square",
        "num_images": 1,
        "output_format": "png",
    }
