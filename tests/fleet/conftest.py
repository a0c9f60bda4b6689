"""The CLI on the test's database, the queue, and real workers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click.testing
import psycopg
import pytest

from dreamcuts.cli import cli
from tests.fleet.running import Processes
from tests.support import Queue

Run = Callable[..., click.testing.Result]


@pytest.fixture
def queue(connection: psycopg.Connection[Any]) -> Iterator[Queue]:
    queue = Queue(connection)
    yield queue
    assert queue.inconsistencies() == []


@pytest.fixture
def here(database: str) -> Run:
    """`here("workers", "list")` runs the CLI on the test's database."""

    def invoke(*arguments: str, input: str | None = None) -> click.testing.Result:
        runner = click.testing.CliRunner(env={"DATABASE_URL": database})
        return runner.invoke(cli, list(arguments), input=input, prog_name="dreamcuts")

    return invoke


@pytest.fixture
def environment(database: str, tmp_path: Path) -> dict[str, str]:
    """What a worker for sound effects needs; nothing answers at its provider's address."""
    return {
        "DATABASE_URL": database,
        "ELEVENLABS_API_KEY": "not-a-key",
        "FAL_KEY": "not-a-key",
        "ELEVENLABS_BASE_URL": "http://127.0.0.1:9",
        "STORAGE_DIR": str(tmp_path / "assets"),
        "STORAGE_BASE_URL": "http://127.0.0.1:9/files",
        "POLL_INTERVAL_S": "0.2",
        "HEARTBEAT_S": "300",  # so that whatever happens at once was notified
        "LEASE_S": "900",
    }


@pytest.fixture
def processes(environment: dict[str, str]) -> Iterator[Processes]:
    """Starts `dreamcuts` as processes; they are ended after the test."""
    with Processes({**os.environ, **environment}) as started:
        yield started
