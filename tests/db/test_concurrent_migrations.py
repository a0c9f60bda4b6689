"""An index of a large table is built beside those who use it, once, and again after a cut.

There is no such migration yet; these tests write one into a copy of the SQL files.
"""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from dreamcuts.db import concurrent_index
from dreamcuts.db import migrate as module
from dreamcuts.db.concurrent_index import read_statements
from dreamcuts.db.migrate import full_sql, migrate, migrations, status
from dreamcuts.errors import DatabaseError
from tests.support import DEADLINE_S, Queue, is_blocked, wait_until

INDEX = "dreamcut_jobs_test_title"
CREATE = f"-- For a test.\ncreate index concurrently {INDEX} on dreamcut_jobs ((payload ->> 'title'));\n"


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], str]:
    """`add("subject.concurrent", text)` writes the next migration into a copy, and gives the file's name."""
    copy = tmp_path / "sql"
    shutil.copytree(module.sql_folder(), copy)
    monkeypatch.setattr(module, "sql_folder", lambda: copy)

    def write(subject: str, text: str) -> str:
        name = f"{len(migrations()) + 1:04d}_{subject}.sql"
        (copy / "migrations" / name).write_text(text)
        return name

    return write


@pytest.fixture
def writer(database: str) -> Iterator[psycopg.Connection]:
    """A session with an open transaction that holds the lock of a row."""
    with psycopg.connect(database, application_name="slow_writer") as session:
        session.execute("insert into dreamcut_jobs (type) values ('held')")
        yield session
        session.rollback()


class Runner:
    """`dreamcuts db migrate` in a thread of its own."""

    def __init__(self, dsn: str) -> None:
        self.applied: list[str] | None = None
        self.error: BaseException | None = None
        self._dsn = dsn
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.applied = migrate(self._dsn)
        except BaseException as error:
            self.error = error

    def end(self) -> None:
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive(), "it still runs"


def builder(connection: psycopg.Connection) -> int | None:
    """The backend that builds an index here and waits for somebody."""
    rows = connection.execute(
        "select pid from pg_stat_progress_create_index where datname = current_database()"
    ).fetchall()
    return next((pid for (pid,) in rows if is_blocked(connection, pid)), None)


def is_valid(connection: psycopg.Connection, index: str = INDEX) -> bool | None:
    row = connection.execute(
        "select indisvalid from pg_index where indexrelid = to_regclass(%s)", [index]
    ).fetchone()
    return row and row[0]


def test_claims_and_writes_go_on_while_it_waits_for_an_open_transaction(
    database: str, connection: psycopg.Connection, add: Callable[[str, str], str], writer: psycopg.Connection
) -> None:
    name = add("title.concurrent", CREATE)
    # A role's own limits must not cut the wait off.
    runner = Runner(f"{database}?options=-c%20lock_timeout%3D1s%20-c%20statement_timeout%3D2s")
    pid = wait_until(lambda: builder(connection), "the build to wait for the writer")
    queue = Queue(connection)
    connection.execute("set statement_timeout = '20s'")
    for _ in range(10):
        queue.add(None)
        worker = queue.worker()
        (held,) = queue.claim(worker)
        queue.complete(worker, held)
    connection.execute("select pg_sleep(2.1)")  # longer than both limits
    assert builder(connection) == pid
    with pytest.raises(DatabaseError, match=r"lacks migrations: .*_title"):
        status(database).check()
    assert runner.applied is None and is_valid(connection) is False
    writer.commit()
    runner.end()
    assert runner.applied == [name], runner.error
    assert is_valid(connection)
    assert status(database).is_current
    assert migrate(database) == []


