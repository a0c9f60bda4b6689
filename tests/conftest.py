"""Fixtures that all tests share: a real Postgres, a migrated database for each test, the sandbox.

Every pytest-xdist worker has its own server: the system's Postgres if there is one, the embedded one
otherwise. A test's database is cloned from a migrated template, which takes some 40 ms.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import psycopg
import pytest
from pytest_postgresql.janitor import DatabaseJanitor

from dreamcuts.config import Settings
from dreamcuts.db.migrate import migrate
from dreamcuts.embedded import EmbeddedPostgres
from dreamcuts.sandbox import Sandbox
from tests.postgres_guard import guarded

# A machine that is busy for a moment says nothing about a property. The rest is as it is without: where the
# variable CI is set, the examples are the same each time.
hypothesis.settings.register_profile(
    "suite", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("suite")

TEST_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No setting of the person who runs the tests reaches them: neither a variable nor a .env.local."""
    names = {name.upper() for name in Settings.model_fields}
    for variable in list(os.environ):
        if variable in names or variable.endswith(("_MAX_CONCURRENT_JOBS", "_RETRY_DELAY_MS")):
            monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[EmbeddedPostgres]:
    """A server of this test process, thrown away at the end."""
    prefer = "wheel" if os.environ.get("DREAMCUTS_TEST_POSTGRES") == "wheel" else "system"
    with guarded(EmbeddedPostgres(prefer=prefer, settings=TEST_SETTINGS)) as server:
        yield server


@pytest.fixture(scope="session")
def template_database(postgres_server: EmbeddedPostgres) -> Iterator[DatabaseJanitor]:
    janitor = _janitor(postgres_server, "dreamcuts_template")
    with janitor:
        migrate(postgres_server.dsn("dreamcuts_template"))
        yield janitor


@pytest.fixture
def empty_database(postgres_server: EmbeddedPostgres) -> Iterator[str]:
    """The DSN of a new database without the schema."""
    name = f"empty_{uuid.uuid4().hex[:12]}"
    with _janitor(postgres_server, name):
        yield postgres_server.dsn(name)


@pytest.fixture
def database(postgres_server: EmbeddedPostgres, template_database: DatabaseJanitor) -> Iterator[str]:
    """The DSN of a new database with the schema."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    with _janitor(postgres_server, name, template=template_database.dbname):
        yield postgres_server.dsn(name)


@pytest.fixture
def connection(database: str) -> Iterator[psycopg.Connection]:
    """An autocommit connection to the test's database."""
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    """A sandbox of its own, on a port that the OS chose."""
    with Sandbox.running(folder=tmp_path / "sandbox") as running:
        yield running


def _janitor(server: EmbeddedPostgres, name: str, template: str | None = None) -> DatabaseJanitor:
    parts = psycopg.conninfo.conninfo_to_dict(server.dsn(name))
    return DatabaseJanitor(
        user=str(parts["user"]),
        password=str(parts["password"]),
        host="127.0.0.1",
        port=server.port,
        dbname=name,
        template_dbname=template,
    )
