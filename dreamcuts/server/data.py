"""Reading the queue for people and Prometheus: psycopg, asynchronously, a few connections at most.

What many ask for at once is asked of the database once: results of `shared` reads are kept for a moment.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import psycopg
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from dreamcuts.db.address import first_line
from dreamcuts.db.sql import query
from dreamcuts.errors import DatabaseError

Row = dict[str, Any]

CONNECTIONS = 4
CONNECT_S = 4.0
STATEMENT_S = 8.0


class Reader:
    """Named queries over a small pool. Open it where it is used: `async with reader.opened():`."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._pool: AsyncConnectionPool[psycopg.AsyncConnection[Row]] | None = None
        self._kept: dict[tuple[str, str], tuple[float, asyncio.Future[list[Row]]]] = {}

    @contextlib.asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Keep the pool open while the block runs. Does not wait for the database."""
        # An outage is one line in the worker's log already, not one for each try of the pool.
        logging.getLogger("psycopg.pool").setLevel(logging.CRITICAL)
        pool: AsyncConnectionPool[psycopg.AsyncConnection[Row]] = AsyncConnectionPool(
            self._dsn,
            min_size=0,
            max_size=CONNECTIONS,
            timeout=CONNECT_S,
            open=False,
            kwargs={
                "autocommit": True,
                "row_factory": dict_row,
                "prepare_threshold": None,
                "connect_timeout": 5,
                "application_name": "dreamcuts dashboard",
            },
            check=AsyncConnectionPool.check_connection,
        )
        await pool.open(wait=False)
        self._pool = pool
        try:
            yield
        finally:
            self._pool = None
            await self._drop_kept()
            await pool.close(timeout=2)

    async def many(self, name: str, **values: Any) -> list[Row]:
        """The rows of a named query. Raises DatabaseError in one line."""
        statement = query(name)
        statement.arguments(values)  # a missing or a misspelt parameter is a TypeError
        if self._pool is None:
            raise DatabaseError("The server is stopping.")
        try:
            async with asyncio.timeout(STATEMENT_S), self._pool.connection() as connection:
                cursor = await connection.execute(statement.psycopg_text, values)
                return await cursor.fetchall() if cursor.description else []
        except (PoolTimeout, TimeoutError):
            raise DatabaseError("The database does not answer.") from None
        except psycopg.OperationalError as error:
            raise DatabaseError(f"The database does not answer: {first_line(error)}.") from None

    async def one(self, name: str, **values: Any) -> Row | None:
        """The first row, if there is one."""
        rows = await self.many(name, **values)
        return rows[0] if rows else None

    async def shared(self, name: str, *, max_age: float = 2.0, **values: Any) -> list[Row]:
        """As `many`; an answer up to `max_age` seconds old will do, and equal questions are asked once."""
        if self._pool is None:
            raise DatabaseError("The server is stopping.")
        key = (name, repr(sorted(values.items(), key=lambda item: item[0])))
        now = time.monotonic()
        kept = self._kept.get(key)
        if kept is None or (kept[1].done() and (now - kept[0] > max_age or kept[1].exception())):
            self._kept = {k: entry for k, entry in self._kept.items() if now - entry[0] < 60}
            asked = asyncio.ensure_future(self.many(name, **values))
            asked.add_done_callback(_heard)
            kept = self._kept[key] = (now, asked)
        try:
            return await asyncio.shield(kept[1])
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if kept[1].cancelled() and task is not None and not task.cancelling():
                # The read was ended with the reader; whoever waits for it was not.
                raise DatabaseError("The server is stopping.") from None
            raise

    async def _drop_kept(self) -> None:
        """End the reads under way: whoever asked may be gone, and the database away."""
        reads = [read for _, read in self._kept.values()]
        self._kept = {}
        for read in reads:
            read.cancel()
        await asyncio.gather(*reads, return_exceptions=True)


def _heard(read: asyncio.Future[list[Row]]) -> None:
    """Take note of how a read ended, so that asyncio does not complain when nobody waited for it."""
    if not read.cancelled():
        read.exception()