def test_it_says_what_it_waits_for(
    database: str,
    connection: psycopg.Connection,
    add: Callable[[str, str], str],
    writer: psycopg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(concurrent_index, "REPORT_EVERY_S", 0.05)
    caplog.set_level(logging.INFO, "dreamcuts.db")
    add("title.concurrent", CREATE)
    runner = Runner(database)
    who = f"session {writer.info.backend_pid} (slow_writer, idle in transaction) has had a transaction open"
    wait_until(lambda: who in caplog.text, "a word about the writer")
    assert f"{INDEX}: waiting for writers before build" in caplog.text
    writer.commit()
    runner.end()
    assert is_valid(connection)


def test_two_runners_at_once_build_it_once(
    database: str,
    connection: psycopg.Connection,
    add: Callable[[str, str], str],
    writer: psycopg.Connection,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The second comes while the first builds. If it waited inside of a statement, they would deadlock."""
    caplog.set_level(logging.INFO, "dreamcuts.db")
    add("title.concurrent", CREATE)
    first = Runner(database)
    wait_until(lambda: builder(connection), "the build to wait for the writer")
    second = Runner(database)
    wait_until(lambda: "Another migration of this database runs" in caplog.text, "the second at the lock")
    writer.commit()
    first.end()
    second.end()
    assert first.error is None and second.error is None
    assert "Trying again" not in caplog.text, "they got into each other's way"
    assert (bool(first.applied), second.applied) == (True, [])
    assert is_valid(connection)
    assert status(database).is_current


def test_a_cut_in_the_middle_is_mended_by_the_next_run(
    database: str, connection: psycopg.Connection, add: Callable[[str, str], str], writer: psycopg.Connection
) -> None:
    name = add("title.concurrent", CREATE)
    runner = Runner(database)
    pid = wait_until(lambda: builder(connection), "the build to wait for the writer")
    connection.execute("select pg_terminate_backend(%s)", [pid])
    runner.end()
    assert isinstance(runner.error, DatabaseError) and f"migrations/{name}: terminating" in str(runner.error)
    writer.commit()
    assert is_valid(connection) is False, "nothing was left over, so this shows nothing"
    assert not status(database).is_current
    assert migrate(database) == [name]
    assert is_valid(connection)
    assert status(database).is_current


def test_a_cut_between_build_and_record_builds_nothing_twice(
    database: str, connection: psycopg.Connection, add: Callable[[str, str], str]
) -> None:
    name = add("title.concurrent", CREATE)
    connection.execute(CREATE)
    oid = "select to_regclass(%s)::oid"
    before = connection.execute(oid, [INDEX]).fetchone()
    assert migrate(database) == [name]
    assert connection.execute(oid, [INDEX]).fetchone() == before


def test_a_build_that_fails_names_the_file_and_leaves_no_index(
    database: str, connection: psycopg.Connection, add: Callable[[str, str], str]
) -> None:
    connection.execute("insert into dreamcut_jobs (type) values ('twice'), ('twice')")
    name = add("one_type.concurrent", f"create unique index concurrently {INDEX} on dreamcut_jobs (type);")
    with pytest.raises(DatabaseError, match=rf"migrations/{name}: could not create unique index"):
        migrate(database)
    assert is_valid(connection) is None
    assert status(database).applied[-1] == len(migrations()) - 1
    connection.execute("delete from dreamcut_jobs")
    assert migrate(database) == [name]


def test_what_comes_before_and_after_it_are_transactions_of_their_own(
    database: str, connection: psycopg.Connection, add: Callable[[str, str], str]
) -> None:
    """A column, its index, a constraint that uses the index; and an old index goes."""
    names = [
        add("number", "alter table dreamcut_jobs add column test_number int, add column test_old int;"),
        add(
            "number_index.concurrent",
            """
            /* Of several; with a ; in it. */
            create unique index concurrently dreamcut_test_number
                on dreamcut_jobs (test_number) where type <> 'a;b';
            create unique index  concurrently dreamcut_test_unique on dreamcut_jobs (test_number); -- too
            """,
        ),
        add(
            "number_constraint",
            "alter table dreamcut_jobs"
            " add constraint dreamcut_test_unique unique using index dreamcut_test_unique;",
        ),
        add("old.concurrent", "drop index concurrently if exists dreamcut_test_number;"),
    ]
    applied = migrate(database)
    assert [name for name in applied if not name.startswith("functions/")] == names
    # The functions come with the last transaction, before the index that they do not need.
    assert applied.index(names[2]) < applied.index("functions/10_graph.sql") < applied.index(names[3])
    assert (
        is_valid(connection, "dreamcut_test_unique") and is_valid(connection, "dreamcut_test_number") is None
    )
    assert status(database).is_current
    assert migrate(database) == []


def test_functions_that_changed_come_after_it_if_nothing_else_does(
    database: str, connection: psycopg.Connection, add: Callable[[str, str], str], tmp_path: Path
) -> None:
    name = add("title.concurrent", CREATE)
    with (tmp_path / "sql/functions/90_security.sql").open("a") as file:
        file.write("\n-- a change\n")
    applied = migrate(database)
    assert applied[0] == name and applied[1] == "functions/10_graph.sql"
    assert is_valid(connection) and status(database).is_current


def test_a_failure_after_it_keeps_what_was_done_and_goes_on_from_there(
    database: str, connection: psycopg.Connection, add: Callable[[str, str], str], tmp_path: Path
) -> None:
    index = add("title.concurrent", CREATE)
    broken = add("broken", "select no_such_function();")
    with pytest.raises(DatabaseError, match=rf"{broken}: .*no_such_function"):
        migrate(database)
    assert is_valid(connection)
    assert [found.path.name for found in status(database).pending] == [broken]
    (tmp_path / "sql/migrations" / broken).write_text("select 1;")
    applied = migrate(database)
    assert index not in applied and applied[0] == broken
    assert status(database).is_current


def test_a_new_database_gets_everything_in_one_transaction(
    empty_database: str, add: Callable[[str, str], str], tmp_path: Path
) -> None:
    add("title.concurrent", CREATE)
    broken = add("broken", "select no_such_function();")
    with pytest.raises(DatabaseError, match="no_such_function"):
        migrate(empty_database)
    assert status(empty_database).applied == ()
    (tmp_path / "sql/migrations" / broken).write_text("select 1;")
    # As if others were at work here: a concurrent build would wait for this transaction.
    with psycopg.connect(empty_database) as other:
        other.execute("select pg_current_xact_id()")
        assert broken in migrate(f"{empty_database}?options=-c%20statement_timeout%3D20s")
        other.rollback()
    with psycopg.connect(empty_database) as connection:
        assert is_valid(connection)
    assert status(empty_database).is_current


def test_the_script_for_psql_builds_it_in_the_plain_form(
    empty_database: str, add: Callable[[str, str], str]
) -> None:
    add("title.concurrent", CREATE)
    add("gone.concurrent", "drop index concurrently if exists dreamcut_no_such_index;")
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(full_sql())
        assert is_valid(connection)
    assert status(empty_database).is_current
    assert migrate(empty_database) == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("alter table dreamcut_jobs add column x int;", "not: alter table"),
        ("create index dreamcut_x on dreamcut_jobs (type);", "not: create index dreamcut_x"),
        ("create index concurrently on dreamcut_jobs (type);", "NAME"),
        (f"{CREATE} update dreamcut_jobs set type = 'x';", "not: update"),
        ("reindex index concurrently dreamcut_x;", "not: reindex"),
        ("-- nothing yet\n", "no statement"),
    ],
)
def test_a_file_holds_nothing_else(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "0009_x.concurrent.sql").write_text(text)
    with pytest.raises(ValueError, match=rf"0009_x\.concurrent\.sql: .*{says}"):
        read_statements(tmp_path / "0009_x.concurrent.sql")
