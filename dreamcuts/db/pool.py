"""asyncpg connections for the worker, set up the same way everywhere.

They work behind a pooler in transaction mode too: no prepared statement is kept and no session state is set,
when `pooled` says so. JSON comes and goes as Python objects.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

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
    asyncpg.ReadOnlySQLTransactionError,  # a failover under way; see `leave_read_only`
)
"""Errors after which a transaction should simply be tried again."""

CONTENTION_ERRORS: tuple[type[BaseException], ...] = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
)
"""Those of RETRY_ERRORS that are an answer: the database is there, others use it too."""


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
            **_options(dsn, pooled),
        )
        try:
            async with pool.acquire():
                return pool
        except BaseException:
            pool.terminate()
            raise
    except (ValueError, asyncpg.ClientConfigurationError):
        raise not_valid() from None
    except (
        OSError,
        TimeoutError,
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,  # none of several hosts takes writes
    ) as error:
        raise not_reached(dsn, error) from None


async def open_connection(dsn: str, *, pooled: bool = False) -> asyncpg.Connection[asyncpg.Record]:
    """A connection of its own, e.g. for LISTEN. Raises what asyncpg raises."""
    dsn = as_url(dsn)
    return await asyncpg.connect(dsn, timeout=10, command_timeout=60, **_options(dsn, pooled))


async def leave_read_only(pool: asyncpg.Pool[asyncpg.Record], connection: Any) -> None:
    """Part with a session that takes no writes, and with all others of the pool, before the next try.

    A session keeps what it was when it began: on a server that is not the primary any more, or in a database
    whose `default_transaction_read_only` was on, it refuses every write for as long as it lives.
    """
    await pool.expire_connections()  # those in use now end when they are given back
    connection.terminate()


def _options(dsn: str, pooled: bool) -> dict[str, Any]:
    options: dict[str, Any] = {
        "server_settings": {"application_name": APPLICATION},
        "statement_cache_size": 0 if pooled else 100,
    }
    if _has_several_hosts(dsn):
        options["target_session_attrs"] = "read-write"  # the primary, whichever of them it is now
    return options


def _has_several_hosts(dsn: str) -> bool:
    """Whether the address names several hosts, and leaves open which of them is meant."""
    try:
        parts = urlsplit(dsn)
    except ValueError:
        return False  # asyncpg says what is wrong with it
    named = parse_qs(parts.query)
    if "target_session_attrs" in named or "PGTARGETSESSIONATTRS" in os.environ:
        return False
    return any("," in hosts for hosts in (parts.netloc.rpartition("@")[2], *named.get("host", ())))


async def _leave_as_it_is(_connection: Any) -> None:
    """Instead of a RESET after each use, a round trip of its own: our statements leave no session state."""


async def _prepare(connection: Any) -> None:
    encode: Callable[[Any], str] = encode_json
    for name in ("jsonb", "json"):
        await connection.set_type_codec(name, encoder=encode, decoder=decode_json, schema="pg_catalog")
