"""LISTEN: it hears, it comes back after a lost connection, and it says so when it is deaf."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import anyio
import psycopg
import pytest

from dreamcuts.queue import listener as module
from dreamcuts.queue.listener import Listener
from dreamcuts.queue.outage import Outage, retry_delay
from tests.support import Queue, until

pytestmark = pytest.mark.anyio


class Heard:
    """What a listener called, in order, and waiting for it."""

    def __init__(self, database: str) -> None:
        self.lines: list[str] = []
        self._changed = anyio.Event()
        self.listener = Listener(
            database,
            on_jobs=lambda type: self._add(f"jobs:{type}"),
            on_worker=lambda worker: self._add(f"worker:{worker}"),
        )

    def _add(self, line: str) -> None:
        self.lines.append(line)
        self._changed.set()

    async def until(self, line: str, times: int = 1) -> None:
        while self.lines.count(line) < times:
            self._changed = anyio.Event()
            await self._changed.wait()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.listener.run)
            with anyio.fail_after(30):
                await self.until("jobs:")
                yield
            tasks.cancel_scope.cancel()


@pytest.fixture
def heard(database: str) -> Heard:
    return Heard(database)


async def test_it_hears_an_insert_and_its_name_but_no_echo(heard: Heard, queue: Queue) -> None:
    queue.worker(["tts"])
    async with heard.running():
        queue.add(None, type="tts")
        await heard.until("jobs:tts")
        queue.run("select pg_notify('dreamcut_workers', 'some-worker')")
        await heard.until("worker:some-worker")
    assert heard.lines == ["jobs:", "worker:", "jobs:tts", "worker:some-worker"]


async def test_after_a_lost_connection_it_wakes_the_worker_and_hears_again(
    heard: Heard, queue: Queue
) -> None:
    """At once, not at the next echo: with half a minute between echoes this test would not end in time."""
    queue.worker(["image"])
    async with heard.running():
        await until(heard.listener._echo.is_set)
        ended = queue.rows(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = 'dreamcuts' and datname = current_database()"
        )
        assert len(ended) == 1
        await heard.until("jobs:", times=2)
        await heard.until("worker:", times=2)
        queue.add(None, type="image")
        await heard.until("jobs:image")


async def test_a_deaf_connection_is_found_out_by_its_own_echo(
    heard: Heard, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As behind a pooler in transaction mode: LISTEN is accepted, and nothing is ever delivered."""
    monkeypatch.setattr(module, "ECHO_WAIT_S", 0.05)
    monkeypatch.setattr(module, "DEAF_RETRY_S", 0.05)
    listens = module.open_connection

    class Deaf:
        def __init__(self, connection: Any) -> None:
            self._connection = connection

        async def add_listener(self, channel: str, callback: Any) -> None:
            pass

        def __getattr__(self, name: str) -> Any:
            return getattr(self._connection, name)

    async def open_deaf(dsn: str) -> Any:
        return Deaf(await listens(dsn))

    monkeypatch.setattr(module, "open_connection", open_deaf)
    with caplog.at_level(logging.INFO, "dreamcuts"):
        async with heard.running():
            await heard.until("jobs:", times=3)  # it goes on trying
            monkeypatch.setattr(module, "open_connection", listens)
            await until(lambda: any("arrive again" in message for message in caplog.messages))
    warnings = [message for message in caplog.messages if "do not arrive" in message]
    assert len(warnings) == 1  # said once, however often it is tried


async def test_it_waits_for_a_database_that_is_not_there(
    database: str, queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Heard("postgresql://nobody@127.0.0.1:1/none")
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(heard.listener.run)
        with anyio.move_on_after(0.3):
            await heard.until("jobs:")
        assert heard.lines == []
        heard.listener._dsn = database
        with anyio.fail_after(30):
            await heard.until("jobs:")
        tasks.cancel_scope.cancel()


async def test_an_outage_is_one_line_at_its_begin_and_one_at_its_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    outage = Outage()
    with caplog.at_level(logging.DEBUG, "dreamcuts"):
        outage.ended()
        for _ in range(3):
            outage.failed(psycopg.OperationalError("connection refused\nIs it running?"))
        outage.ended()
        outage.ended()
        outage.failed(ConnectionError())
    assert [message.split("(")[0].split(" after")[0].strip() for message in caplog.messages] == [
        "The database does not answer",
        "The database is back",
        "The database does not answer",
    ]
    assert "OperationalError: connection refused)" in caplog.messages[0]


async def test_retry_delays_grow_spread_and_stay_below_the_longest() -> None:
    for tries in (1, 2, 5, 60, 100_000):
        ceiling = min(10.0, 0.2 * 2 ** min(tries, 10))
        delays = [retry_delay(tries) for _ in range(200)]
        assert ceiling / 2 <= min(delays) < max(delays) <= ceiling
