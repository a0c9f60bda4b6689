"""A migration beside sessions that hold a table: it waits for a moment only, and says who is in the way."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import psycopg
import pytest

from dreamcuts.db.migrate import migrate, status
from dreamcuts.errors import DatabaseError


@pytest.fixture
def outdated(database: str, connection: psycopg.Connection) -> str:
    """The DSN of a database whose functions are of another version, so that migrate has something to do."""
    connection.execute("insert into dreamcut_schema_functions (checksum, release) values ('other', '0.0')")
    assert not status(database).is_current
    # A migration that did wait would end here, and the test with it.
    return f"{database}?options=-c%20statement_timeout%3D20s"


@pytest.fixture
def holder(database: str) -> Iterator[psycopg.Connection]:
    """A session that has read the jobs and forgot to end its transaction."""
    with psycopg.connect(database, application_name="forgotten") as session:
        session.execute("select from dreamcut_jobs")
        yield session
        session.rollback()


def test_names_the_session_in_the_way_and_changes_nothing(outdated: str, holder: psycopg.Connection) -> None:
    with pytest.raises(DatabaseError) as caught:
        migrate(outdated, lock_wait_s=0.05, tries=2)
    text = str(caught.value)
    assert f"session {holder.info.backend_pid} (forgotten, idle in transaction)" in text
    assert "was not changed" in text and "pg_terminate_backend" in text
    assert not status(outdated).is_current


def test_tries_again_until_the_table_is_free(
    outdated: str, holder: psycopg.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    waits = threading.Event()

    class OnWarning(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            waits.set()

    handler = OnWarning(logging.WARNING)
    logging.getLogger("dreamcuts.db.migrate").addHandler(handler)
    done: list[list[str]] = []
    runner = threading.Thread(target=lambda: done.append(migrate(outdated, lock_wait_s=0.1, tries=100)))
    try:
        runner.start()
        assert waits.wait(30)
        holder.rollback()
        runner.join(30)
    finally:
        logging.getLogger("dreamcuts.db.migrate").removeHandler(handler)
    assert done and done[0]
    assert "forgotten" in caplog.text
    assert status(outdated).is_current


def test_lets_others_through_between_its_tries(
    outdated: str, holder: psycopg.Connection, connection: psycopg.Connection
) -> None:
    """Whoever comes while it waits queues behind it; that ends when it gives up, not when the holder does."""
    stop = threading.Event()

    def keep_trying() -> None:
        while not stop.is_set():
            with pytest.raises(DatabaseError):
                migrate(outdated, lock_wait_s=0.3, tries=1)

    runner = threading.Thread(target=keep_trying)
    runner.start()
    try:
        connection.execute("set statement_timeout = '30s'")
        for _ in range(10):
            connection.execute("insert into dreamcut_jobs (type) values ('gen_image_falai')")
    finally:
        stop.set()
        runner.join(30)
    assert holder.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
