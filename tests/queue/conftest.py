"""The worker's own way to the queue, asyncpg, beside a psycopg connection that looks on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest

from dreamcuts.db.pool import open_pool
from dreamcuts.queue.store import Store
from tests.support import Queue


@pytest.fixture
def queue(connection: psycopg.Connection[Any]) -> Queue:
    return Queue(connection)


@pytest.fixture
async def store(database: str, anyio_backend: str) -> AsyncIterator[Store]:
    pool = await open_pool(database, size=4)
    try:
        yield Store(pool)
    finally:
        pool.terminate()
