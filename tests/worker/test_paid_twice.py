"""Nothing is paid twice, when the database, the worker or an answer goes away at the worst moment.

Real workers and the real fal client against the sandbox, which counts what was asked and what was billed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
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
from dreamcuts.providers.base import Ticket
from dreamcuts.queue.outbox import Outbox
from dreamcuts.queue.store import Store
from dreamcuts.sandbox import Sandbox
from dreamcuts.storage import open_storage
from dreamcuts.storage.base import Asset
from dreamcuts.storage.paths import StorageFailed, unsigned
from dreamcuts.worker import context
from dreamcuts.worker.attempt import Attempt
from dreamcuts.worker.calls import StoredCalls
from dreamcuts.worker.tickets import Tickets
from dreamcuts.worker.tools import Tools, tools_from
from dreamcuts.worker.worker import Worker, WorkerOptions
from tests.money.conftest import Ledger
from tests.money.test_waiting import as_job
from tests.support import is_blocked, until
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
def closed(database: str, ledger: Ledger) -> Iterator[None]:
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


@pytest.mark.parametrize("again", [False, True])
async def test_a_job_goes_back_when_its_ticket_is_stored_or_it_is_told_again(
    ledger: Ledger, sandbox: Sandbox, work: Work, database: str, again: bool
) -> None:
    sandbox.fail("delay", provider="fal", method="POST", seconds=0.5)
    job = image(ledger)
    worker = work(image=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await until(lambda: posts(sandbox) == 1)
        first = worker._attempts[job]
        with psycopg.connect(database) as holder:
            holder.execute("select from dreamcut_provider_calls for update")
            await until(lambda: worker._tools.tickets.of(job))
            first.stop("handed_back")
            await until(lambda: first._scope.cancelled_caught)
            if again:
                first.stop("handed_back")
                await until(lambda: ledger.job(job)["status"] == "pending" or ledger.job(job)["claims"] == 2)
                assert calls_of(ledger, job)[0]["request_id"] is None
            else:
                await _beats(worker, 3)
                assert ledger.job(job)["claims"] == 1 and ledger.job(job)["status"] == "processing"
            holder.rollback()
        await completed(ledger, job)
        worker.drain()
    assert ledger.job(job)["claims"] == 2 and posts(sandbox) == 1


async def _beats(worker: Worker, count: int) -> None:
    for _ in range(count):
        last = worker._last_beat
        await until(lambda: worker._last_beat > last)  # noqa: B023  (waited for within the turn)


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


# The outcome that was lost after the call succeeded


async def lose_the_outcome(ledger: Ledger, worker: Worker, job: UUID) -> None:
    """Run the job with this worker, up to where it would be written that it is completed."""
    with pytest.MonkeyPatch.context() as patch:
        lost: list[object] = []
        patch.setattr(Outbox, "put", lambda self, worker, outcome: lost.append(outcome))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker.run)
            await until(lambda: lost)
            worker.drain()
    assert [call["status"] for call in calls_of(ledger, job)] == ["succeeded"]
    assert ledger.job(job)["status"] == "pending"


async def run_to_the_end(ledger: Ledger, worker: Worker, job: UUID) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await completed(ledger, job)
        worker.drain()


async def test_a_call_that_succeeded_is_used_when_the_outcome_was_lost(
    ledger: Ledger, sandbox: Sandbox, work: Work
) -> None:
    job = image(ledger, seed=7, numInferenceSteps=20)
    await lose_the_outcome(ledger, work(image=1), job)
    await run_to_the_end(ledger, work(image=1), job)
    [call] = calls_of(ledger, job)
    assert call["status"] == "succeeded" and ledger.job(job)["result"]["requestId"] == call["request_id"]
    assert posts(sandbox) == 1 and len(sandbox.bills("fal")) == 1


async def test_another_request_than_the_one_that_succeeded_is_made(
    ledger: Ledger, sandbox: Sandbox, work: Work
) -> None:
    job = image(ledger)
    await lose_the_outcome(ledger, work(image=1), job)
    ledger.run(
        "update dreamcut_jobs set payload = payload || %s where id = %s", Jsonb({"prompt": "A ship"}), job
    )
    await run_to_the_end(ledger, work(image=1), job)
    assert posts(sandbox) == 2
    assert ledger.job(job)["result"]["requestId"] == calls_of(ledger, job)[1]["request_id"]


async def test_what_succeeded_and_has_expired_is_made_anew(
    ledger: Ledger, sandbox: Sandbox, work: Work
) -> None:
    job = image(ledger)
    await lose_the_outcome(ledger, work(image=1), job)
    gone = str(uuid4())
    ledger.run(
        "update dreamcut_provider_calls"
        " set ticket = replace(ticket::text, request_id, %s)::jsonb, request_id = %s",
        gone, gone,
    )  # fmt: skip
    await run_to_the_end(ledger, work(image=1), job)
    assert posts(sandbox) == 2
    assert [call["status"] for call in calls_of(ledger, job)] == ["succeeded", "succeeded"]


def test_a_new_signature_makes_no_other_request_of_it() -> None:
    """A render's captions are stored anew by each attempt, in a private bucket under a new signature."""
    signed = "https://x.supabase.co/storage/v1/object/sign/production-assets/m/captions.srt?token="
    assert unsigned({"a": [signed + "one", 1]}) == unsigned({"a": (signed + "two", 1)})
    assert unsigned("https://x/captions.srt?token=1") == "https://x/captions.srt?token=1"


