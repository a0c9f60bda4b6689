"""DATABASE_URL with several hosts: whoever connects finds the one that can be written to."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from dreamcuts.client import Client
from dreamcuts.db.migrate import status
from dreamcuts.db.pool import open_connection, open_pool
from dreamcuts.embedded import EmbeddedPostgres
from dreamcuts.errors import DatabaseError
from tests.deploy.processes import Start
from tests.postgres_guard import guarded


@pytest.fixture(scope="module")
def standby(postgres_server: EmbeddedPostgres) -> Iterator[EmbeddedPostgres]:
    """Another real server, with the first one's password, that refuses writes as a standby does."""
    settings = {"fsync": "off", "default_transaction_read_only": "on"}
    with guarded(EmbeddedPostgres(prefer="system", settings=settings)) as server:
        password = conninfo_to_dict(postgres_server.dsn())["password"]
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute("set default_transaction_read_only = off")
            change = psycopg.sql.SQL("alter role postgres password {}")
            connection.execute(change.format(psycopg.sql.Literal(password)))
        yield server


@pytest.fixture
def hosts(database: str, standby: EmbeddedPostgres) -> Iterator[dict[str, str]]:
    """The addresses of a host that refuses, of one that cannot be written to, and of the one that can."""
    parts = conninfo_to_dict(database)
    admin = f"postgresql://postgres:{parts['password']}@127.0.0.1:{standby.port}/postgres"
    with psycopg.connect(admin, autocommit=True) as connection:
        connection.execute("set default_transaction_read_only = off")
        name = psycopg.sql.Identifier(str(parts["dbname"]))
        connection.execute(psycopg.sql.SQL("create database {}").format(name))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, and nobody listens: the port stays closed for the whole test
        yield {
            "refuses": f"127.0.0.1:{closed.getsockname()[1]}",
            "read-only": f"127.0.0.1:{standby.port}",
            "writable": f"127.0.0.1:{parts['port']}",
        }


def several(database: str, *hosts: str) -> str:
    parts = conninfo_to_dict(database)
    user = f"{parts['user']}:{parts['password']}"
    return f"postgresql://{user}@{','.join(hosts)}/{parts['dbname']}?target_session_attrs=read-write"


ORDERS = [
    ("refuses", "writable"),
    ("read-only", "writable"),
    ("writable", "read-only"),
    ("refuses", "read-only", "writable"),
]


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_commands_reach_the_one_that_can_be_written_to(
    database: str, hosts: dict[str, str], order: tuple[str, ...]
) -> None:
    dsn = several(database, *(hosts[name] for name in order))
    assert status(dsn).is_current
    with psycopg.connect(dsn, autocommit=True) as connection:
        Client(connection).enqueue("tts_elevenlabs", {})
    with psycopg.connect(database) as connection:
        assert connection.execute("select count(*) from dreamcut_jobs").fetchone() == (1,)


@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_the_worker_reaches_the_one_that_can_be_written_to(
    database: str, hosts: dict[str, str], order: tuple[str, ...]
) -> None:
    """Both of its kinds of connection; asyncpg chooses by itself, not through libpq."""
    dsn = several(database, *(hosts[name] for name in order))
    port = int(hosts["writable"].split(":")[1])

    async def ports() -> list[int]:
        pool = await open_pool(dsn, size=2)
        listening = await open_connection(dsn)
        try:
            asked = "select current_setting('port')::int"
            return [await pool.fetchval(asked), await listening.fetchval(asked)]
        finally:
            await listening.close()
            await pool.close()

    assert asyncio.run(ports()) == [port, port]


def test_a_worker_does_its_job_there(
    start: Start, database: str, hosts: dict[str, str], connection: psycopg.Connection
) -> None:
    Client(connection).enqueue("gen_image_falai", {"prompt": "a lighthouse"})
    dsn = several(database, hosts["refuses"], hosts["read-only"], hosts["writable"])
    worker = start("work", "--until-idle", DATABASE_URL=dsn)
    assert worker.end() == 0, worker.log
    assert connection.execute("select status, error_message from dreamcut_jobs").fetchall() == [
        ("completed", None)
    ]
    assert str(conninfo_to_dict(database)["password"]) not in worker.log


def test_none_that_can_be_written_to_is_one_line_without_the_password(
    start: Start, database: str, hosts: dict[str, str]
) -> None:
    dsn = several(database, hosts["refuses"], hosts["read-only"])
    with pytest.raises(DatabaseError, match="Postgres cannot be reached") as raised:
        status(dsn)
    password = str(conninfo_to_dict(database)["password"])
    assert password not in str(raised.value) and "\n" not in str(raised.value)
    worker = start("work", DATABASE_URL=dsn)
    assert worker.end() == 1
    assert "cannot be reached" in worker.log and password not in worker.log
