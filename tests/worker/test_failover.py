"""Postgres turns read-only for a while, as at a failover: sessions that began then must not be kept."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from dreamcuts.db.pool import open_pool
from dreamcuts.embedded import EmbeddedPostgres
from dreamcuts.queue.store import Store
from tests.support import Queue, until
from tests.worker.conftest import Start
from tests.worker.play import Play
from tests.worker.test_lease import KILL
from tests.worker.test_running import do, status

pytestmark = pytest.mark.anyio

WRITABLE = "select not current_setting('transaction_read_only')::bool"


@contextmanager
def read_only(database: str, queue: Queue) -> Iterator[None]:
    """For the block, new sessions of the database take no writes; those that were there are ended."""
    server, name = database.rsplit("/", 1)
    with psycopg.connect(f"{server}/postgres", autocommit=True) as outside:
        outside.execute(f'alter database "{name}" set default_transaction_read_only = on')
        queue.rows(KILL)
        yield
        outside.execute(f'alter database "{name}" reset default_transaction_read_only')


async def test_a_worker_goes_on_when_postgres_takes_writes_again(
    start: Start,
    queue: Queue,
    play: Play,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The heartbeat's session and the outbox's began read-only, and would stay so for good."""
    refused: set[str] = set()
    run = Store._run

    async def watched(self: Store, name: str, **parameters: Any) -> Any:
        try:
            return await run(self, name, **parameters)
        except asyncpg.ReadOnlySQLTransactionError:
            refused.add(name)
            raise

    monkeypatch.setattr(Store, "_run", watched)
    jobs = [queue.add(None, payload=do("wait")) for _ in range(3)]
    async with start() as worker:
        await until(lambda: play.active == 3)
        with read_only(database, queue):
            play.go.set()
            # Both pools have met it: claims and outcomes share one, the heartbeats have the other.
            await until(lambda: refused >= {"complete_jobs", "heartbeat"})
        await until(lambda: status(queue, *jobs) == ["completed"] * 3)
        before = worker._lease.last_beat
        await until(lambda: worker._lease.last_beat > before)
        more = queue.add(None, payload=do("quick"))
        await until(lambda: status(queue, more) == ["completed"])
    assert {queue.job(job)["claims"] for job in jobs} == {1}
    # A line per change of state, however many tries were refused. Heartbeats, outcomes and claims have a
    # session each, which may find out later than the others that it takes no writes: an outage each at most.
    lines = re.findall("The database (does not answer|is back)", caplog.text)
    assert lines == ["does not answer", "is back"] * (len(lines) // 2)
    assert len(lines) in (2, 4, 6)


@pytest.fixture
def standby() -> Iterator[EmbeddedPostgres]:
    """A server that takes no writes."""
    with EmbeddedPostgres(prefer="system", settings={"default_transaction_read_only": "on"}) as server:
        yield server


async def test_of_several_hosts_the_one_that_takes_writes_is_used(
    postgres_server: EmbeddedPostgres, standby: EmbeddedPostgres
) -> None:
    login = conninfo_to_dict(postgres_server.dsn("postgres"))
    with psycopg.connect(standby.dsn("postgres"), autocommit=True) as connection:
        connection.execute("set default_transaction_read_only = off")
        connection.execute(sql.SQL("alter role postgres password {}").format(login["password"]))
    hosts = f"127.0.0.1:{standby.port},127.0.0.1:{postgres_server.port}"
    dsn = f"postgresql://postgres:{login['password']}@{hosts}/postgres"
    pool = await open_pool(dsn, size=1)
    try:
        assert await pool.fetchval(WRITABLE)
    finally:
        pool.terminate()
    anyone = await open_pool(f"{dsn}?target_session_attrs=any", size=1)
    try:
        assert not await anyone.fetchval(WRITABLE)  # as the operator has asked
    finally:
        anyone.terminate()
