"""Migrations run once, whole or not at all, and by one runner at a time."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from dreamcuts.db import migrate as module
from dreamcuts.db.migrate import full_sql, migrate, migrations, status
from dreamcuts.errors import DatabaseError
from tests.support import wait_until

CATALOG = {
    "columns": """
        select class.relname, attname, format_type(atttypid, atttypmod), attnotnull, attgenerated::text,
            attidentity::text, pg_get_expr(adbin, adrelid)
        from pg_attribute attribute
        join pg_class class on class.oid = attrelid and class.relnamespace = 'public'::regnamespace
        left join pg_attrdef on adrelid = attrelid and adnum = attnum
        where attnum > 0 and class.relkind in ('r', 'p', 'v', 'S') order by 1, attnum""",
    "relations": """
        select relname, relkind::text, reloptions, relrowsecurity, relacl::text from pg_class
        where relnamespace = 'public'::regnamespace order by 1""",
    "functions": """
        select oid::regprocedure::text, md5(prosrc), prosecdef, provolatile::text, proconfig, proacl::text,
            prorettype::regtype::text
        from pg_proc where pronamespace = 'public'::regnamespace order by 1""",
    "triggers": "select pg_get_triggerdef(oid) from pg_trigger where not tgisinternal order by 1",
    "indexes": "select indexdef from pg_indexes where schemaname = 'public' order by 1",
    "constraints": """
        select conrelid::regclass::text, conname, pg_get_constraintdef(oid) from pg_constraint
        where connamespace = 'public'::regnamespace order by 1, 2""",
    "views": "select viewname, definition from pg_views where schemaname = 'public' order by 1",
    "bookkeeping": "select number, name from dreamcut_schema order by 1",
    "release": "select checksum, release from dreamcut_schema_functions",
}


def catalog(dsn: str) -> dict[str, list[Any]]:
    with psycopg.connect(dsn) as connection:
        return {name: connection.execute(text).fetchall() for name, text in CATALOG.items()}


def relations(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(
            "select count(*) from pg_class where relnamespace = 'public'::regnamespace"
        ).fetchone()
        assert row is not None
        return int(row[0])


@pytest.fixture
def copied_sql(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the SQL files in which a test may change something."""
    copy = tmp_path / "sql"
    shutil.copytree(module.sql_folder(), copy)
    monkeypatch.setattr(module, "sql_folder", lambda: copy)
    return copy


def test_from_empty_and_again(empty_database: str) -> None:
    assert status(empty_database).applied == ()
    applied = migrate(empty_database)
    assert applied[0] == "0001_tables.sql" and applied[-1].startswith("functions/9")
    assert status(empty_database).is_current
    status(empty_database).check()
    before = catalog(empty_database)
    assert migrate(empty_database) == []
    assert catalog(empty_database) == before


def test_an_empty_database_says_what_to_do(empty_database: str) -> None:
    with pytest.raises(DatabaseError, match=r'no DreamCuts schema yet\. Run "dreamcuts db migrate"'):
        status(empty_database).check()


@pytest.mark.parametrize("ask", [status, migrate])
def test_postgres_goes_away_while_it_is_asked(database: str, ask: Callable[[str], object]) -> None:
    """Its backend waits for a lock of ours when it is ended, so it has let us in, and not answered yet."""
    end_it = """
        select pg_terminate_backend(pid) from pg_locks
        where relation = 'dreamcut_schema'::regclass and not granted"""
    with ThreadPoolExecutor(1) as thread, psycopg.connect(database) as holder:
        holder.execute("lock table dreamcut_schema in access exclusive mode")
        asking = thread.submit(ask, database)
        wait_until(lambda: holder.execute(end_it).fetchall(), "a backend that waits for the lock")
        with pytest.raises(DatabaseError, match=r"^Postgres cannot be reached: .*administrator.*$"):
            asking.result(20)


def test_the_script_for_psql_makes_the_same_schema(empty_database: str, database: str) -> None:
    with psycopg.connect(empty_database, autocommit=True) as connection:
        connection.execute(full_sql())
    scripted, migrated = catalog(empty_database), catalog(database)
    for name in CATALOG:
        assert scripted[name] == migrated[name], name
    assert status(empty_database).is_current
    assert migrate(empty_database) == []


