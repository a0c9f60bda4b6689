"""A deep queue: does a claim cost the same with a million jobs around, unvacuumed, and on and on?"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import psycopg

from benchmarks.harness import BATCH, STATEMENTS, Arena, Server, WorkerProcess
from benchmarks.systems import DREAMCUTS, Entry
from dreamcuts.bench.noop import DEFAULT_SLOTS
from dreamcuts.db.sql import query

WINDOWS = 4
STEADY_WINDOWS = 10
STEADY_READY = 100_000


def deep_rates(server: Server, arena: Arena, entry: Entry, jobs: int, seconds: float) -> dict[str, object]:
    """Starts per second, window by window: plain, with other jobs around, and under a held snapshot."""
    rates: dict[str, list[float]] = {}
    for name, around, held in (("plain", False, False), ("around", True, False), ("held", False, True)):
        arena.reset()
        _fill(arena, jobs, around)
        with _snapshot(server) if held else contextlib.nullcontext():
            rates[name] = arena.progress(entry, seconds, seconds / WINDOWS)
        print(f"depth, {name}: " + ", ".join(f"{rate:,.0f}" for rate in rates[name]) + " per s", flush=True)
    return {"jobs": jobs, "window": seconds / WINDOWS, "rates": rates}


def steady_rates(arena: Arena, entry: Entry, seconds: float, scale: float) -> dict[str, object]:
    """Starts per second in each tenth of the time, while a producer keeps a number of jobs ready.

    `ready` is that number, `least` the fewest that were seen: far fewer, and the producer did not keep up.
    """
    arena.reset()
    producer = Producer(arena, max(2 * BATCH, int(STEADY_READY * min(1.0, scale))))
    producer.fill()
    arena.connection.execute(STATEMENTS["tidy"].text)
    arena.connection.execute(STATEMENTS["checkpoint"].text)
    rates = arena.progress(entry, seconds, seconds / STEADY_WINDOWS, producer.top_up)
    print("depth, steady: " + ", ".join(f"{rate:,.0f}" for rate in rates) + " per s", flush=True)
    return {"seconds": seconds, "ready": producer.ready, "least": producer.least, "rates": rates}


class Producer:
    """Inserts a batch whenever fewer than `ready` jobs are there: in this process, which is idle otherwise.

    What is ready is told by what the worker has started, which costs the server nothing.
    """

    def __init__(self, arena: Arena, ready: int) -> None:
        self.ready = ready
        self.least = ready
        self._arena = arena
        self._inserted = 0

    def fill(self) -> None:
        """Make all of them, before a worker is there."""
        while self._inserted < self.ready:
            self._insert()

    def top_up(self, worker: WorkerProcess, end: float) -> None:
        """Do so until `end` (time.monotonic)."""
        while time.monotonic() < end:
            left = self._inserted - worker.started
            self.least = min(self.least, left)
            if left < self.ready:
                self._insert()
            else:
                time.sleep(0.005)

    def _insert(self) -> None:
        values = {"types": list(DEFAULT_SLOTS), "jobs": BATCH}
        self._arena.connection.execute(query("bench_insert").psycopg_text, values)
        self._inserted += BATCH


def _fill(arena: Arena, jobs: int, around: bool) -> None:
    # With a client-side cursor: scripts of several statements, with a number filled in.
    with psycopg.ClientCursor(arena.connection) as cursor:
        cursor.execute(DREAMCUTS.sql["fill_ready"].psycopg_text, {"jobs": jobs})
        if around:
            cursor.execute(DREAMCUTS.sql["fill_around"].psycopg_text, {"jobs": jobs})
    arena.connection.execute(STATEMENTS["tidy"].text)
    arena.connection.execute(STATEMENTS["checkpoint"].text)


@contextlib.contextmanager
def _snapshot(server: Server) -> Iterator[None]:
    """Another session's transaction, open for as long as the block: dead rows cannot be removed."""
    with server.connect(DREAMCUTS.key) as connection:
        connection.autocommit = False
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.execute(STATEMENTS["hold"].text)
        yield
        connection.rollback()
