"""A call's begin as the job sees it: it waits for limits, and a stopped job leaves no call behind."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import anyio
import psycopg
import pytest
from psycopg.types.json import Jsonb

from dreamcuts.db.pool import open_pool
from dreamcuts.errors import ErrorClass, JobError, LeaseLost, ProviderError
from dreamcuts.jobs.base import Job
from dreamcuts.queue.store import Store
from dreamcuts.worker import calls as module
from dreamcuts.worker.calls import StoredCalls
from tests.money.conftest import Ledger, until
from tests.support import Held, is_blocked

pytestmark = pytest.mark.anyio


def as_job(held: Held, payload: dict[str, Any] | None = None) -> Job:
    return Job(held.id, None, held.job_id, "work", payload or {}, 1, 3, held.claims)


@pytest.fixture
async def store(database: str) -> AsyncIterator[Store]:
    pool = await open_pool(database, size=4)
    yield Store(pool)
    await pool.close()


@pytest.fixture
def held(ledger: Ledger) -> tuple[UUID, Held]:
    worker, (held,) = ledger.held(1)
    return worker, held


@pytest.fixture
def calls(store: Store, held: tuple[UUID, Held]) -> StoredCalls:
    return StoredCalls(store, held[0], as_job(held[1]))


async def test_it_waits_until_there_is_room(
    ledger: Ledger, calls: StoredCalls, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(module, "_ask_delay", lambda _, times: asked.append(times) or 0.01)
    ledger.limit(maxConcurrent=1)
    first = await calls.begin("fal", "x", request={})
    begun: list[UUID] = []

    async def second() -> None:
        begun.append(await calls.begin("fal", "x", request={}))

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(second)
            await until(lambda: len(asked) >= 3)
            assert begun == []
            await calls.finish(first, "succeeded", cost_usd=0.1)
    assert [ledger.call(call)["status"] for call in (first, *begun)] == ["succeeded", "intent"]


async def test_a_wait_that_takes_too_long_is_the_limits_fault(
    ledger: Ledger, calls: StoredCalls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LONGEST_WAIT_S", 0.0)
    ledger.limit(maxPerMinute=1)
    await calls.begin("fal", "x", request={})

    with pytest.raises(JobError, match="fal is at its limit of 1 calls a minute") as caught:
        await calls.begin("fal", "x", request={})

    assert caught.value.error_class is ErrorClass.RATE_LIMITED
    assert caught.value.retry_after is not None and 45 < caught.value.retry_after < 95
    assert caught.value.detail["provider"] == "fal"


async def test_a_pause_is_a_provider_error_that_lets_another_provider_try(
    ledger: Ledger, calls: StoredCalls
) -> None:
    ledger.run("select dreamcut_pause_provider('fal', now() + interval '10 minutes', 'invoice', 'ada')")
    with pytest.raises(ProviderError, match="invoice") as caught:
        await calls.begin("fal", "x", request={})
    error = caught.value
    assert (error.error_class, error.provider, error.try_next) == (ErrorClass.PAUSED, "fal", True)
    assert error.retry_after is not None and 590 <= error.retry_after <= 640


async def test_a_spend_limit_lets_a_cheaper_step_try(
    ledger: Ledger, store: Store, held: tuple[UUID, Held]
) -> None:
    worker, job = held
    ledger.run("update dreamcut_jobs set payload = %s", Jsonb({"costLimit": 0.5}))
    calls = StoredCalls(store, worker, as_job(job))
    with pytest.raises(JobError, match=r"costLimit of \$0\.50") as caught:
        await calls.begin("fal", "x", request={}, estimate_usd=0.6)
    assert (caught.value.error_class, caught.value.try_next) == (ErrorClass.SPEND_LIMIT, True)
    assert caught.value.detail["estimate_usd"] == 0.6
    await calls.begin("fal", "x", request={}, estimate_usd=0.4)


async def test_a_lost_lease_is_found_out_while_waiting(
    ledger: Ledger, calls: StoredCalls, held: tuple[UUID, Held]
) -> None:
    ledger.limit(maxConcurrent=1)
    first = await calls.begin("fal", "x", request={})
    async with anyio.create_task_group() as tasks:
        refused: list[BaseException] = []

        async def second() -> None:
            try:
                await calls.begin("fal", "x", request={})
            except LeaseLost as error:
                refused.append(error)

        tasks.start_soon(second)
        ledger.release(held[1].id)
        await calls.finish(first, "succeeded")
    assert len(refused) == 1


async def test_a_job_stopped_while_it_waits_leaves_no_call(ledger: Ledger, calls: StoredCalls) -> None:
    ledger.limit(maxConcurrent=1)
    await calls.begin("fal", "x", request={})
    with anyio.move_on_after(0.3) as scope:
        await calls.begin("fal", "x", request={})
    assert scope.cancelled_caught
    assert ledger.value("select count(*) from dreamcut_provider_calls") == 1


async def test_a_job_stopped_while_it_asks_closes_the_call_that_it_got(
    ledger: Ledger, database: str, calls: StoredCalls
) -> None:
    ledger.limit(maxConcurrent=5)
    with psycopg.connect(database) as blocker:
        blocker.execute("select 1 from dreamcut_providers for update")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: calls.begin("fal", "x", request={}))

            def asking() -> list[dict[str, Any]]:
                return [
                    row
                    for row in ledger.rows(
                        "select pid from pg_stat_activity where query like '%%begin_call%%'"
                    )
                    if is_blocked(ledger.connection, row["pid"])
                ]

            await until(asking)
            tasks.cancel_scope.cancel()
            blocker.commit()
    [row] = ledger.rows("select status, error from dreamcut_provider_calls")
    assert row == {"status": "cancelled", "error": "stopped before the request was sent"}


@pytest.mark.parametrize("estimate", [float("nan"), float("inf"), -1.0, None])
async def test_what_is_no_amount_is_an_unknown_price(
    ledger: Ledger, calls: StoredCalls, estimate: float | None
) -> None:
    call = await calls.begin("fal", "x", request={}, estimate_usd=estimate)
    row = ledger.call(call)
    assert (row["estimate_usd"], row["detail"]) == (None, {"unpriced": True})
    await calls.finish(call, "succeeded", cost_usd=float("nan"))
    assert ledger.call(call)["cost_usd"] is None


async def test_a_missing_price_is_refused_where_it_is_so_configured(
    ledger: Ledger, store: Store, held: tuple[UUID, Held]
) -> None:
    worker, job = held
    strict = StoredCalls(store, worker, as_job(job), "refuse")
    with pytest.raises(JobError, match=r"price of fal fal-ai/brand-new .* PRICE_MISSING") as caught:
        await strict.begin("fal", "fal-ai/brand-new", request={})
    assert (caught.value.error_class, caught.value.try_next) == (ErrorClass.SPEND_LIMIT, True)
    await strict.begin("fal", "fal-ai/brand-new", request={}, estimate_usd=0.1)
    await strict.begin("fal", "fal-ai/nano-banana", request={})