def test_the_functions_can_be_applied_again_over_themselves(database: str, copied_sql: Path) -> None:
    before = catalog(database)
    with (copied_sql / "functions" / "90_security.sql").open("a") as file:
        file.write("\n-- a change\n")
    with pytest.raises(DatabaseError, match="functions are of another version"):
        status(database).check()
    assert all(name.startswith("functions/") for name in migrate(database))
    after = catalog(database)
    assert {name: after[name] for name in after if name != "release"} == {
        name: before[name] for name in before if name != "release"
    }


def test_two_runners_at_once_apply_it_once(empty_database: str, caplog: pytest.LogCaptureFixture) -> None:
    """Both are let in while the lock is held by a third, so that neither can be through before the other."""
    caplog.set_level(logging.INFO, "dreamcuts.db")
    results: list[list[str]] = []

    def run() -> None:
        results.append(migrate(empty_database))

    with psycopg.connect(empty_database) as holder:
        holder.execute("select pg_advisory_xact_lock(hashtext('dreamcut_schema'))")
        runners = [threading.Thread(target=run) for _ in range(2)]
        for runner in runners:
            runner.start()
        wait_until(
            lambda: caplog.text.count("Another migration of this database runs") == 2,
            "two runners at the lock",
        )
        holder.rollback()
        for runner in runners:
            runner.join(60)
    assert sorted(map(bool, results)) == [False, True]
    assert status(empty_database).is_current


def test_a_newer_database_is_refused_by_check_and_by_migrate(database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("insert into dreamcut_schema (number, name) values (9999, 'later')")
    for ask in (lambda: status(database).check(), lambda: migrate(database)):
        with pytest.raises(DatabaseError, match=r"at migration 9999, newer than .* Upgrade DreamCuts"):
            ask()


def test_a_missing_migration_is_named(database: str, copied_sql: Path) -> None:
    number = len(migrations()) + 1
    name = f"{number:04d}_more_columns"
    (copied_sql / "migrations" / f"{name}.sql").write_text("alter table dreamcut_jobs add column extra int;")
    with pytest.raises(DatabaseError, match=rf'lacks migrations: {name}. Run "dreamcuts db migrate"'):
        status(database).check()
    assert f"{name}.sql" in migrate(database)
    with psycopg.connect(database) as connection:
        connection.execute("select extra from dreamcut_jobs")
    assert status(database).applied[-1] == number


@pytest.mark.parametrize("where", ["migrations/0002_broken.sql", "functions/95_broken.sql"])
def test_a_failure_names_the_file_and_leaves_the_database_as_it_was(
    empty_database: str, copied_sql: Path, where: str
) -> None:
    broken = copied_sql / where
    if broken.exists():
        pytest.fail(f"{where} exists; choose another name")
    if where.startswith("migrations"):
        for later in sorted((copied_sql / "migrations").glob("*.sql"))[1:]:
            later.unlink()
    broken.write_text("create table left_behind (); select no_such_function();")
    with pytest.raises(DatabaseError, match=rf"{where}: .*no_such_function"):
        migrate(empty_database)
    assert relations(empty_database) == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("0001_again.sql", "not numbered 1, 2, 3"),
        ("0099_gap.sql", "not numbered 1, 2, 3"),
        ("later.sql", "is named NNNN"),
    ],
)
def test_files_are_numbered_without_gaps(copied_sql: Path, name: str, message: str) -> None:
    (copied_sql / "migrations" / name).write_text("select 1;")
    with pytest.raises(ValueError, match=message):
        migrations()


@pytest.mark.parametrize(
    ("dsn", "message"),
    [
        ("postgresql://u:s3cr3t@127.0.0.1:1/x", "cannot be reached"),
        ("no address at all", "not a valid Postgres address"),
        ("postgresql://u:s3cr3t@127.0.0.1:port/x", "Postgres"),
    ],
)
def test_a_wrong_address_is_one_line_without_the_password(dsn: str, message: str) -> None:
    with pytest.raises(DatabaseError, match=message) as raised:
        status(dsn)
    assert "s3cr3t" not in str(raised.value) and "\n" not in str(raised.value)
