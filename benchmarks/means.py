"""What the tables of DreamCuts alone are measured with: its workers, films, and waiting for them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import psycopg

from benchmarks.harness import Arena, BenchError, WorkerProcess
from benchmarks.systems import DREAMCUTS, Entry

SQL = DREAMCUTS.sql
DEADLINE_S = 300.0
WARM_UP_S = 0.02


def entry(slots: int, types: list[str] | None = None) -> Entry:
    """A worker with so many slots for each of its types."""
    options: dict[str, Any] = {"slots": slots} | ({"types": types} if types else {})
    return Entry("own", "DreamCuts", DREAMCUTS, 0, "", options)


@contextlib.contextmanager
def ready_workers(arena: Arena, kind: Entry, count: int) -> Iterator[list[WorkerProcess]]:
    """Workers that have taken their places."""
    with arena.workers(kind, count) as running:
        for worker in running:
            if not worker.is_ready.wait(60):
                raise BenchError("a worker did not come up")
        yield running


@contextlib.contextmanager
def warm_worker(arena: Arena, kind: Entry) -> Iterator[None]:
    """A worker that has already got through a small film."""
    with ready_workers(arena, kind, 1):
        seconds_of(arena.connection, insert_film(arena.connection, 2, WARM_UP_S))
        yield


def insert_film(connection: psycopg.Connection[Any], scenes: int, delay: float) -> str:
    """A film of so many scenes; returns its manifest."""
    values = {"scenes": scenes, "sleep_ms": delay * 1000}
    row = connection.execute(SQL["insert_film"].psycopg_text, values).fetchone()
    assert row is not None
    return str(row[0])


def seconds_of(connection: psycopg.Connection[Any], film: str) -> float:
    """Wait for the film; the seconds from its insert to its end, by the database's clock."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        row = connection.execute(SQL["film_seconds"].psycopg_text, {"film": film}).fetchone()
        if row is not None and row[0] is not None:
            return float(row[0])
        time.sleep(0.02)
    raise BenchError("a film was not finished in time")


def wait_until_done(arena: Arena) -> None:
    """Until no job is left."""
    deadline = time.monotonic() + DEADLINE_S
    while arena.unfinished():
        if time.monotonic() > deadline:
            raise BenchError("jobs were left")
        time.sleep(0.01)
