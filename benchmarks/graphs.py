"""Films and other graphs, which only DreamCuts has: makespans, fairness, hand-offs, fan-in and fan-out."""

from __future__ import annotations

import contextlib
import time

from benchmarks.harness import STATEMENTS, Arena, Server
from benchmarks.means import SQL, entry, insert_film, ready_workers, seconds_of, wait_until_done, warm_worker
from benchmarks.results import Table, percentile

WARM = "A worker lives for days: it has got through a small film before the clock starts."


def makespans(_server: Server, arena: Arena, scale: float) -> Table:
    """Films of 10, 100 and 1,000 scenes: an image, a video made of it, and one render of all videos."""
    delay, rows = 1.0, []
    for scenes, slots in ((10, 10), (100, 10), (1000, 100)):
        scenes = max(slots, int(scenes * min(1.0, scale)))
        arena.reset()
        with warm_worker(arena, entry(slots)):
            film = insert_film(arena.connection, scenes, delay)
            took = seconds_of(arena.connection, film)
        waves = -(-scenes // slots)
        # The videos of the first wave begin when its images are there; then comes the render.
        best = (waves + 2) * delay
        rows.append([f"{scenes:,} scenes, {slots} slots a type", *_beside(best, took)])
    return Table(
        "A film's makespan",
        f"Seconds from the insert to the last job, when every provider takes {delay:g} s. Each scene is an "
        "image and a video made of it; one render needs all videos. The least possible is the critical path, "
        f"given the slots. {WARM}",
        ["film", "least possible, s", "measured, s", "ratio"],
        rows,
    )


def fairness(_server: Server, arena: Arena, scale: float) -> Table:
    """Many films at once, and a small one behind a huge one."""
    delay, slots = 0.5, 50
    films = max(slots, int(1000 * min(1.0, scale)))
    arena.reset()
    with warm_worker(arena, entry(slots)):
        began = time.monotonic()
        arena.connection.execute(
            SQL["insert_small_films"].psycopg_text, {"films": films, "sleep_ms": delay * 1000}
        )
        wait_until_done(arena)
        took = time.monotonic() - began
    waves = -(-films // slots)
    rows = [
        [
            f"{films:,} films of three jobs; {delay:g} s, {slots} slots a type",
            *_beside((waves + 2) * delay, took),
        ]
    ]
    short, few = 0.1, 10
    scenes = max(200, int(2000 * min(1.0, scale)))
    arena.reset()
    with warm_worker(arena, entry(few)):
        insert_film(arena.connection, scenes, short)
        time.sleep(1)
        small = insert_film(arena.connection, 5, short)
        took = seconds_of(arena.connection, small)
    rows.append(
        [
            f"5 scenes, one second behind a film of {scenes:,}; {short:g} s, {few} slots a type",
            *_beside(3 * short, took),
        ]
    )
    return Table(
        "Many films",
        "Every provider takes as long as the row says. Least possible for the many films: each type's work "
        f"divided by its slots, {waves * delay:g} s, and then the two later jobs of the films that began "
        f"last, {2 * delay:g} s; for the small film its own critical path, as if it were alone. {WARM}",
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


def _beside(best: float, took: float) -> list[str]:
    return [f"{best:.2f}", f"{took:.2f}", f"{took / best:.3f}"]
