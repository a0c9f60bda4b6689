"""Real workers over a real database, in the test's own event loop."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio
import psycopg
import pytest

from dreamcuts.worker import slots
from dreamcuts.worker.worker import Worker
from tests.support import Queue, until
from tests.worker.play import Play, options, tools

Start = Callable[..., AbstractAsyncContextManager[Worker]]


@pytest.fixture
def queue(connection: psycopg.Connection[Any]) -> Queue:
    return Queue(connection)


@pytest.fixture
def play() -> Play:
    return Play()


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What waits in a worker for a slot waits for as long as it takes: no stall hands it back."""
    monkeypatch.setattr(slots, "LONGEST_WAIT_S", 3600.0)


@pytest.fixture
def start(database: str, play: Play, tmp_path: Path) -> Start:
    """`async with start(slots=2, heartbeat=...) as worker:` runs a worker for the block, then drains it."""

    @contextlib.asynccontextmanager
    async def run(
        slots: int = 10, types: tuple[Play, ...] = (), dsn: str = database, **changes: Any
    ) -> AsyncIterator[Worker]:
        served = types or (play,)
        worker = Worker(
            dsn,
            {job_type.name: job_type for job_type in served},
            options({job_type.name: slots for job_type in served}, **changes),
            tools(tmp_path / "assets"),
        )
        with anyio.fail_after(40):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(worker.run)
                yield worker
                worker.drain()
                worker.drain()

    return run


async def until_listening(queue: Queue, workers: int = 1) -> None:
    """Wait until that many workers hear notifications: their first echo has gone out."""
    listening = """
        select count(*) from pg_stat_activity
        where datname = current_database() and query like '%%pg_notify($1%%' and state = 'idle'
    """
    await until(lambda: queue.value(listening) == workers)
