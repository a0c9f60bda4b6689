"""Measure a database: how fast it takes jobs, and how fast a worker on this machine gets through them.

All is done in a scratch database on the same server, made for the purpose and dropped at the end; jobs of
other databases are never touched. The jobs do nothing, so that the figures are the queue's own.
"""

from __future__ import annotations

# The only program that is run here is this Python, with arguments of our making.
# ruff: noqa: S603
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import psycopg
from psycopg.rows import dict_row

from dreamcuts.bench.noop import DEFAULT_SLOTS
from dreamcuts.client import Client
from dreamcuts.config import Settings
from dreamcuts.db.address import first_line
from dreamcuts.db.migrate import connect, migrate
from dreamcuts.db.sql import query
from dreamcuts.errors import ConfigError, DatabaseError
from dreamcuts.processes import end_process, uninterrupted

BULK = 2000
"""Jobs in one insert statement."""
PAUSE_S = 0.02
"""Between two jobs when the pickup is measured: the worker is idle again by then."""

Connection = psycopg.Connection[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure. `slots` are jobs at a time by type, of each worker."""

    jobs: int = 10_000
    singles: int = 500
    pickups: int = 200
    workers: int = 1
    slots: Mapping[str, int] | None = None
    timeout_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured: rates in jobs per second, pickup in milliseconds, log in bytes per drained job."""

    bulk_rate: float
    single_rate: float
    drain_rate: float
    wal_bytes: float
    pickup_p50_ms: float
    pickup_p95_ms: float
    pickup_p99_ms: float
    server: dict[str, str]


def measure(dsn: str, plan: Plan) -> Measured:
    """Measure the server of `dsn`. Raises DatabaseError if no scratch database can be made, or time is up."""
    slots = dict(plan.slots or DEFAULT_SLOTS)
    with _scratch(dsn) as scratch, connect(scratch) as plain:
        connection = psycopg.connect(scratch, autocommit=True, row_factory=dict_row)
        with plain, connection:
            _run(connection, "bench_tidy")
            single_rate = _singles(Client(plain), plan.singles, list(slots))
            _run(connection, "bench_empty")
            bulk_rate = _bulk(connection, plan.jobs, list(slots))
            _run(connection, "bench_tidy")
            drain_rate, wal_bytes = _drain(connection, scratch, plan, slots)
            _run(connection, "bench_empty")
            pickup = _pickup(connection, plain, scratch, plan, slots)
            server = _row(connection, "bench_server")
    del server["wal_bytes"]
    return Measured(
        bulk_rate=bulk_rate,
        single_rate=single_rate,
        drain_rate=drain_rate,
        wal_bytes=wal_bytes,
        pickup_p50_ms=pickup["p50"],
        pickup_p95_ms=pickup["p95"],
        pickup_p99_ms=pickup["p99"],
        server=server,
    )


def _singles(client: Client, count: int, types: list[str]) -> float:
    began = time.perf_counter()
    for number in range(count):
        client.enqueue(types[number % len(types)], {})
    return count / (time.perf_counter() - began)


def _bulk(connection: Connection, count: int, types: list[str]) -> float:
    began = time.perf_counter()
    for done in range(0, count, BULK):
        _run(connection, "bench_insert", types=types, jobs=min(BULK, count - done))
    return count / (time.perf_counter() - began)


def _drain(connection: Connection, dsn: str, plan: Plan, slots: Mapping[str, int]) -> tuple[float, float]:
    """Jobs per second by the database's clock, and bytes of write-ahead log for each."""
    before = _row(connection, "bench_server")["wal_bytes"]
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(_worker(dsn, slots, until_idle=True)) for _ in range(plan.workers)]
        _wait_until_finished(connection, workers, plan.timeout_s)
    written = _row(connection, "bench_server")["wal_bytes"] - before
    drained = _row(connection, "bench_drained")
    return drained["jobs"] / max(drained["seconds"], 1e-6), written / drained["jobs"]


def _pickup(
    connection: Connection, plain: psycopg.Connection[Any], dsn: str, plan: Plan, slots: Mapping[str, int]
) -> dict[str, Any]:
    client = Client(plain)
    types = list(slots)
    with _worker(dsn, slots) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()  # it has taken its place
        for number in range(plan.pickups):
            client.enqueue(types[number % len(types)], {"sentAt": time.time()})
            time.sleep(PAUSE_S)
        _wait_until_finished(connection, [worker], plan.timeout_s)
    return _row(connection, "bench_pickup")


def _wait_until_finished(
    connection: Connection, workers: list[subprocess.Popen[bytes]], timeout_s: float
) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        ended = all(
            worker.poll() is not None for worker in workers
        )  # asked before: they end when all is done
        left = _row(connection, "bench_unfinished")["count"]
        if not left:
            return
        if ended:
            raise DatabaseError(f"The workers ended, and {left} jobs are left. See their errors above.")
        if time.monotonic() > deadline:
            raise DatabaseError(f"{left} jobs were left after {timeout_s:g} s. Measure fewer jobs.")
        time.sleep(0.05)


@contextlib.contextmanager
def _worker(
    dsn: str, slots: Mapping[str, int], *, until_idle: bool = False
) -> Iterator[subprocess.Popen[bytes]]:
    """A worker process, ended at the end of the block."""
    # The user's own settings (a slower poll, a pooler's) are not what is measured, and no key is needed.
    names = {name.upper() for name in Settings.model_fields}
    environment = {name: text for name, text in os.environ.items() if name.upper() not in names}
    options = json.dumps({"slots": dict(slots), "until_idle": until_idle})
    with uninterrupted():
        process = subprocess.Popen(
            [sys.executable, "-m", "dreamcuts.bench", options],
            env={**environment, "DATABASE_URL": dsn},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with uninterrupted():
            end_process(process, signal.SIGTERM)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


@contextlib.contextmanager
def _scratch(dsn: str) -> Iterator[str]:
    """The address of a new database with the schema, on the server of `dsn`; dropped at the end."""
    if urlsplit(dsn).scheme not in ("postgresql", "postgres"):
        raise ConfigError("The server must be given as a URL: postgresql://user:password@host/database.")
    name = f"dreamcuts_bench_{uuid.uuid4().hex[:12]}"
    with connect(dsn) as connection:
        try:
            _execute_text(connection, "create_database_text", name=name, template="template0")
        except psycopg.Error as error:
            raise DatabaseError(
                f"No scratch database can be made on this server: {first_line(error)}. The benchmark "
                "measures only in a database of its own: grant CREATEDB to this user, or name another "
                "server with --server."
            ) from None
        try:
            scratch = urlsplit(dsn)._replace(path=f"/{name}").geturl()
            migrate(scratch)
            yield scratch
        finally:
            with uninterrupted():
                _execute_text(connection, "drop_database_text", name=name)


def _execute_text(connection: psycopg.Connection[Any], writer: str, /, **values: Any) -> None:
    row = connection.execute(query(writer).psycopg_text, values).fetchone()
    assert row is not None
    connection.execute(row[0])


def _run(connection: Connection, name: str, **values: Any) -> None:
    connection.execute(query(name).psycopg_text, values)


def _row(connection: Connection, name: str) -> dict[str, Any]:
    row = connection.execute(query(name).psycopg_text).fetchone()
    assert row is not None
    return row
