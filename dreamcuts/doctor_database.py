"""The doctor's checks of the database: server, schema, rights, upkeep, and what is stuck in the queue."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import anyio
import asyncpg
import psycopg
from psycopg.rows import dict_row

from dreamcuts import __version__, wording
from dreamcuts.db.address import first_line
from dreamcuts.db.migrate import connect, status
from dreamcuts.db.pool import open_connection
from dreamcuts.db.pooler import is_transaction_pooled
from dreamcuts.db.sql import query
from dreamcuts.errors import DatabaseError
from dreamcuts.findings import Finding, failure, fine, warning

Row = dict[str, Any]

OLDEST_VERSION = 140000
ECHO_WAIT_S = 3.0
SKEW_S = 2.0
PINNED_S = 300.0
PINNED_TRANSACTIONS = 1_000_000
DEAD_AT_LEAST = 50_000
STUCK_KINDS = 20


async def database_findings(dsn: str) -> list[Finding]:
    """Everything about the database. If it cannot be reached, that alone."""
    try:
        with connect(dsn) as connection:
            findings = list(_server(connection))
            schema = _schema(dsn)
            findings.append(schema)
            if next(iter(_one(connection, "schema_exists").values())):
                findings += _rights(connection)
            if schema.level == "ok":
                findings += [*_upkeep(connection), *_workers(connection), *_stuck(connection)]
            findings += list(_horizon(connection))
    except DatabaseError as error:
        # The error says what to do, and so does the way out: once is enough.
        text = str(error).removesuffix(" Check DATABASE_URL.")
        return [failure("database", text, "Check DATABASE_URL, and that Postgres is up.")]
    except psycopg.Error as error:
        return [failure("database", first_line(error), "Check that Postgres is up, and try again.")]
    pooled = await is_transaction_pooled(dsn)
    return [*findings, _pooler(pooled), await _notifications(dsn, pooled)]


def _server(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    before = time.time()
    server = _one(connection, "doctor_server")
    took = time.time() - before
    version, number = server["version"], server["version_number"]
    if number < OLDEST_VERSION:
        yield failure("database", f"Postgres {version} is too old.", "Upgrade to Postgres 14 or newer.")
    else:
        yield fine(
            "database",
            f"Postgres {version}, database {server['database']}, role {server['role']}, "
            f"{took * 1000:.0f} ms away",
        )
    if server["is_standby"] or server["is_read_only"]:
        what = "a standby" if server["is_standby"] else "read-only"
        yield failure("writing", f"The server is {what}.", "Point DATABASE_URL to the primary.")
    used, most = server["connections"], server["max_connections"]
    text = f"{used} of {most} connections are in use"
    if used > 0.8 * most:
        yield warning("connections", text, "Raise max_connections, or put a pooler in between.")
    else:
        yield fine("connections", text)
    skew = (server["time"] - datetime.fromtimestamp(before + took / 2, UTC)).total_seconds()
    if abs(skew) > SKEW_S + took:
        yield warning(
            "clock",
            f"This machine's clock is {abs(skew):.0f} s {'behind' if skew > 0 else 'ahead of'} the server's.",
            "Let NTP set it. The queue goes by the database's clock; logs and TLS do not.",
        )
    else:
        yield fine("clock", f"{abs(skew) * 1000:.0f} ms apart from the database's")
    if not server["has_autovacuum"]:
        yield failure(
            "autovacuum",
            "autovacuum is off for the whole server: claims get slower with every job.",
            "alter system set autovacuum = on; alter system set track_counts = on; select pg_reload_conf();",
        )


def _schema(dsn: str) -> Finding:
    found = status(dsn)
    try:
        found.check()
    except DatabaseError as error:
        text = str(error).removesuffix(' Run "dreamcuts db migrate".')
        way_out = "dreamcuts db migrate"
        if found.is_newer:
            text, way_out = text.removesuffix(" Upgrade DreamCuts."), "Upgrade DreamCuts."
        return failure("schema", text, way_out)
    return fine("schema", f"migrations 1 to {max(found.applied)} are applied, and the functions are current")


def _rights(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    hidden = [row["name"] for row in _many(connection, "doctor_hidden_tables")]
    if hidden:
        yield failure(
            "rights",
            f"Row level security hides the rows of {hidden[0]} and {len(hidden) - 1} more from this role.",
            "Connect as the tables' owner, or: alter role ... bypassrls;",
        )
    missing = _many(connection, "doctor_missing_rights")
    if missing:
        some = ", ".join(f"{row['privilege']} on {row['name']}" for row in missing[:3])
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        yield failure(
            "rights",
            f"The role lacks {some}{more}.",
            "Connect as the tables' owner, or grant it: grant select, insert, update, delete on ... to ...;",
        )
    elif not hidden:
        yield fine("rights", "the role may use all tables and functions")
    may_create = _one(connection, "doctor_server")["may_create"]
    owner = _many(connection, "doctor_owns_tables")
    if may_create and all(next(iter(row.values())) for row in owner):
        yield fine("archive", "the role may add months to the archive")
    else:
        yield warning(
            "archive",
            "The role does not own the tables, so its workers cannot archive old jobs.",
            "Run `dreamcuts db archive` as the owner once a day.",
        )


def _upkeep(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    rows = _many(connection, "doctor_tables")
    off = [row["name"] for row in rows if row["is_off"]]
    if off:
        yield failure(
            "autovacuum",
            f"autovacuum is switched off for {', '.join(off)}.",
            f"alter table {off[0]} reset (autovacuum_enabled);",
        )
    bloated = [row for row in rows if row["dead"] > DEAD_AT_LEAST and row["dead"] > row["live"]]
    for row in bloated:
        yield warning(
            "autovacuum",
            f"{row['name']} has {row['dead']} dead rows beside {row['live']} live ones.",
            f"vacuum {row['name']}; if it does not help, see `horizon` below.",
        )
    if not off and not bloated:
        yield fine("autovacuum", "it is on, and keeps up")


def _horizon(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    pinned = [
        row
        for row in _many(connection, "doctor_horizon")
        if (row["seconds"] or 0) > PINNED_S or row["transactions"] > PINNED_TRANSACTIONS
    ]
    way_out = {
        "session": "End it: select pg_terminate_backend({name}); idle_in_transaction_session_timeout helps.",
        "prepared transaction": "Decide it: commit prepared or rollback prepared '{name}';",
        "replication slot": "If nobody needs it: select pg_drop_replication_slot('{name}');",
    }
    for row in pinned:
        since = "" if row["seconds"] is None else f" for {row['seconds'] / 60:.0f} min"
        yield warning(
            "horizon",
            f"The {row['kind']} {row['name']} ({row['detail']}) has held back vacuum{since} "
            f"({row['transactions']} transactions): claims walk over dead rows.",
            way_out[row["kind"]].format(name=row["name"]),
        )
    if not pinned:
        yield fine("horizon", "nothing holds back vacuum")


def _workers(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    found = _one(connection, "doctor_workers")
    others = sorted(set(found["versions"]) - {__version__})
    if found["silent"]:
        yield warning(
            "workers",
            f"{wording.many(found['silent'], 'silent worker')}: no heartbeat, and nobody took the jobs.",
            "Start a worker, or see `dreamcuts workers list`.",
        )
    if not found["live"]:
        yield warning("workers", "No worker is there.", "Start one: dreamcuts work")
    elif others:
        yield warning(
            "workers",
            f"{wording.many(found['live'], 'live worker')}, not all of this release ({__version__}), but of "
            f"{', '.join(others)}.",
            "Upgrade them, or restart those that still run the old code: dreamcuts workers restart --all",
        )
    else:
        yield fine("workers", f"{found['live']} live")


_UNSTICK = {
    "missing_dependency": "Insert what is missing, or: dreamcuts jobs drop-dependency {example} JOB_ID",
    "dependency_cycle": "Break the circle: dreamcuts jobs drop-dependency {example} JOB_ID",
    "no_worker": "Start one: dreamcuts work --types {type}",
    "provider_paused": "See why, and mend it: dreamcuts providers list",
    "overdue": "Start a worker: dreamcuts work",
    "lost_worker": "Start a worker, which takes it over; or: dreamcuts jobs release {example}",
}


def _stuck(connection: psycopg.Connection[Any]) -> Iterator[Finding]:
    rows = _many(connection, "doctor_stuck", limit=STUCK_KINDS)
    for row in rows:
        many = wording.many(row["jobs"], "job")
        way_out = _UNSTICK.get(row["code"], "See it: dreamcuts jobs show {example}").format(**row)
        text = f"{many} of type {row['type']}, e.g. {row['example']}: {row['reason']}."
        if row["jobs"] > 1:
            way_out += f". All of them are in the view dreamcut_stuck_jobs (code {row['code']})."
        yield warning("stuck jobs", text, way_out)
    if len(rows) == STUCK_KINDS:
        yield warning(
            "stuck jobs",
            f"These are the {STUCK_KINDS} kinds with the most jobs; there may be more.",
            "All of them are in the view dreamcut_stuck_jobs.",
        )
    if not rows:
        yield fine("stuck jobs", "none")


def _pooler(pooled: bool) -> Finding:
    if pooled:
        return fine(
            "pooler", "DATABASE_URL leads to a pooler in transaction mode; workers find out and adapt to it"
        )
    return fine("pooler", "a connection keeps its session (direct, or a pooler in session mode)")


async def _notifications(dsn: str, pooled: bool) -> Finding:
    way_out = "Nothing is lost: workers poll. To be faster, let DATABASE_URL lead past the pooler."
    channel = "dreamcut_doctor"
    heard = anyio.Event()
    try:
        listening = await open_connection(dsn, pooled=pooled)
        try:
            await listening.add_listener(channel, lambda *_: heard.set())
            speaking = await open_connection(dsn, pooled=pooled)
            try:
                started = time.monotonic()
                await speaking.execute(query("notify_probe").text, channel, "hello")
                with anyio.move_on_after(ECHO_WAIT_S):
                    await heard.wait()
            finally:
                speaking.terminate()
        finally:
            listening.terminate()
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        return warning("notifications", f"LISTEN could not be tried: {first_line(error)}.", way_out)
    if heard.is_set():
        return fine("notifications", f"they arrive, after {(time.monotonic() - started) * 1000:.0f} ms")
    return warning("notifications", "What NOTIFY says does not arrive.", way_out)


def _many(connection: psycopg.Connection[Any], name: str, **values: Any) -> list[Row]:
    with connection.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query(name).psycopg_text, values).fetchall()


def _one(connection: psycopg.Connection[Any], name: str) -> Row:
    return _many(connection, name)[0]
