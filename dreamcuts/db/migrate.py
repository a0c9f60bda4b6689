"""Bring a database's schema up to this version of the code.

`sql/migrations/NNNN_subject.sql` run once each, in order, forward only. `sql/functions/*.sql` hold what can
be replaced at any time (functions, triggers, views, grants); they are applied again, all of them in the
order of their names, whenever one of them changed. Everything happens in one transaction under an advisory
lock: two runners at once apply it once, and a failure leaves the database as it was.

`NNNN_subject.concurrent.sql` is the exception: an index of a large table is built outside of a transaction
(see dreamcuts/db/concurrent_index.py), between what comes before it and after it, each a transaction of its
own. In a database without a schema nobody can be disturbed, and it is one transaction even then.

A migration never waits long for a table's lock. While it waits, every claim waits behind it; so it gives up
after a moment, rolls back, and tries again. A concurrent build does wait: no claim waits behind it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import psycopg.sql
from psycopg.rows import TupleRow
from psycopg.types.json import set_json_loads

from dreamcuts import __version__
from dreamcuts.db.address import first_line, not_reached, not_valid
from dreamcuts.db.concurrent_index import read_statements, run_statement
from dreamcuts.db.jsontext import decode_json
from dreamcuts.db.pooler import is_transaction_pooled
from dreamcuts.db.sql import query, sql_folder
from dreamcuts.errors import DatabaseError

log = logging.getLogger(__name__)

Connection = psycopg.Connection[TupleRow]

LOCK_WAIT_S = 3.0
LOCK_TRIES = 6
POLL_S = 0.2
"""Between two looks whether another runner is through."""
_IN_THE_WAY = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of `sql/migrations`."""

    number: int
    name: str
    path: Path

    @property
    def is_concurrent(self) -> bool:
        """Whether it runs outside of a transaction."""
        return self.path.stem.endswith(".concurrent")

    @property
    def text(self) -> str:
        """What runs inside a transaction: of a concurrent one the plain form, for tables nobody uses yet."""
        if self.is_concurrent:
            statements = read_statements(self.path)
            return "".join(f"{statement.inside_transaction};\n" for statement in statements)
        return self.path.read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class SchemaStatus:
    """How a database's schema stands to this version of the code."""

    applied: tuple[int, ...]
    pending: tuple[Migration, ...]
    newest_known: int
    functions_current: bool

    @property
    def is_newer(self) -> bool:
        return bool(self.applied) and max(self.applied) > self.newest_known

    @property
    def is_current(self) -> bool:
        return not self.pending and not self.is_newer and self.functions_current

    def check(self) -> None:
        """Raises DatabaseError, with the way out, unless a worker of this version can run on the schema."""
        if self.is_newer:
            raise DatabaseError(
                f"The database's schema is at migration {max(self.applied)}, newer than this version of "
                f"DreamCuts ({__version__}, migration {self.newest_known}). Upgrade DreamCuts."
            )
        if not self.applied:
            raise DatabaseError('The database has no DreamCuts schema yet. Run "dreamcuts db migrate".')
        if self.pending:
            names = ", ".join(f"{migration.number:04d}_{migration.name}" for migration in self.pending)
            raise DatabaseError(f'The database lacks migrations: {names}. Run "dreamcuts db migrate".')
        if not self.functions_current:
            raise DatabaseError(
                'The database\'s functions are of another version. Run "dreamcuts db migrate".'
            )


def migrations() -> list[Migration]:
    """All migrations in order."""
    found = []
    for path in sorted((sql_folder() / "migrations").glob("*.sql")):
        match = re.fullmatch(r"(\d{4})_([a-z0-9_]+)(?:\.concurrent)?", path.stem)
        if match is None:
            raise ValueError(
                f"{path.name}: a migration is named NNNN_subject.sql or NNNN_subject.concurrent.sql"
            )
        found.append(Migration(int(match[1]), match[2], path))
    numbers = [migration.number for migration in found]
    if numbers != list(range(1, len(found) + 1)):
        raise ValueError(f"migrations are not numbered 1, 2, 3, ...: {numbers}")
    return found


def function_files() -> list[Path]:
    """The files of replaceable objects, in the order in which they are applied."""
    return sorted((sql_folder() / "functions").glob("*.sql"))


