"""Finding out whether DATABASE_URL leads to a pooler in transaction mode.

Behind one, each transaction may run on another server connection. Prepared statements then vanish
(`prepared statement "__asyncpg_stmt_1__" does not exist`), and LISTEN is accepted and delivers nothing. A
direct connection and a pooler in session mode keep a client on one server connection.
"""

from __future__ import annotations

import asyncio

import asyncpg
import psycopg
from psycopg.conninfo import conninfo_to_dict

from dreamcuts.db.pool import CONNECTION_ERRORS, open_connection
from dreamcuts.db.sql import query

ROUNDS = 3
WAIT_S = 3.0


async def is_transaction_pooled(dsn: str) -> bool:
    """Whether a client there changes its server connection between transactions. Takes some milliseconds.

    False also if Postgres cannot be reached: whoever connects next says why.
    """
    if is_known_pooler(dsn):
        return True
    try:
        return await _changes_backend(dsn)
    except (*CONNECTION_ERRORS, asyncpg.PostgresError, ValueError):
        return False


def is_known_pooler(dsn: str) -> bool:
    """Whether the address is that of a pooler in transaction mode, as its maker documents it.

    Supabase serves transaction mode on port 6543, of Supavisor and of the dedicated pooler alike (Supabase
    docs, "Connect to your database"); Neon's pooled hosts have `-pooler` in their first label (Neon docs,
    "Connection pooling").
    """
    try:
        parts = conninfo_to_dict(dsn)
    except psycopg.Error:
        return False
    hosts = str(parts.get("host") or "").lower().split(",")
    ports = str(parts.get("port") or "").split(",")
    supabase = any(host.endswith((".supabase.com", ".supabase.co")) for host in hosts) and "6543" in ports
    neon = any(host.endswith(".neon.tech") and host.split(".")[0].endswith("-pooler") for host in hosts)
    return supabase or neon


async def _changes_backend(dsn: str) -> bool:
    """Ask one client for its server process while another one holds a server connection in a transaction.

    A pooler hands out the connection that was used last, so the other client gets ours, and we get another.
    """
    pid = query("backend_pid").text
    ours = await open_connection(dsn, pooled=True)
    try:
        other = await open_connection(dsn, pooled=True)
        try:
            before = await ours.fetchval(pid)
            for _ in range(ROUNDS):
                async with other.transaction():
                    await other.fetchval(pid)
                    asked = asyncio.create_task(ours.fetchval(pid))
                    asked.add_done_callback(_heed)
                    answered, _ = await asyncio.wait([asked], timeout=WAIT_S)
                if not answered:
                    # The other one held the pool's only server connection. Now that it is free, the answer
                    # comes: a question that is cut off leaves asyncpg's request to cancel it behind, and its
                    # failure in the log.
                    await asyncio.wait([asked], timeout=WAIT_S)
                    return True
                if asked.result() != before:
                    return True
            return False
        finally:
            other.terminate()
    finally:
        ours.terminate()


def _heed(task: asyncio.Task[object]) -> None:
    """An answer that nobody waits for, because the other connection failed, is no news for the log."""
    if not task.cancelled():
        task.exception()
