"""Cancelling a job reaches the provider, and the calls of ended jobs do not stay open."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import anyio
import pytest
from psycopg.types.json import Jsonb

from dreamcuts.config import Settings
from dreamcuts.db.pool import open_pool
from dreamcuts.jobs.queued import cancel_call
from dreamcuts.providers.base import Ticket
from dreamcuts.providers.registry import make_provider
from dreamcuts.queue.outage import Outage
from dreamcuts.queue.store import Store
from dreamcuts.sandbox import Sandbox
from dreamcuts.worker import abandoned
from dreamcuts.worker.abandoned import close_abandoned_calls
from dreamcuts.worker.tools import Tools, tools_from
from dreamcuts.worker.worker import Worker
from tests.money.conftest import Ledger, until
from tests.money.test_engine import run
from tests.paid.conftest import closed

pytestmark = pytest.mark.anyio

STUCK = {"prompt": "sandbox:stuck", "model": "flux-srpo", "imageSize": "square"}
Work = Callable[..., Worker]


@pytest.fixture
async def tools(database: str, settings: Settings) -> AsyncIterator[Tools]:
    pool = await open_pool(database, size=2)
    async with tools_from(settings)(Store(pool)) as made:
        yield made
    await pool.close()


@pytest.mark.parametrize("listen", [True, False])
async def test_a_cancel_reaches_fal_and_ends_the_polling_within_a_heartbeat(
    ledger: Ledger, sandbox: Sandbox, work: Work, listen: bool
) -> None:
    job = ledger.add(None, type="gen_image_falai", payload=Jsonb(STUCK))
    worker = work(image=1, until_idle=False, heartbeat=0.3 if not listen else 30, listen=listen)

    def entries(method: str, path: str) -> list[Any]:
        return sandbox.requests.entries("fal", method, path)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run, worker)
        await until(lambda: len(entries("GET", "/status")) >= 2)
        if listen:  # else the word would be lost, and the next heartbeat is far
            await until(lambda: worker._listener is not None and worker._listener.hears)
        ledger.cancel(job)
        await until(lambda: entries("PUT", "/cancel"))
        await until(
            lambda: ledger.rows("select 1 from dreamcut_provider_calls where finished_at is not null")
        )
        polls = len(entries("GET", "/status"))
        other = ledger.add(None, type="gen_image_falai", payload=Jsonb({**STUCK, "prompt": "A lighthouse"}))
        await until(lambda: ledger.job(other)["status"] == "completed")  # long enough for many more polls
        worker.drain()

    [cancelled] = ledger.rows("select * from dreamcut_provider_calls where job = %s", job)
    assert (cancelled["status"], cancelled["error"]) == ("cancelled", "the job was cancelled")
    assert ledger.job(job)["status"] == "cancelled"
    later = [entry for entry in entries("GET", "/status")[polls:] if cancelled["request_id"] in entry.path]
    assert later == [] and len(entries("PUT", "/cancel")) == 1
    assert [bill.request_id for bill in sandbox.bills("fal")] != [cancelled["request_id"]]


async def test_a_job_cancelled_before_its_next_attempt_has_its_call_cancelled(
    ledger: Ledger, sandbox: Sandbox, tools: Tools
) -> None:
    fal = tools.providers.get("fal")
    ticket: Ticket = await fal.submit("fal-ai/flux/srpo", {"prompt": "sandbox:stuck"})
    worker, (held,) = ledger.held(1)
    call = ledger.begin(worker, held, endpoint="fal-ai/flux/srpo")
    ledger.run("select dreamcut_submitted_call(%s, %s, %s)", call, ticket.request_id, Jsonb(ticket.detail))
    lost = ledger.begin(worker, held, provider="elevenlabs")
    ledger.fail(worker, held, retry_after=3000)
    assert await close_abandoned_calls(tools, uuid4(), grace=timedelta()) == 0, "the job may still go on"
    ledger.cancel(held.id)
    assert await close_abandoned_calls(tools, uuid4()) == 0, "its own worker has half a minute for it"

    assert await close_abandoned_calls(tools, uuid4(), grace=timedelta()) == 2

    rows = [ledger.call(call), ledger.call(lost)]
    assert [row["status"] for row in rows] == ["cancelled", "unknown"]
    assert rows[1]["error"] == "the job has ended, before the answer arrived"
    assert len(sandbox.requests.entries("fal", "PUT", f"{ticket.request_id}/cancel")) == 1
    assert await close_abandoned_calls(tools, uuid4(), grace=timedelta()) == 0


@pytest.mark.parametrize("end", ["failed", "completed", "deleted"])
async def test_a_call_of_a_job_that_ended_otherwise_is_kept_for_an_hour(
    ledger: Ledger, tools: Tools, end: str
) -> None:
    worker, (held,) = ledger.held(1)
    call = ledger.begin(worker, held, provider="elevenlabs")
    if end == "failed":
        ledger.fail(worker, held, error_class="invalid_request")
    elif end == "completed":
        ledger.complete(worker, held)
    else:
        ledger.run("delete from dreamcut_jobs")
    assert await close_abandoned_calls(tools, uuid4(), grace=timedelta()) == 0
    ledger.run("update dreamcut_jobs set completed_at = completed_at - interval '61 minutes'")
    ledger.later(3660)
    assert await close_abandoned_calls(tools, uuid4()) == 1
    assert ledger.call(call)["status"] == "unknown"


async def test_two_workers_do_not_close_the_same_call(ledger: Ledger, tools: Tools) -> None:
    worker, (held,) = ledger.held(1)
    ledger.begin(worker, held)
    ledger.cancel(held.id)

    def taken() -> list[UUID]:
        rows = ledger.rows(
            "select id from dreamcut_take_abandoned_calls(%s, '{fal}', interval '0', interval '1 hour')",
            uuid4(),
        )
        return [row["id"] for row in rows]

    assert len(taken()) == 1
    assert taken() == []
    ledger.run(
        "update dreamcut_provider_calls"
        " set detail = jsonb_build_object('closing_at', now() - interval '6 minutes')"
    )
    assert len(taken()) == 1, "the first worker is gone"


async def test_a_worker_leaves_calls_for_which_it_has_no_key(ledger: Ledger, tools: Tools) -> None:
    worker, (held,) = ledger.held(1)
    ledger.begin(worker, held, provider="acme")
    ledger.cancel(held.id)
    assert await close_abandoned_calls(tools, uuid4(), grace=timedelta()) == 0


async def test_the_loop_outlives_its_errors(
    tools: Tools, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    turns: list[int] = []

    async def fail(*_: Any) -> int:
        turns.append(1)
        raise RuntimeError("no luck")

    monkeypatch.setattr(abandoned, "EVERY_S", 0.01)
    monkeypatch.setattr(abandoned, "close_abandoned_calls", fail)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(abandoned.keep_closing_abandoned_calls, tools, uuid4, Outage())
        await until(lambda: len(turns) >= 3)
        tasks.cancel_scope.cancel()
    assert "no luck" in caplog.text


async def test_the_loop_says_once_that_the_database_is_away(
    tools: Tools,
    ledger: Ledger,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(abandoned, "EVERY_S", 0.01)
    turns: list[int] = []
    take = Store.take_abandoned_calls

    async def counted(self: Store, *arguments: Any, **named: Any) -> Any:
        turns.append(1)
        return await take(self, *arguments, **named)

    monkeypatch.setattr(Store, "take_abandoned_calls", counted)
    with closed(database, ledger):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(abandoned.keep_closing_abandoned_calls, tools, uuid4, Outage())
            await until(lambda: len(turns) >= 3)
            tasks.cancel_scope.cancel()
    assert caplog.text.count("The database does not answer") == 1
    assert "could not be closed" not in caplog.text


async def test_a_render_cannot_be_cancelled_and_may_be_billed(settings: Settings, sandbox: Sandbox) -> None:
    """Shotstack has no call for it (Shotstack docs, Edit API)."""
    shotstack = make_provider("shotstack", settings)
    status, why = await cancel_call(shotstack, "stage", Ticket("a-render"), "the job was cancelled")
    await shotstack.aclose()
    assert status == "unknown"
    assert why == "the job was cancelled; shotstack cannot cancel a request: it runs to its end and is billed"
    assert sandbox.requests.entries("shotstack") == []
