"""What only DreamCuts has, or what a table beside peers does not show: graphs, more workers, costs."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import threading
import time

import psycopg

from benchmarks.assets import large_assets
from benchmarks.graphs import fairness, fans, hand_offs, makespans
from benchmarks.harness import STATEMENTS, Arena, BenchError, Server, process_cpu
from benchmarks.means import DEADLINE_S, SQL, entry, ready_workers
from benchmarks.results import Table
from benchmarks.systems import DREAMCUTS, ENTRIES
from dreamcuts.client import Client

LISTENERS = (0, 1, 100)
WORKERS = (1, 2, 4)
AT_ONCE = 100
"""Jobs in one transaction, where many are enqueued in one."""


def own_tables(server: Server, arena: Arena, scale: float) -> list[Table]:
    """All of them; `scale` makes the numbers of jobs smaller."""
    tables = []
    for measure in (
        makespans,
        fairness,
        hand_offs,
        fans,
        enqueues,
        more_workers,
        listeners,
        idle,
        memory,
        large_assets,
    ):
        table = measure(server, arena, scale)
        tables.append(table)
        print(f"{table.title}: " + "; ".join(", ".join(row) for row in table.rows), flush=True)
    return tables


def enqueues(server: Server, arena: Arena, scale: float) -> Table:
    """The plain INSERT beside `Client.enqueue`, in a transaction each and in one for many."""
    jobs = max(AT_ONCE, int(1000 * scale))
    ways = {
        "plain INSERT, asyncpg": lambda: arena.single(jobs),
        "`Client.enqueue`, psycopg": lambda: client_rate(server, arena, jobs, 1),
        f"`Client.enqueue`, {AT_ONCE} in a transaction": lambda: client_rate(server, arena, jobs, AT_ONCE),
    }
    rounds = [{name: measure() for name, measure in ways.items()} for _ in range(3)]
    rates = {name: statistics.median(found[name] for found in rounds) for name in ways}
    return Table(
        "Enqueue one at a time",
        f"{jobs:,} jobs of seven types, one call after the other on one connection; each is its own "
        "transaction where nothing else is said. The ways take turns; median of three.",
        ["how", "jobs/s", "microseconds a job"],
        [[name, f"{rate:,.0f}", f"{1e6 / rate:,.0f}"] for name, rate in rates.items()],
    )


def more_workers(_server: Server, arena: Arena, scale: float) -> Table:
    """Drain with ever more processes."""
    (default,) = [one for one in ENTRIES if one.key == "dreamcuts"]
    jobs = max(2000, int(120_000 * scale))
    rates = {}
    for count in WORKERS:
        runs = []
        for _ in range(2):
            arena.reset()
            arena.bulk(jobs)
            runs.append(arena.drain(default, jobs, count).rate)
        rates[count] = statistics.median(runs)
    return Table(
        "More workers",
        f"Drain of {jobs:,} jobs by so many worker processes with default settings, all on this machine; "
        "from the first worker's first job, so that the others' start is in it. Median of two.",
        ["workers", "jobs/s", "to one worker"],
        [[f"{count}", f"{rate:,.0f}", f"{rate / rates[1]:.2f}"] for count, rate in rates.items()],
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


def client_rate(server: Server, arena: Arena, jobs: int, at_once: int) -> float:
    """Jobs per second by `Client.enqueue`, from this process, `at_once` in a transaction."""
    arena.reset()
    with psycopg.connect(server.dsn(DREAMCUTS.key), autocommit=True) as connection:
        client = Client(connection)
        began = time.perf_counter()
        for first in range(0, jobs, at_once):
            with connection.transaction() if at_once > 1 else contextlib.nullcontext():
                for number in range(first, min(first + at_once, jobs)):
                    client.enqueue(f"bench_{1 + number % 7}", {})
        return jobs / (time.perf_counter() - began)


def insert_rate(server: Server, seconds: float) -> float:
    """Single inserts per second by four sessions together."""
    counts = [0] * 4
    values = {"type": "bench_1", "payload": "{}"}

    def insert(place: int) -> None:
        with server.connect(DREAMCUTS.key) as connection:
            ends = time.monotonic() + seconds
            while time.monotonic() < ends:
                connection.execute(SQL["insert"].psycopg_text, values, prepare=True)
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
