"""A deep queue: does a claim cost the same with a million jobs around, and while nothing is vacuumed?"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import psycopg

from benchmarks.harness import STATEMENTS, Arena, Server
from benchmarks.systems import DREAMCUTS, Entry

WINDOWS = 4


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