# A file that is paid and cannot be stored at once


@pytest.mark.parametrize("plain", [True, False])
async def test_a_paid_file_is_stored_as_soon_as_the_storage_takes_it(
    ledger: Ledger, sandbox: Sandbox, work: Work, monkeypatch: pytest.MonkeyPatch, plain: bool
) -> None:
    monkeypatch.setattr(context, "SAVE_DELAYS_S", (0.01, 0.01, 0.01))
    save, failures = _failing(3, StorageError("full") if plain else StorageFailed("full"))
    monkeypatch.setattr(_storage_of(sandbox), "save", save)
    payload = {"text": "A door closes", "durationSeconds": 1.5}
    job = ledger.add(None, type="gen_sound_effects_elevenlabs", payload=Jsonb(payload))
    await run_to_the_end(ledger, work(sound_effects=1), job)
    assert failures == [] and len(sandbox.requests.entries("elevenlabs", "POST")) == 1
    assert [call["status"] for call in calls_of(ledger, job)] == ["succeeded"]


async def test_a_storage_that_refuses_for_good_is_not_asked_again(
    ledger: Ledger, sandbox: Sandbox, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = StorageFailed("too large", error_class=ErrorClass.INVALID_REQUEST)
    save, failures = _failing(3, error)
    monkeypatch.setattr(_storage_of(sandbox), "save", save)
    job = image(ledger)
    worker = work(image=1)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await until(lambda: ledger.job(job)["status"] == "failed")
        worker.drain()
    assert len(failures) == 2


def _storage_of(sandbox: Sandbox) -> type[Any]:
    environment = {name.lower(): value for name, value in sandbox.environment().items()}
    return type(open_storage(Settings.load(**environment)))


def _failing(times: int, error: Exception) -> tuple[Any, list[Exception]]:
    """A storage's `save` that fails so often first; the list holds the failures that are left."""
    left = [error] * times

    async def save(self: object, path: str, source: Path, content_type: str) -> Asset:
        if left:
            raise left.pop()
        return Asset(path, "http://127.0.0.1:1/x", content_type, len(path), "00")

    return save, left


# A cancel and a retry while the request is on its way


async def test_a_job_cancelled_and_retried_while_it_submits_pays_once(
    ledger: Ledger, sandbox: Sandbox, work: Work
) -> None:
    sandbox.fail("delay", provider="fal", method="POST", seconds=1.0)
    job = image(ledger)
    worker = work(image=2)  # the second claim does not wait for the first one's slot
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.run)
        await until(lambda: posts(sandbox) == 1)
        first = worker._attempts[job]
        ledger.cancel(job)
        await until(lambda: first._stop_reason == "cancelled")
        ledger.retry(job)
        await completed(ledger, job)
        await until(lambda: not worker._attempts)
        worker.drain()
    assert ledger.job(job)["claims"] == 2
    assert [call["status"] for call in calls_of(ledger, job)] == ["succeeded"]
    assert sandbox.requests.entries("fal", "PUT", "/cancel") == []
    assert posts(sandbox) == 1 and len(sandbox.bills("fal")) == 1


