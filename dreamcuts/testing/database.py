"""Scratch databases for tests: each new, with the schema, and dropped at the end.

They live on one server for the whole process: the one that DREAMCUTS_TEST_DATABASE_URL names, else an
embedded one that is started at first use and thrown away at the end (see dreamcuts.embedded). DATABASE_URL is
not read: on a developer's machine it may well be production's. The schema is applied once, to a template;
a scratch database is a copy of it, which takes some 50 ms.
"""

from __future__ import annotations

import atexit
import os
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import psycopg

from dreamcuts.db.address import first_line
from dreamcuts.db.migrate import connect, migrate
from dreamcuts.db.sql import query
from dreamcuts.embedded import EmbeddedPostgres
from dreamcuts.errors import ConfigError, DatabaseError

SERVER_VARIABLE = "DREAMCUTS_TEST_DATABASE_URL"
"""Names a Postgres server for scratch databases, by the URL of any database on it; needs CREATEDB."""

# A scratch database need not survive a power cut.
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "200"}


@contextmanager
def scratch_database(server: str | None = None) -> Iterator[str]:
    """The URL of a new database with the schema; it is dropped when the block ends.

    `server` is the URL of a database on the server to use, in place of the process' own. Raises ConfigError
    if there is no server to be had, DatabaseError if it cannot be used.
    """
    with _home(server).database() as dsn:
        yield dsn


class _Home:
    """A server that scratch databases live on, and their template."""

    def __init__(self, dsn: str | None) -> None:
        self._embedded: EmbeddedPostgres | None = None
        if dsn is None:
            self._embedded = EmbeddedPostgres(prefer="system", settings=FAST).start()
            dsn = self._embedded.dsn()
        if urlsplit(dsn).scheme not in ("postgresql", "postgres"):
            raise ConfigError("The test server must be given as a URL: postgresql://user:password@host/db.")
        self._dsn = dsn
        self._template = _new_name("template")
        try:
            self._run("create_database_text", name=self._template, template="template0")
            migrate(self._named(self._template))
        except BaseException:
            self.close()
            raise

    @contextmanager
    def database(self) -> Iterator[str]:
        name = _new_name("scratch")
        self._run("create_database_text", name=name, template=self._template)
        try:
            yield self._named(name)
        finally:
            self._run("drop_database_text", name=name)

    def close(self) -> None:
        if self._embedded is not None:
            self._embedded.stop()
            return
        with suppress(DatabaseError):  # a server that is gone took the template along
            self._run("drop_database_text", name=self._template)

    def _named(self, database: str) -> str:
        return urlsplit(self._dsn)._replace(path=f"/{database}").geturl()

    def _run(self, query_name: str, **values: Any) -> None:
        statement = query(query_name)
        statement.arguments(values)
        try:
            with connect(self._dsn) as connection:
                row = connection.execute(statement.psycopg_text, values).fetchone()
                assert row is not None
                connection.execute(row[0])
        except (DatabaseError, psycopg.Error) as error:
            reason = first_line(error).removesuffix(". Check DATABASE_URL")
            raise DatabaseError(
                f"The server for scratch databases cannot be used: {reason}. Check {SERVER_VARIABLE}."
            ) from None


_homes: dict[str | None, _Home] = {}
_lock = threading.Lock()


def _home(server: str | None) -> _Home:
    """The process' server of that URL, started at first use."""
    key = server or os.environ.get(SERVER_VARIABLE) or None
    with _lock:
        if key not in _homes:
            if not _homes:
                atexit.register(_close_all)
            _homes[key] = _Home(key)
        return _homes[key]


def _close_all() -> None:
    with _lock:
        for home in _homes.values():
            home.close()
        _homes.clear()


def _new_name(kind: str) -> str:
    return f"dreamcuts_{kind}_{uuid.uuid4().hex[:12]}"
