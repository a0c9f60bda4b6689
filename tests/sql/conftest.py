"""A hand on the queue for every test of its SQL, and what must be true at the end of each of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from dreamcuts.db.migrate import migrate
from tests.chaos.machine import DURABLE, CrashingPostgres
from tests.sql.interleaving import be_patient
from tests.support import Queue


@pytest.fixture
def queue(connection: psycopg.Connection[Any]) -> Iterator[Queue]:
    """The queue on a new database. At the end every counter must be what the rows themselves say."""
    queue = Queue(connection)
    yield queue
    assert queue.inconsistencies() == []


@pytest.fixture
def another(database: str) -> Iterator[Callable[[], Queue]]:
    """Makes the queue on connections of its own, not in autocommit mode: each test ends its transactions."""
    with ExitStack() as stack:
        yield lambda: Queue(stack.enter_context(psycopg.connect(database, options="-c lock_timeout=20s")))


@pytest.fixture
def patient(connection: psycopg.Connection[Any]) -> None:
    """Outcomes wait for as long as the test needs for its next step."""
    be_patient(Queue(connection))


@pytest.fixture
def crashing_postgres() -> Iterator[CrashingPostgres]:
    """A server of this test alone, with the schema in `dreamcuts`."""
    with CrashingPostgres(prefer="system", settings=DURABLE) as server:
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute("create database dreamcuts")
        migrate(server.dsn("dreamcuts"))
        yield server