def full_sql() -> str:
    """The whole schema as one script for `psql`, e.g. for Supabase's SQL editor: for a database without it.

    One transaction, in which the concurrent migrations build their indexes in the plain form.
    """
    parts = [migration.text for migration in migrations()]
    parts += [path.read_text(encoding="utf-8") for path in function_files()]
    parts += [_spelled_out("record_migration", number=m.number, name=m.name) for m in migrations()]
    parts.append(_spelled_out("record_functions", checksum=_functions_checksum(), release=__version__))
    return "\n\n".join(["begin;", *parts, "commit;"]) + "\n"


def status(dsn: str) -> SchemaStatus:
    """Compare the database with this version's migrations.

    Raises DatabaseError if it cannot be reached, or goes away before it has answered.
    """
    with connect(dsn) as connection:
        try:
            return _status(connection)
        except psycopg.OperationalError as error:
            raise not_reached(dsn, error) from None


def migrate(dsn: str, *, lock_wait_s: float = LOCK_WAIT_S, tries: int = LOCK_TRIES) -> list[str]:
    """Apply what is missing; returns the names of what was applied. Safe while workers run.

    Raises DatabaseError; after `tries` times `lock_wait_s` seconds also when a session does not let go of a
    table, naming it. What was applied until then is recorded, and the next run goes on from there.
    """
    _check_that_it_can(dsn, status(dsn))
    applied: list[str] = []
    for number in range(1, tries + 1):
        with connect(dsn) as connection:
            try:
                while (step := _take_step(dsn, connection, lock_wait_s)) is not None:
                    applied += step
                return applied
            except _IN_THE_WAY as error:
                blocked = f"{first_line(error)}; {_who_blocks(connection)}"
        if number < tries:
            log.warning("Try %d of %d: a table is in use (%s). Trying again.", number, tries, blocked)
            time.sleep(lock_wait_s * random.uniform(0.2, 0.6))  # lets those through who queued behind us
    so_far = f"Applied: {', '.join(applied)}. The rest" if applied else "The schema"
    raise DatabaseError(
        f"{so_far} was not changed: in {tries} tries a table stayed in use ({blocked}). End that session, "
        "e.g. `select pg_terminate_backend(PID)`, or run `dreamcuts db migrate` when it is quieter."
    )


@dataclass(frozen=True, slots=True)
class _Step:
    """What is done at one go: a transaction, or one concurrent migration."""

    migrations: tuple[Migration, ...]
    functions: bool
    is_concurrent: bool = False


def _next_step(found: SchemaStatus) -> _Step | None:
    """What is to be done next; None if nothing is left.

    The functions belong to the newest tables, so they come with the last transaction.
    """
    if not found.applied:
        return _Step(found.pending, functions=True)
    if not found.pending:
        return None if found.functions_current else _Step((), functions=True)
    if found.pending[0].is_concurrent:
        return _Step(found.pending[:1], functions=False, is_concurrent=True)
    first = next((at for at, one in enumerate(found.pending) if one.is_concurrent), len(found.pending))
    last_transaction = all(migration.is_concurrent for migration in found.pending[first:])
    return _Step(found.pending[:first], functions=last_transaction)


def _check_that_it_can(dsn: str, found: SchemaStatus) -> None:
    """Raises DatabaseError before anything is changed."""
    if found.is_newer:
        found.check()
    names = [migration.path.name for migration in found.pending if migration.is_concurrent]
    if not found.applied or not names:
        return
    with ThreadPoolExecutor(1) as thread:  # the caller may have an event loop of its own
        pooled = thread.submit(asyncio.run, is_transaction_pooled(dsn)).result()
    if pooled:
        raise DatabaseError(
            f"{names[0]} builds an index outside of a transaction and needs one session for it, but "
            "DATABASE_URL leads to a pooler in transaction mode. Nothing was changed. Give `dreamcuts db "
            "migrate` a direct connection, or a pooler in session mode."
        )


def _take_step(dsn: str, connection: Connection, lock_wait_s: float) -> list[str] | None:
    """Do what is next, and return the names of its files; None if nothing is left.

    Under the lock it is looked at again what is next: another runner may have done it.
    """
    with _locked_transaction(connection):
        # Only now: another migration is worth waiting for.
        connection.execute(query("limit_lock_wait").psycopg_text, {"timeout_ms": int(lock_wait_s * 1000)})
        step = _next_step(_known(connection))
        if step is None:
            return None
        if not step.is_concurrent:
            return _apply(connection, step)
    with connect(dsn) as session:  # the limits that it lifts are lifted for it alone
        _lock_session(session)
        step = _next_step(_known(session))
        if step is None or not step.is_concurrent:
            return []
        (migration,) = step.migrations
        session.execute(query("lift_limits").psycopg_text)
        for statement in read_statements(migration.path):
            with _named(migration.path):
                run_statement(session, statement, lambda: connect(dsn))
        _record(session, migration)
        return [migration.path.name]


