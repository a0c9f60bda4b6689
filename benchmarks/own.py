"""What only DreamCuts has, or what a table beside peers does not show: graphs, idle workers, memory."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg

from benchmarks.harness import STATEMENTS, Arena, BenchError, Server, WorkerProcess, process_cpu
from benchmarks.results import Table, percentile
from benchmarks.systems import DREAMCUTS, Entry

SQL = DREAMCUTS.sql
DEADLINE_S = 300.0
LISTENERS = (0, 1, 100)


def own_tables(server: Server, arena: Arena, scale: float) -> list[Table]:
    """All of them; `scale` makes the numbers of jobs smaller."""
    tables = []
    for measure in (makespans, fairness, hand_offs, fans, listeners, idle, memory):
        table = measure(server, arena, scale)
        tables.append(table)
        print(f"{table.title}: " + "; ".join(", ".join(row) for row in table.rows), flush=True)
    return tables


def entry(slots: int, types: list[str] | None = None) -> Entry:
    """A worker with so many slots for each of its types."""
    options: dict[str, Any] = {"slots": slots} | ({"types": types} if types else {})
    return Entry("own", "DreamCuts", DREAMCUTS, 0, "", options)


def makespans(_server: Server, arena: Arena, scale: float) -> Table:
    """Films of 10, 100 and 1,000 scenes: an image, a video made of it, and one render of all videos."""
    delay, rows = 0.5, []
    for scenes, slots in ((10, 10), (100, 10), (1000, 100)):
        scenes = max(slots, int(scenes * min(1.0, scale)))
        arena.reset()
        with ready_workers(arena, entry(slots), 1):
            film = insert_film(arena.connection, scenes, delay)
            took = seconds_of(arena.connection, film)
        waves = -(-scenes // slots)
        # The videos of the first wave begin when its images are there; then comes the render.
        best = (waves + 2) * delay
        rows.append(
            [f"{scenes:,} scenes, {slots} slots a type", f"{best:.2f}", f"{took:.2f}", f"{took / best:.3f}"]
        )
    return Table(
        "A film's makespan",
        f"Seconds from the insert to the last job, when every provider takes {delay:g} s. Each scene is an "
        "image and a video made of it; one render needs all videos. The least possible is the critical path, "
        "given the slots.",
        ["film", "least possible, s", "measured, s", "ratio"],
        rows,
    )


def fairness(_server: Server, arena: Arena, scale: float) -> Table:
    """Many films at once, and a small one behind a huge one."""
    delay, slots, rows = 0.1, 10, []
    films = max(50, int(1000 * min(1.0, scale)))
    arena.reset()
    with ready_workers(arena, entry(slots), 1):
        began = time.monotonic()
        arena.connection.execute(
            SQL["insert_small_films"].psycopg_text, {"films": films, "sleep_ms": delay * 1000}
        )
        wait_until_done(arena)
        took = time.monotonic() - began
    best = films * delay / slots
    rows.append([f"{films:,} films of three jobs", f"{best:.2f}", f"{took:.2f}", f"{took / best:.3f}"])
    arena.reset()
    with ready_workers(arena, entry(slots), 1):
        insert_film(arena.connection, max(200, int(2000 * min(1.0, scale))), delay)
        time.sleep(1)
        small = insert_film(arena.connection, 5, delay)
        took = seconds_of(arena.connection, small)
    rows.append(
        [
            "5 scenes, one second behind a film of 2,000",
            f"{3 * delay:.2f}",
            f"{took:.2f}",
            f"{took / (3 * delay):.2f}",
        ]
    )
    return Table(
        "Many films",
        f"Every provider takes {delay:g} s; {slots} slots a type. Least possible: the work divided by the "
        "slots; for the small film its own critical path, as if it were alone.",
        ["films", "least possible, s", "measured, s", "ratio"],
        rows,
    )


def hand_offs(_server: Server, arena: Arena, scale: float) -> Table:
    """From the end of a job to the start of the one that waits for it."""
    rows = []
    apart = [["bench_1"], ["bench_2"]]
    for name, served in (("the same worker", [["bench_1", "bench_2"]]), ("two workers, a type each", apart)):
        arena.reset()
        with contextlib.ExitStack() as stack:
            for types in served:
                stack.enter_context(ready_workers(arena, entry(2, types), 1))
            time.sleep(1)
            for _ in range(max(20, int(200 * min(1.0, scale)))):
                arena.connection.execute(SQL["insert_pair"].text)
                time.sleep(0.02)
            wait_until_done(arena)
        waits = [row[0] for row in arena.connection.execute(SQL["hand_offs"].text)]
        rows.append([name, *(f"{percentile(waits, share):.2f}" for share in (0.5, 0.95, 0.99))])
    return Table(
        "Hand-off",
        "Milliseconds from the end of a job's handler to the start of the handler of the job that waits for "
        "it: its outcome is written, the dependent freed, the worker woken, the job claimed.",
        ["who runs them", "p50", "p95", "p99"],
        rows,
    )


def fans(_server: Server, arena: Arena, scale: float) -> Table:
    """One job on many, many on one."""
    rows = []
    for width in (1000, 10_000):
        width = max(100, int(width * min(1.0, scale)))
        for name, statement in (("one job on {:,}", "insert_fan_in"), ("{:,} jobs on one", "insert_fan_out")):
            arena.reset()
            began = time.monotonic()
            arena.connection.execute(SQL[statement].psycopg_text, {"width": width})
            inserted = time.monotonic() - began
            arena.connection.execute(STATEMENTS["tidy"].text)
            with ready_workers(arena, entry(70), 1):
                began = time.monotonic()
                wait_until_done(arena)
                took = time.monotonic() - began
            rows.append([name.format(width), f"{width / inserted:,.0f}", f"{width / took:,.0f}"])
    return Table(
        "Fan-in and fan-out",
        "Jobs that do nothing, in one manifest. Edges inserted per second (one statement), then jobs per "
        "second.",
        ["graph", "edges/s", "jobs/s"],
        rows,
    )


def listeners(server: Server, arena: Arena, scale: float) -> Table:
    """Inserts at full rate from four sessions while a busy worker's and others' sessions listen."""
    rows = []
    seconds = max(1.0, 3.0 * min(1.0, scale))
    for count in LISTENERS:
        rates = []
        for _ in range(3):
            arena.reset()
            arena.connection.execute(SQL["enter_busy_workers"].psycopg_text, {"workers": count})
            with contextlib.ExitStack() as stack:
                for _ in range(count):
                    listener = stack.enter_context(server.connect(DREAMCUTS.key))
                    listener.execute(SQL["listen"].text)
                rates.append(insert_rate(server, seconds))
        rows.append([f"{count}", f"{statistics.median(rates):,.0f}"])
    return Table(
        "Inserts beside listeners",
        "Single inserts per second, from four sessions, while so many workers listen that have enough to do: "
        "nobody sleeps, so nobody is woken. Median of three.",
        ["listening workers", "inserts/s"],
        rows,
    )


def idle(server: Server, arena: Arena, scale: float) -> Table:
    """What workers cost that have nothing to do."""
    rows = []
    seconds = max(10.0, 60.0 * min(1.0, scale))
    for count in (1, max(5, int(20 * min(1.0, scale)))):
        arena.reset()
        quiet = dataclasses.replace(
            entry(3), options={"slots": 3, "report_s": 30.0}
        )  # or the report would be what is measured
        with ready_workers(arena, quiet, count) as workers:
            time.sleep(30)  # they look more and more rarely; this is the steady state
            before, cpu_before = arena.statements(), sum(worker.cpu_seconds() for worker in workers)
            backends = backend_cpu(arena)
            time.sleep(seconds)
            asked = arena.statements() - before
            spent = sum(worker.cpu_seconds() for worker in workers) - cpu_before
            server_spent = backend_cpu(arena) - backends
        rows.append(
            [
                f"{count}",
                f"{asked / seconds / count:.2f}",
                f"{spent / seconds / count * 100:.3f} %",
                f"{server_spent / seconds / count * 100:.3f} %",
            ]
        )
    return Table(
        "Idle workers",
        f"For each worker of seven types, over {seconds:g} s: statements per second, and the share of one "
        "core that the process and its sessions in Postgres use.",
        ["workers", "statements/s", "worker", "server"],
        rows,
    )


def memory(_server: Server, arena: Arena, scale: float) -> Table:
    """A worker's resident size over many jobs."""
    rows = []
    arena.reset()
    jobs = max(20_000, int(1_000_000 * min(1.0, scale)))
    arena.connection.execute(SQL["fill_ready"].psycopg_text, {"jobs": jobs})
    arena.connection.execute(STATEMENTS["tidy"].text)
    with ready_workers(arena, entry(70), 1) as (worker,):
        for share in (0.1, 0.5, 1.0):
            deadline = time.monotonic() + DEADLINE_S
            while worker.started < jobs * share:
                worker.check()
                if time.monotonic() > deadline:
                    raise BenchError("the worker did not get through its jobs")
                time.sleep(0.05)
            rows.append([f"{int(jobs * share):,}", f"{worker.resident_mb():.0f}"])
    return Table(
        "Memory",
        f"A worker's resident size in MB while it gets through {jobs:,} jobs, all there from the start.",
        ["jobs done", "MB"],
        rows,
    )


# Means


@contextlib.contextmanager
def ready_workers(arena: Arena, kind: Entry, count: int) -> Iterator[list[WorkerProcess]]:
    """Workers that have taken their places."""
    with arena.workers(kind, count) as running:
        for worker in running:
            if not worker.is_ready.wait(60):
                raise BenchError("a worker did not come up")
        yield running


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


def insert_rate(server: Server, seconds: float) -> float:
    """Single inserts per second by four sessions together."""
    counts = [0] * 4

    def insert(place: int) -> None:
        with server.connect(DREAMCUTS.key) as connection:
            ends = time.monotonic() + seconds
            while time.monotonic() < ends:
                connection.execute(SQL["insert_one"].text, prepare=True)
                counts[place] += 1

    threads = [threading.Thread(target=insert, args=(place,)) for place in range(len(counts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


def backend_cpu(arena: Arena) -> float:
    """CPU seconds of the queue's sessions in the server, which runs on this machine."""
    return sum(process_cpu(pid) for pid in arena.session_pids())
