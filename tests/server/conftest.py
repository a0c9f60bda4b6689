"""A queue with a worker of three types, for the tests of the views."""

from __future__ import annotations

from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from dreamcuts.client import Client

TTS, IMAGE, RENDER = "tts_elevenlabs", "gen_image_falai", "render_shotstack"


class Queue:
    """A queue with one worker, as SQL."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self.connection = connection
        self.client = Client(connection)
        self.worker = uuid4()
        self.do(
            "select dreamcut_register_worker(%s, 'host', 1, '0.1', %s, '{4,4,1}', '1 hour')",
            self.worker,
            [TTS, IMAGE, RENDER],
        )

    def do(self, statement: str, *values: Any) -> None:
        self.connection.execute(statement, values)

    def rows(self, statement: str, *values: Any) -> list[dict[str, Any]]:
        with self.connection.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(statement, values).fetchall()

    def claim(self, type: str, slots: int = 1) -> list[UUID]:
        found = self.rows("select id from dreamcut_claim_jobs(%s, %s, %s)", self.worker, [type], [slots])
        return [row["id"] for row in found]

    def complete(self, job: UUID, provider: str = "elevenlabs", ms: int = 0) -> None:
        """After `ms` exactly: both statements have the same time."""
        with self.connection.transaction():
            self.do(
                "update dreamcut_jobs set started_at = now() - %s * interval '1 ms' where id = %s", ms, job
            )
            self.do(
                "select dreamcut_complete_jobs(%s, %s, '{1}', %s, '{null}')",
                self.worker,
                [job],
                [Jsonb({"provider": provider})],
            )

    def fail(self, job: UUID, error_class: str, provider: str = "fal") -> None:
        """With a backoff of anything up to an hour."""
        self.do(
            "select dreamcut_fail_jobs(%s, %s, '{1}', %s, '{message}', %s, '{60}', '{1 hour}')",
            self.worker,
            [job],
            [error_class],
            [Jsonb({"provider": provider})],
        )


@pytest.fixture
def queue(connection: psycopg.Connection) -> Queue:
    return Queue(connection)