def _known(connection: Connection) -> SchemaStatus:
    found = _status(connection)
    if found.is_newer:
        found.check()
    return found


def _apply(connection: Connection, step: _Step) -> list[str]:
    applied = []
    for migration in step.migrations:
        _run(connection, migration.path, migration.text)
        _record(connection, migration)
        applied.append(migration.path.name)
    if step.functions:
        for path in function_files():
            _run(connection, path, path.read_text(encoding="utf-8"))
            applied.append(f"functions/{path.name}")
        connection.execute(
            query("record_functions").psycopg_text,
            {"checksum": _functions_checksum(), "release": __version__},
        )
    return applied


def _record(connection: Connection, migration: Migration) -> None:
    values = {"number": migration.number, "name": migration.name}
    connection.execute(query("record_migration").psycopg_text, values)


@contextmanager
def _locked_transaction(connection: Connection) -> Iterator[None]:
    """A transaction that holds the schema's lock to its end, so it is safe behind a pooler."""
    for _ in _tries_for_lock():
        with connection.transaction():
            if _has_lock(connection, "try_lock_schema"):
                yield
                return


def _lock_session(connection: Connection) -> None:
    """The same lock, to the end of the connection."""
    for _ in _tries_for_lock():
        if _has_lock(connection, "try_lock_schema_for_session"):
            return


def _has_lock(connection: Connection, query_name: str) -> bool:
    row = connection.execute(query(query_name).psycopg_text).fetchone()
    return row is not None and bool(row[0])


def _tries_for_lock() -> Iterator[None]:
    """One at once, then one after the other as long as another runner is at work.

    A statement that waited for the lock would hold a snapshot, and a concurrent build waits for all
    snapshots: the runner that builds would wait for us, and we for it.
    """
    yield
    log.warning("Another migration of this database runs; waiting for its end.")
    while True:
        time.sleep(POLL_S)
        yield


def _who_blocks(connection: Connection) -> str:
    """The sessions that hold our tables, for a message. Nobody: it let go in the meantime."""
    rows = connection.execute(query("holders_of_our_tables").psycopg_text).fetchmany(3)
    return (
        "; ".join(
            f"session {pid} ({name}, {state}) has had a transaction open for {open_s:.0f} s"
            for pid, name, state, open_s in rows
        )
        or "whoever held it has let go"
    )


@contextmanager
def connect(dsn: str) -> Iterator[Connection]:
    """A psycopg connection in autocommit mode. Raises DatabaseError in one line, without the password."""
    try:
        connection = psycopg.connect(dsn, autocommit=True, connect_timeout=10, prepare_threshold=None)
    except psycopg.ProgrammingError:
        raise not_valid() from None
    except psycopg.OperationalError as error:
        raise not_reached(dsn, error) from None
    set_json_loads(decode_json, connection)
    with connection:
        yield connection


def _status(connection: Connection) -> SchemaStatus:
    known = migrations()
    applied: tuple[int, ...] = ()
    checksum = None
    exists = connection.execute(query("schema_exists").psycopg_text).fetchone()
    if exists is not None and exists[0]:
        applied = tuple(row[0] for row in connection.execute(query("applied_migrations").psycopg_text))
        row = connection.execute(query("functions_checksum").psycopg_text).fetchone()
        checksum = row[0] if row else None
    return SchemaStatus(
        applied=applied,
        pending=tuple(migration for migration in known if migration.number not in applied),
        newest_known=known[-1].number,
        functions_current=checksum == _functions_checksum(),
    )


def _run(connection: Connection, path: Path, text: str) -> None:
    """Run a file of several statements. It is ours, so psycopg's guard against built strings is passed by."""
    with _named(path):
        connection.execute(text)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """An error in it names the file. A lock that was not got is left to the next try."""
    try:
        yield
    except _IN_THE_WAY:
        raise
    except psycopg.Error as error:
        raise DatabaseError(f"{path.parent.name}/{path.name}: {first_line(error)}") from error


def _spelled_out(query_name: str, /, **values: object) -> str:
    """A named query with its values as literals, for a script."""
    literals = {key: psycopg.sql.Literal(value).as_string() for key, value in values.items()}
    return query(query_name).psycopg_text % literals + ";"


def _functions_checksum() -> str:
    digest = hashlib.sha256()
    for path in function_files():
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
