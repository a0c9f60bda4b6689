"""How long the views take on a large queue: every one that the catalog has.

    python benchmarks/views.py                      on an embedded Postgres
    python benchmarks/views.py --dsn postgresql://… on a server; makes and drops a database of its own there

Fills a database with finished and pending jobs (a third each ready, delayed and blocked), as many
provider calls as finished jobs, some hours of outcomes by minute and three months by hour, then asks each
view a few times. Prints the median of planning and execution in the server, in milliseconds, and fails if
one is over the limit.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import LiteralString

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from dreamcuts.db.migrate import migrate
from dreamcuts.embedded import EmbeddedPostgres

LIMIT_MS = 50.0
ONE_MANIFEST: LiteralString = " where manifest_id = '00000000-0000-4000-8000-000000000007'"
PART_OF: dict[str, LiteralString] = {
    # These say more about each row of a table, and have as many rows as that; so they are asked for some.
    "dreamcut_job_states": ONE_MANIFEST,
    "dreamcut_spend": ONE_MANIFEST,
    "dreamcut_committed_spend": ONE_MANIFEST,
    "dreamcut_ended_calls": " where finished_at > now() - interval '5 minutes'",
}
"""Views that are not asked for all that they have, with the condition that is added. All others are."""


def main() -> int:
    """Fill, measure, print; 1 if a view is over the limit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dsn", help="A server where a database may be made")
    parser.add_argument("--finished", type=int, default=1_000_000)
    parser.add_argument("--pending", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        server = options.dsn or stack.enter_context(EmbeddedPostgres()).dsn()
        dsn = stack.enter_context(_database(server))
        migrate(dsn)
        with psycopg.connect(dsn, autocommit=True) as connection:
            began = time.monotonic()
            _fill(connection, options.finished, options.pending)
            print(
                f"{options.finished:,} finished and {options.pending:,} pending jobs "
                f"in {time.monotonic() - began:.0f} s"
            )
            slowest = max(_measure(connection, view, options.rounds) for view in all_views(connection))
    return 0 if slowest <= LIMIT_MS else 1


def all_views(connection: psycopg.Connection) -> list[str]:
    """The schema's views by name, from the catalog."""
    rows = connection.execute(
        "select relname from pg_class where relkind = 'v' and relnamespace = 'public'::regnamespace"
        r" and relname like 'dreamcut\_%' order by 1"
    ).fetchall()
    return [name for (name,) in rows]


def question(view: str) -> sql.Composed:
    """The statement that asks a view."""
    return sql.SQL("select * from {}{}").format(sql.Identifier(view), sql.SQL(PART_OF.get(view, "")))


@contextlib.contextmanager
def _database(server: str) -> Iterator[str]:
    name = "dreamcuts_views_benchmark"
    with psycopg.connect(server, autocommit=True) as connection:
        drop = sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name))
        connection.execute(drop)
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        try:
            yield make_conninfo(server, dbname=name)
        finally:
            connection.execute(drop)


def _fill(connection: psycopg.Connection, finished: int, pending: int) -> None:
    # With a client-side cursor: one script of several statements, its two numbers filled in.
    script = (Path(__file__).parent / "views_fill.sql").read_text("utf-8")
    with psycopg.ClientCursor(connection) as cursor:
        cursor.execute(script, {"finished": finished, "pending": pending})
    connection.execute("vacuum (analyze)")


def _measure(connection: psycopg.Connection, view: str, rounds: int) -> float:
    asked = question(view)
    rows = len(connection.execute(asked).fetchall())
    times: list[float] = []
    for _ in range(rounds):
        answer = connection.execute(sql.SQL("explain (analyze, timing off, format json) {}").format(asked))
        (plan,) = answer.fetchone() or ([{}],)
        times.append(plan[0]["Planning Time"] + plan[0]["Execution Time"])
    median = statistics.median(times)
    print(f"{view:32} {median:7.1f} ms   {rows:7,} rows{'   OVER THE LIMIT' if median > LIMIT_MS else ''}")
    return median


if __name__ == "__main__":
    sys.exit(main())
