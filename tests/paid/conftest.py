"""Real workers and the real clients against the sandbox, which counts what was asked and billed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg.types.json import Jsonb

from dreamcuts.config import Settings
from dreamcuts.db.pool import open_pool
from dreamcuts.jobs.registry import load_job_types
from dreamcuts.queue.store import Store
from dreamcuts.sandbox import Sandbox
from dreamcuts.worker.options import WorkerOptions
from dreamcuts.worker.tools import Tools, tools_from
from dreamcuts.worker.worker import Worker
from tests.money.conftest import Ledger
from tests.support import until
from tests.worker.test_lease import KILL

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


async def beats(worker: Worker, count: int) -> None:
    """Wait for so many heartbeats."""
    for _ in range(count):
        last = worker._lease.last_beat
        await until(lambda last=last: worker._lease.last_beat > last)


async def completed(ledger: Ledger, job: UUID) -> None:
    await until(lambda: ledger.job(job)["status"] == "completed")
