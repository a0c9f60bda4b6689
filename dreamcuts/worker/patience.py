"""Try a statement again while the database is away."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
import asyncpg

from dreamcuts.db.pool import RETRY_ERRORS
from dreamcuts.queue.outage import retry_delay

T = TypeVar("T")

LOOP_ERRORS: tuple[type[BaseException], ...] = (*RETRY_ERRORS, asyncpg.PostgresError)
"""What the worker's loops outlive, and running jobs too: also a function that a migration is replacing."""


async def patiently(statement: Callable[[], Awaitable[T]]) -> T:
    """Run `statement` until it gets through. Ends with the job: by its time limit, or with its lease."""
    tries = 0
    while True:
        try:
            return await statement()
        except (ValueError, TypeError):
            raise  # asyncpg could not encode a value; it never will
        except RETRY_ERRORS:
            tries += 1
            await anyio.sleep(retry_delay(tries))
