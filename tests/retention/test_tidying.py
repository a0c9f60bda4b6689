"""The step that a worker takes: batches, pauses, and what stops it."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import UUID

import anyio
import psycopg
import pytest

from dreamcuts.db.pool import open_pool
from dreamcuts.queue.store import Store
from dreamcuts.service import days
from dreamcuts.worker import tidying
from dreamcuts.worker.tidying import archive_due, keep_tidy
from tests.retention.past import Past

WEEK, MONTH = timedelta(days=7), timedelta(days=30)


@asynccontextmanager
async def store_of(dsn: str) -> AsyncIterator[Store]:
    pool = await open_pool(dsn, size=2)
    try:
        yield Store(pool)
    finally:
        await pool.close()


@pytest.mark.anyio
async def test_it_goes_on_while_there_is_more(
    past: Past, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tidying, "BATCH", 2)
    for _ in range(5):
        past.ended_manifest(8)
    async with store_of(database) as store:
        assert await archive_due(store, WEEK, MONTH) == 10
        assert await archive_due(store, WEEK, MONTH) == 0


@pytest.mark.anyio
async def test_its_time_is_limited(past: Past, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tidying, "BATCH", 1)
    for _ in range(3):
        past.ended_manifest(8)
    async with store_of(database) as store:
        assert await archive_due(store, WEEK, MONTH, longest_s=0.0001) == 2  # one batch


@pytest.mark.anyio
async def test_the_loop_archives_by_itself_and_never_without_an_age(past: Past, database: str) -> None:
    _, jobs = past.ended_manifest(8)
    async with store_of(database) as store:
        with anyio.fail_after(30):
            await keep_tidy(store, None, None)  # returns at once: there is nothing to do, ever
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_run_quickly, store)
                while past.archived() != set(jobs.values()):  # noqa: ASYNC110 - it happens in Postgres
                    await anyio.sleep(0.01)
                tasks.cancel_scope.cancel()
    assert (days(0), days(7)) == (None, WEEK)


async def _run_quickly(store: Store) -> None:
    await keep_tidy(store, WEEK, MONTH, every_s=0.02)


@pytest.mark.anyio
async def test_a_role_that_may_not_gives_up_with_one_warning(
    past: Past, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker's role need not own the tables; then the owner runs `dreamcuts db archive`."""
    past.ended_manifest(8)
    name = f"worker_{UUID(int=past.connection.info.backend_pid).hex[-8:]}"
    past.run(f"create role {name} login password 'pw'")
    past.run(f"grant select, insert, update, delete on all tables in schema public to {name}")
    past.run(f"grant execute on all functions in schema public to {name}")
    past.run(f"alter role {name} bypassrls")
    parts = psycopg.conninfo.conninfo_to_dict(database)
    theirs = f"postgresql://{name}:pw@{parts['host']}:{parts['port']}/{parts['dbname']}"
    try:
        async with store_of(theirs) as store:
            with anyio.fail_after(30), caplog.at_level(logging.WARNING):
                await _run_quickly(store)  # it returns
        assert [record.message for record in caplog.records if "db archive" in record.message]
        assert past.archive() == 2
    finally:
        past.run(f"drop owned by {name}")
        past.run(f"drop role {name}")
