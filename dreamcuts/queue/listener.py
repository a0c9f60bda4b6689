"""LISTEN on a connection of its own. Only ever a hint: everything works by polling, a little later.

The connection is checked by its own echo, because a pooler in transaction mode accepts LISTEN and then
delivers nothing, and a dead network says nothing either.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable
from typing import Any

import anyio
import asyncpg

from dreamcuts.db.pool import open_connection
from dreamcuts.db.sql import query
from dreamcuts.queue.outage import retry_delay

log = logging.getLogger(__name__)

JOBS = "dreamcut_jobs"
"""Payload: a job type of which something is ready."""
WORKERS = "dreamcut_workers"
"""Payload: the incarnation that should send a heartbeat now, or an echo."""

ECHO_EVERY_S = 30.0
ECHO_WAIT_S = 5.0
DEAF_RETRY_S = 300.0

_ERRORS = (
    OSError,
    TimeoutError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)


class Listener:
    """Calls `on_jobs(type)` and `on_worker(incarnation)`; both with "" after every new connection."""

    def __init__(self, dsn: str, *, on_jobs: Callable[[str], None], on_worker: Callable[[str], None]) -> None:
        self._dsn = dsn
        self._on_jobs = on_jobs
        self._on_worker = on_worker
        self._echo = anyio.Event()
        self._expected = ""
        self._deaf = False
        self.hears = False
        """Whether notifications arrive, as far as is known."""

    async def run(self) -> None:
        """Listen until cancelled, reconnecting with backoff."""
        tries = 0
        while True:
            try:
                connection = await open_connection(self._dsn)
            except _ERRORS as error:
                tries += 1
                log.debug("LISTEN: no connection (%s)", type(error).__name__)
                await anyio.sleep(retry_delay(tries))
                continue
            tries = 0
            try:
                await self._listen(connection)
            except _ERRORS as error:
                log.debug("LISTEN: connection lost (%s)", type(error).__name__)
            finally:
                self.hears = False
                connection.terminate()
            await anyio.sleep(DEAF_RETRY_S if self._deaf else retry_delay(1))

    async def _listen(self, connection: Any) -> None:
        """Listen on one connection until it fails or turns out to be deaf."""
        await connection.add_listener(JOBS, self._heard_jobs)
        await connection.add_listener(WORKERS, self._heard_worker)
        lost = anyio.Event()
        connection.add_termination_listener(lambda _: lost.set())
        # What was inserted, cancelled or commanded before we listened has notified nobody.
        self._on_jobs("")
        self._on_worker("")
        while await self._echoes(connection):
            self.hears = True
            if self._deaf:
                self._deaf = False
                log.info("Notifications arrive again", extra={"tag": "DATABASE"})
            with anyio.move_on_after(ECHO_EVERY_S):
                await lost.wait()
                raise ConnectionResetError("the connection was closed")
        if not self._deaf:
            self._deaf = True
            log.warning(
                "Notifications do not arrive (a pooler in transaction mode?); going on by polling",
                extra={"tag": "DATABASE"},
            )

    async def _echoes(self, connection: Any) -> bool:
        self._echo = anyio.Event()
        self._expected = f"echo {uuid.uuid4()}"
        statement = query("notify")
        values = statement.arguments({"channel": WORKERS, "message": self._expected})
        await connection.execute(statement.text, *values)
        with anyio.move_on_after(ECHO_WAIT_S):
            await self._echo.wait()
        return self._echo.is_set()

    def _heard_jobs(self, _connection: Any, _pid: int, _channel: str, payload: Any) -> None:
        self._on_jobs(str(payload))

    def _heard_worker(self, _connection: Any, _pid: int, _channel: str, payload: Any) -> None:
        if payload == self._expected:
            self._echo.set()
        elif not str(payload).startswith("echo "):
            self._on_worker(str(payload))
