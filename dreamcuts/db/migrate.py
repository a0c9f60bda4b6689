"""Bring a database's schema up to this version of the code.

`sql/migrations/NNNN_subject.sql` run once each, in order, forward only. `sql/functions/*.sql` hold what can
be replaced at any time (functions, triggers, views, grants); they are applied again, all of them in the
order of their names, whenever one of them changed. Everything happens in one transaction under an advisory
lock: two runners at once apply it once, and a failure leaves the database as it was.

A migration never waits long for a table's lock. While it waits, every claim waits behind it; so it gives up
after a moment, rolls back, and tries again.
"""

from __future__ import annotations

import hashlib
import logging
import random
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
import psycopg.sql
from psycopg.rows import TupleRow
from psycopg.types.json import set_json_loads

from dreamcuts import __version__
from dreamcuts.db.address import first_line, not_reached, not_valid
from dreamcuts.db.jsontext import decode_json
from dreamcuts.db.sql import query, sql_folder
from dreamcuts.errors import DatabaseError

log = logging.getLogger(__name__)

Connection = psycopg.Connection[TupleRow]

LOCK_WAIT_S = 3.0
LOCK_TRIES = 6
_IN_THE_WAY = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)


@dataclass(frozen=True, slots=True)
class Migration:
    """One file of `sql/migrations`."""

    number: int
    name: str
    path: Path

    @property
    def text(self) -> str:
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
        match = re.fullmatch(r"(\d{4})_([a-z0-9_]+)", path.stem)
        if match is None:
            raise ValueError(f"{path.name}: a migration is named NNNN_subject.sql")
        found.append(Migration(int(match[1]), match[2], path))
    numbers = [migration.number for migration in found]
    if numbers != list(range(1, len(found) + 1)):
        raise ValueError(f"migrations are not numbered 1, 2, 3, ...: {numbers}")
    return found


def function_files() -> list[Path]:
    """The files of replaceable objects, in the order in which they are applied."""
    return sorted((sql_folder() / "functions").glob("*.sql"))


def full_sql() -> str:
    """The whole schema as one script for `psql`, e.g. for Supabase's SQL editor."""
    parts = [migration.text for migration in migrations()]
    parts += [path.read_text(encoding="utf-8") for path in function_files()]
    parts += [_spelled_out("record_migration", number=m.number, name=m.name) for m in migrations()]
    parts.append(_spelled_out("record_functions", checksum=_functions_checksum(), release=__version__))
    return "\n\n".join(["begin;", *parts, "commit;"]) + "\n"


def status(dsn: str) -> SchemaStatus:
    """Compare the database with this version's migrations. Raises DatabaseError if it cannot be reached."""
    with connect(dsn) as connection:
        return _status(connection)


def migrate(dsn: str, *, lock_wait_s: float = LOCK_WAIT_S, tries: int = LOCK_TRIES) -> list[str]:
    """Apply what is missing; returns the names of what was applied. Safe while workers run.

    Raises DatabaseError; after `tries` times `lock_wait_s` seconds also when a session does not let go of a
    table, naming it. Nothing has changed then.
    """
    for number in range(1, tries + 1):
        with connect(dsn) as connection:
            try:
                with connection.transaction():
                    return _migrate(connection, lock_wait_s)
            except _IN_THE_WAY as error:
                blocked = f"{first_line(error)}; {_who_blocks(connection)}"
        if number < tries:
            log.warning("Try %d of %d: a table is in use (%s). Trying again.", number, tries, blocked)
            time.sleep(lock_wait_s * random.uniform(0.2, 0.6))  # lets those through who queued behind us
    raise DatabaseError(
        f"The schema was not changed: in {tries} tries a table stayed in use ({blocked}). End that session, "
        "e.g. `select pg_terminate_backend(PID)`, or run `dreamcuts db migrate` when it is quieter."
    )


def _migrate(connection: Connection, lock_wait_s: float) -> list[str]:
    connection.execute(query("lock_schema").psycopg_text)
    # Only now: another migration is worth waiting for.
    connection.execute(query("limit_lock_wait").psycopg_text, {"timeout_ms": int(lock_wait_s * 1000)})
    before = _status(connection)
    if before.is_newer:
        before.check()
    applied = []
    for migration in before.pending:
        _run(connection, migration.path)
        connection.execute(
            query("record_migration").psycopg_text, {"number": migration.number, "name": migration.name}
        )
        applied.append(migration.path.name)
    if applied or not before.functions_current:
        for path in function_files():
            _run(connection, path)
            applied.append(f"functions/{path.name}")
        connection.execute(
            query("record_functions").psycopg_text,
            {"checksum": _functions_checksum(), "release": __version__},
        )
    return applied


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


def _run(connection: Connection, path: Path) -> None:
    """Run a file of several statements. It is ours, so psycopg's guard against built strings is passed by."""
    try:
        connection.execute(path.read_text(encoding="utf-8"))
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
