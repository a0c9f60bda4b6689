"""asyncpg connections for the worker, set up the same way everywhere.

They work behind a pooler in transaction mode too: no prepared statement is kept and no session state is set,
when `pooled` says so. JSON comes and goes as Python objects.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import asyncpg

from dreamcuts.db.address import as_url, not_reached, not_valid
from dreamcuts.db.jsontext import decode_json, encode_json

APPLICATION = "dreamcuts"

CONNECTION_ERRORS: tuple[type[BaseException], ...] = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # an idle connection had got the server's FATAL, but not yet its end
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.TooManyConnectionsError,
    asyncpg.IdleSessionTimeoutError,
)
"""Errors after which the same statement may succeed on a new connection."""

RETRY_ERRORS: tuple[type[BaseException], ...] = (
    *CONNECTION_ERRORS,
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,  # a failover under way: this is not the primary any more
)
"""Errors after which a transaction should simply be tried again."""


async def open_pool(
    dsn: str, *, size: int, pooled: bool = False, statement_s: float = 60.0
) -> asyncpg.Pool[asyncpg.Record]:
    """A pool of up to `size` connections. Raises DatabaseError in one line, without the password."""
    dsn = as_url(dsn)
    try:
        pool = await asyncpg.create_pool(
            dsn,
            min_size=0,  # else the pool itself tries to reconnect, and logs a traceback for each try
            max_size=size,
            max_inactive_connection_lifetime=300,
            init=_prepare,
            reset=_leave_as_it_is,
            timeout=10,
            command_timeout=statement_s,
            **_options(pooled),
        )
        try:
            async with pool.acquire():
                return pool
        except BaseException:
            pool.terminate()
            raise
    except (ValueError, asyncpg.ClientConfigurationError):
        raise not_valid() from None
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise not_reached(dsn, error) from None


async def open_connection(dsn: str, *, pooled: bool = False) -> asyncpg.Connection[asyncpg.Record]:
    """A connection of its own, e.g. for LISTEN. Raises what asyncpg raises."""
    dsn = as_url(dsn)
    return await asyncpg.connect(dsn, timeout=10, command_timeout=60, **_options(pooled))


def _options(pooled: bool) -> dict[str, Any]:
    return {
        "server_settings": {"application_name": APPLICATION},
        "statement_cache_size": 0 if pooled else 100,
    }


async def _leave_as_it_is(_connection: Any) -> None:
    """Instead of a RESET after each use, a round trip of its own: our statements leave no session state."""


async def _prepare(connection: Any) -> None:
    encode: Callable[[Any], str] = encode_json
    for name in ("jsonb", "json"):
        await connection.set_type_codec(name, encoder=encode, decoder=decode_json, schema="pg_catalog")