async def test_a_cancelled_job_s_worker_leaves_the_calls_of_later_claims(
    ledger: Ledger, tools: Tools
) -> None:
    """Claim 1 comes to its cancelling when claim 2 has been cancelled, too."""
    worker, (held,) = ledger.held(1)
    old = ledger.begin(worker, held)
    ledger.release(held.id)
    again = ledger.claim_one(worker)
    new = ledger.begin(worker, again)
    ledger.cancel(held.id)
    assert again.claims == held.claims + 1
    assert await paid.cancel_open_calls(_context(tools, worker, as_job(held))) == 1
    assert (ledger.call(old)["status"], ledger.call(new)["status"]) == ("unknown", "intent")


async def test_an_answer_is_not_waited_for_when_its_worker_is_gone_or_the_intent_is_old(
    ledger: Ledger, tools: Tools
) -> None:
    worker, (held,) = ledger.held(1)
    call = ledger.begin(worker, held)
    calls = _context(tools, worker, as_job(held)).calls
    [seen] = await calls.open_calls()
    assert 10 < seen.answer_due_s <= 15 and seen.wanted and seen.claim == held.claims
    ledger.later(20)
    assert [call.answer_due_s for call in await calls.open_calls()] == [0]
    ledger.later(-20)
    ledger.expire(worker)
    assert [call.answer_due_s for call in await calls.open_calls()] == [0]
    ledger.close(call, "unknown")


def _context(tools: Tools, worker: UUID, job: Any) -> Any:
    image_job: Any = load_job_types()["gen_image_falai"]
    return Attempt(job, worker, image_job, tools)._context()


# Beginning a call whose answer is lost


async def test_a_begin_whose_answer_was_lost_is_the_same_call(
    ledger: Ledger, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.limit(maxConcurrent=1, dailyLimitUsd=1)
    begin = Store.begin_call
    lost: list[UUID] = []

    async def unanswered(self: Store, *arguments: Any, **named: Any) -> UUID:
        call = await begin(self, *arguments, **named)
        if len(lost) < 2:
            lost.append(call)
            raise ConnectionResetError("no answer")
        return call

    monkeypatch.setattr(Store, "begin_call", unanswered)
    worker, (held,) = ledger.held(1, payload=Jsonb({"costLimit": 0.5}))
    call = await StoredCalls(store, worker, as_job(held)).begin("fal", SRPO, request={}, estimate_usd=0.4)
    assert lost == [call, call]
    assert ledger.value("select count(*) from dreamcut_provider_calls") == 1


async def test_two_tries_of_one_begin_at_a_time_are_the_same_call(
    ledger: Ledger, store: Store, database: str
) -> None:
    """The first is still waiting in the server when the second comes, on a new connection."""
    ledger.limit(maxConcurrent=1)
    worker, (held,) = ledger.held(1, payload=Jsonb({"costLimit": 0.5}))
    one = uuid4()
    begun: list[UUID] = []

    async def begin() -> None:
        call = await store.begin_call(
            worker,
            as_job(held),
            provider="fal",
            endpoint=SRPO,
            step=0,
            request={},
            estimate_usd=0.4,
            call=one,
        )
        begun.append(call)

    asking = "select pid from pg_stat_activity where query like '%%begin_call%%' and state = 'active'"
    with psycopg.connect(database) as holder:
        holder.execute("select from dreamcut_providers for update")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(begin)
            tasks.start_soon(begin)
            await until(
                lambda: (
                    sum(
                        is_blocked(ledger.connection, row["pid"])
                        for row in ledger.rows(f"{asking} and pid <> pg_backend_pid()")
                    )
                    == 2
                )
            )
            holder.rollback()
    assert begun == [one, one]
    assert ledger.value("select count(*) from dreamcut_provider_calls") == 1
