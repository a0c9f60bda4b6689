"""Workers, a sandbox and a Postgres of its own for each test that breaks them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dreamcuts.db.migrate import migrate
from dreamcuts.sandbox import Sandbox
from tests.chaos.machine import DURABLE, CrashingPostgres, StartWorker, WorkerProcess
from tests.support import Queue


@pytest.fixture
def settings(database: str, sandbox: Sandbox) -> dict[str, str]:
    """The environment of a worker: short leases and polls, so that a rescue takes a second or two."""
    return {
        **sandbox.environment(),
        "DATABASE_URL": database,
        "LEASE_S": "1.5",
        "HEARTBEAT_S": "0.3",
        "POLL_INTERVAL_S": "0.1",
        "PROVIDER_POLL_S": "0.05",
    }


@pytest.fixture
def start_worker(settings: dict[str, str], tmp_path: Path) -> Iterator[StartWorker]:
    """`start_worker(slots, **more_settings)` starts a worker process; all are ended after the test."""
    started: list[WorkerProcess] = []

    def start(slots: str = "chaos_step:8,gen_image_falai:4", **more: str) -> WorkerProcess:
        log = tmp_path / f"worker-{len(started)}.log"
        worker = WorkerProcess(slots, {**settings, **more}, log)
        started.append(worker)
        return worker

    yield start
    for worker in started:
        worker.kill()


@pytest.fixture
def queue(connection: psycopg.Connection[Any]) -> Queue:
    """The queue on the test's database."""
    return Queue(connection)


@pytest.fixture
def crashing_postgres() -> Iterator[CrashingPostgres]:
    """A server of this test alone, with the schema in `dreamcuts`."""
    with CrashingPostgres(prefer="system", settings=DURABLE) as server:
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute("create database dreamcuts")
        migrate(server.dsn("dreamcuts"))
        yield server
