"""`dreamcuts bench`: it measures in a database of its own, and leaves nothing behind. No figure is judged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import click.testing
import psycopg
import pytest

from dreamcuts.bench import Plan, measure
from dreamcuts.cli import cli
from dreamcuts.client import Client
from dreamcuts.errors import ConfigError, DatabaseError


def bench_databases(connection: psycopg.Connection[Any]) -> list[str]:
    rows = connection.execute("select datname from pg_database where datname like 'dreamcuts_bench_%'")
    return [row[0] for row in rows]


def bench(*arguments: str, **environment: str) -> click.testing.Result:
    runner = click.testing.CliRunner(env=environment)
    return runner.invoke(cli, ["bench", *arguments], prog_name="dreamcuts")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_all_is_measured_and_no_job_of_ours_is_touched(
    database: str, connection: psycopg.Connection[Any], workers: str
) -> None:
    ours = Client(connection).enqueue("bench_1", {"text": "mine"})  # a type that the benchmark would claim
    done = bench("--jobs", "100", "--workers", workers, "--json", DATABASE_URL=database)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["server"]["version"]
    assert all(value > 0 for name, value in found.items() if name != "server"), found
    assert found["pickup_p50_ms"] <= found["pickup_p95_ms"] <= found["pickup_p99_ms"]
    row = connection.execute("select status, attempts from dreamcut_jobs where id = %s", [ours]).fetchone()
    assert row == ("pending", 0)
    assert bench_databases(connection) == []


def test_the_table_is_for_people(database: str) -> None:
    done = bench("--jobs", "100", "-c", "5", DATABASE_URL=database)
    assert done.exit_code == 0, done.output
    assert "drain, 1 worker" in done.stdout
    assert "synchronous_commit off" in done.stdout  # what the figures must not be read without


def test_a_user_who_may_make_no_database_is_told_the_way_out(
    database: str, plain_user: str, connection: psycopg.Connection[Any]
) -> None:
    done = bench("--jobs", "100", DATABASE_URL=plain_user)
    assert done.exit_code == 1
    assert "grant CREATEDB" in done.stderr and "--server" in done.stderr
    assert str(urlsplit(plain_user).password) not in done.stderr


def test_time_that_is_up_is_an_error_and_leaves_nothing(
    database: str, connection: psycopg.Connection[Any]
) -> None:
    with pytest.raises(DatabaseError, match=r"jobs were left after 0 s"):
        measure(database, Plan(jobs=2000, singles=1, pickups=1, timeout_s=0))
    assert bench_databases(connection) == []


def test_an_address_that_is_no_url_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be given as a URL"):
        measure("host=127.0.0.1 dbname=x", Plan())


@pytest.fixture
def plain_user(database: str, connection: psycopg.Connection[Any]) -> Iterator[str]:
    """A role of this test that may log in and nothing else."""
    name = f"plain_{urlsplit(database).path.removeprefix('/')}"
    secret = "pl41n-s3cret"
    connection.execute(f"create role {name} login password '{secret}'")
    try:
        yield (
            urlsplit(database)
            ._replace(netloc=f"{name}:{secret}@127.0.0.1:{urlsplit(database).port}")
            .geturl()
        )
    finally:
        connection.execute(f"drop role {name}")
