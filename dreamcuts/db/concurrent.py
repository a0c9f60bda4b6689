"""Migrations that build or drop an index of a large table while it is in use: `NNNN_subject.concurrent.sql`.

`create index concurrently` cannot run inside a transaction. So these files hold nothing else than

    create [unique] index concurrently NAME on ...;
    drop index concurrently [if exists] NAME;

and each statement runs by itself. It takes no lock that a claim would wait for; it waits until the
transactions that are open end, which may take long and disturbs nobody. A build that is cut off leaves an
index that is invalid: it slows every write and serves no read. Running the file again drops it first.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
import psycopg.sql
from psycopg.rows import TupleRow

from dreamcuts.db.sql import query
from dreamcuts.errors import DatabaseError

log = logging.getLogger(__name__)

Connection = psycopg.Connection[TupleRow]
Connect = Callable[[], AbstractContextManager[Connection]]

REPORT_EVERY_S = 30.0

_PIECE = re.compile(r"""--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|"(?:[^"]|"")*"|;|[^-/'";]+|.""", re.DOTALL)
_STATEMENT = re.compile(
    r"(?:(?P<create>create (?:unique )?index concurrently)|drop index concurrently(?: if exists)?)"
    r" (?P<index>[a-z_][a-z0-9_]*)(?(create) on\b.*)",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class IndexStatement:
    """One statement of such a file."""

    text: str
    index: str
    creates: bool

    @property
    def inside_transaction(self) -> str:
        """The same without `concurrently`, for tables that nobody uses yet."""
        return self.text.replace(" concurrently ", " ", 1)


def index_statements(text: str, file_name: str) -> list[IndexStatement]:
    """The statements of a file. Raises ValueError if it holds anything else."""
    found = []
    for statement in _split(text):
        match = _STATEMENT.fullmatch(statement)
        if match is None:
            raise ValueError(
                f"{file_name}: a concurrent migration holds `create [unique] index concurrently NAME on ...` "
                f"and `drop index concurrently [if exists] NAME` only, not: {statement[:60]}"
            )
        found.append(IndexStatement(statement, match["index"], match["create"] is not None))
    if not found:
        raise ValueError(f"{file_name}: holds no statement")
    return found


def _split(text: str) -> Iterator[str]:
    """The statements, without comments; blanks are single between the words that `_STATEMENT` looks at."""
    statement = ""
    for piece in [*_PIECE.findall(text), ";"]:
        if piece == ";":
            if statement.strip():
                yield statement.strip()
            statement = ""
        elif not piece.startswith(("--", "/*")):
            statement += piece if piece[0] in "'\"" else re.sub(r"\s+", " ", piece)


def run_statement(connection: Connection, statement: IndexStatement, connect: Connect) -> None:
    """Run it unless an earlier try finished it. Afterwards the index is valid, or gone.

    `connection` is in autocommit mode; `connect` opens another one, to see what the build waits for.
    """
    valid = _is_valid(connection, statement.index)
    if statement.creates:
        if valid:
            return
        if valid is False:
            log.info("Dropping %s, which an earlier try left unfinished.", statement.index)
            _drop(connection, statement.index)
    elif valid is None:
        return
    log.info("Running outside of a transaction, once open transactions have ended: %s", statement.text)
    try:
        with _reports(connection.info.backend_pid, statement, connect):
            connection.execute(statement.text)
    except psycopg.Error:
        if statement.creates and not connection.closed:
            # Rather than leave what slows every write. If this fails too, the next try does it.
            with suppress(psycopg.Error):
                if _is_valid(connection, statement.index) is False:
                    _drop(connection, statement.index)
        raise
    if _is_valid(connection, statement.index) is not (True if statement.creates else None):
        raise DatabaseError(f"{statement.index} is not as `{statement.text}` should have left it.")


def _is_valid(connection: Connection, index: str) -> bool | None:
    """Whether the index can be used; None if there is none."""
    row = connection.execute(query("index_is_valid").psycopg_text, {"index": index}).fetchone()
    return None if row is None else bool(row[0])


def _drop(connection: Connection, index: str) -> None:
    drop = psycopg.sql.SQL("drop index concurrently if exists {}")
    connection.execute(drop.format(psycopg.sql.Identifier(index)))


@contextmanager
def _reports(pid: int, statement: IndexStatement, connect: Connect) -> Iterator[None]:
    """Say now and then how far the statement of backend `pid` is, and which sessions it waits for."""
    over = threading.Event()

    def report() -> None:
        while not over.wait(REPORT_EVERY_S):
            # Only a message: whatever is wrong with the server, the statement itself will say it.
            with suppress(DatabaseError, psycopg.Error), connect() as watch:
                row = watch.execute(query("index_progress").psycopg_text, {"pid": pid}).fetchone()
                if row is None or over.is_set():
                    continue
                if row[1]:  # whoever started this sees it hang, and wants to know why
                    log.warning("%s: %s; %s", statement.index, row[0], row[1])
                else:
                    log.info("%s: %s", statement.index, row[0])

    thread = threading.Thread(target=report, name="index-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def read(path: Path) -> list[IndexStatement]:
    """The statements of a file of that kind."""
    return index_statements(path.read_text(encoding="utf-8"), path.name)
