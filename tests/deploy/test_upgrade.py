"""A worker of release 0.1 goes on working while the schema under it is upgraded.

`dreamcuts db migrate` runs first in an upgrade, and the workers are restarted one by one after it. Until then
workers of the previous release run against the newer schema. What they send is fixed: worker_sql_0_1.sql is
the copy of sql/queries/worker.sql as 0.1 shipped it, and these tests are its contract. A migration or
a function that breaks them breaks running workers: give a new parameter a default, add a column to the end of
a result, keep what is still asked for until the release after the next.

The statements are run with the arguments that 0.1 gives them, and not through today's Store, which may have
moved on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import psycopg
import pytest

from dreamcuts.client import Client
from dreamcuts.db.pool import open_pool
from dreamcuts.db.sql import Query, parse_queries

pytestmark = pytest.mark.anyio

FROZEN = Path(__file__).with_name("worker_sql_0_1.sql")
LEASE = timedelta(seconds=45)
KIND = "gen_image_falai"

# What 0.1 reads of each answer.
COLUMNS = {
    "heartbeat": {"alive": "bool", "taken": "uuid[]", "cancelled": "uuid[]", "rescue_due": "bool"},
    "claim_jobs": {
        "id": "uuid", "manifest_id": "uuid", "job_id": "text", "type": "text", "payload": "jsonb",
        "attempts": "int4", "max_attempts": "int4", "claims": "int4", "metadata": "jsonb",
        "retry_policy": "jsonb",
    },
    "complete_jobs": {"dreamcut_complete_jobs": "uuid[]"},
    "fail_jobs": {"id": "uuid", "status": "text", "next_retry_at": "timestamptz"},
    "hand_back_jobs": {"dreamcut_hand_back_jobs": "uuid[]"},
    "rescue": {"id": "uuid", "status": "text", "worker_id": "uuid"},
    "reconcile": {"dreamcut_reconcile": "int4"},
    "unfinished_work": {"unfinished": "bool"},
    "manifest_of_job": {"manifest_json": "jsonb", "user_id": "uuid"},
    "sibling_jobs": {
        "job_id": "text", "type": "text", "status": "text", "payload": "jsonb", "result": "jsonb",
        "output_url": "text",
    },
    "open_calls": {
        "id": "uuid", "provider": "text", "endpoint": "text", "step": "int4", "request": "jsonb",
        "request_id": "text", "ticket": "jsonb",
    },
    "begin_call": {"dreamcut_begin_call": "uuid"},
}  # fmt: skip


def frozen() -> dict[str, Query]:
    return {found.name: found for found in parse_queries(FROZEN.read_text("utf-8"), FROZEN.name)}


class OldWorker:
    """The statements of 0.1, sent as 0.1 sends them."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        self.pool = pool
        self.id = uuid4()
        self._queries = frozen()

    async def run(self, name: str, **arguments: Any) -> list[asyncpg.Record]:
        statement = self._queries[name]
        rows: list[asyncpg.Record] = await self.pool.fetch(statement.text, *statement.arguments(arguments))
        return rows

    async def register(self) -> None:
        await self.run(
            "register_worker", worker=self.id, host="old", pid=1, version="0.1.0", types=[KIND], slots=[4],
            lease=LEASE,
        )  # fmt: skip

    async def claim(self, slots: int = 4) -> list[asyncpg.Record]:
        return await self.run("claim_jobs", worker=self.id, types=[KIND], slots=[slots])

    async def heartbeat(self, jobs: list[asyncpg.Record]) -> asyncpg.Record:
        (beat,) = await self.run(
            "heartbeat", worker=self.id, lease=LEASE, draining=False,
            jobs=[job["id"] for job in jobs], claims=[job["claims"] for job in jobs],
        )  # fmt: skip
        return beat

    async def fail(self, job: asyncpg.Record, error_class: str) -> asyncpg.Record:
        (row,) = await self.run(
            "fail_jobs", worker=self.id, jobs=[job["id"]], claims=[job["claims"]], classes=[error_class],
            messages=["no"], details=[{}], retry_after=[None], base_delays=[timedelta(seconds=5)],
        )  # fmt: skip
        return row

    async def begin_call(self, job: asyncpg.Record) -> UUID:
        (row,) = await self.run(
            "begin_call", worker=self.id, job=job["id"], claim=job["claims"], provider="fal",
            endpoint="fal-ai/flux", step=0, request={"prompt": "x"}, estimate_usd=0.05,
        )  # fmt: skip
        return UUID(str(row[0]))


@pytest.fixture
async def old(database: str) -> AsyncIterator[OldWorker]:
    pool = await open_pool(database, size=2)
    worker = OldWorker(pool)
    await worker.register()
    yield worker
    await pool.close()


def enqueue(connection: psycopg.Connection, count: int = 1) -> None:
    for _ in range(count):
        Client(connection).enqueue(KIND, {"prompt": "x"})


async def test_every_statement_is_understood_and_answers_as_before(database: str) -> None:
    connection = await asyncpg.connect(database)
    try:
        for name, statement in frozen().items():
            prepared = await connection.prepare(statement.text)
            assert len(prepared.get_parameters()) == len(statement.parameters)
            answer = {column.name: column.type.name for column in prepared.get_attributes()}
            assert answer.items() >= COLUMNS.get(name, {}).items(), name
    finally:
        await connection.close()


async def test_jobs_are_claimed_and_completed(old: OldWorker, connection: psycopg.Connection) -> None:
    manifest = connection.execute(
        "insert into dreamcut_production_manifest (manifest_json) values ('{}') returning id"
    ).fetchone()
    assert manifest is not None
    connection.execute(
        "insert into dreamcut_jobs (manifest_id, job_id, type, depends_on) "
        "values (%s, 'b', %s, '{a}'), (%s, 'a', %s, '{}')",
        (manifest[0], KIND, manifest[0], KIND),
    )
    for expected in ("a", "b"):
        (job,) = await old.claim()
        assert job["job_id"] == expected
        beat = await old.heartbeat([job])
        assert (beat["alive"], beat["taken"], beat["cancelled"]) == (True, [], [])
        assert len(await old.run("sibling_jobs", manifest_id=job["manifest_id"])) == 2
        assert (await old.run("manifest_of_job", manifest_id=job["manifest_id"]))[0][0] == {}
        (done,) = await old.run(
            "complete_jobs", worker=old.id, jobs=[job["id"]], claims=[job["claims"]],
            results=[{"ok": True}], output_urls=["https://x.test/a"],
        )  # fmt: skip
        assert done[0] == [job["id"]]
    assert await old.run("unfinished_work", types=[KIND]) == [(False,)]
    assert connection.execute("select status from dreamcut_production_manifest").fetchone() == ("done",)


async def test_paid_calls_are_remembered(old: OldWorker, connection: psycopg.Connection) -> None:
    enqueue(connection)
    (job,) = await old.claim()
    call = await old.begin_call(job)
    await old.run("submitted_call", call=call, request_id="r1", ticket={"a": 1})
    (still_open,) = await old.run("open_calls", job=job["id"])
    assert (still_open["id"], still_open["request_id"], still_open["ticket"]) == (call, "r1", {"a": 1})
    await old.run("finish_call", call=call, status="succeeded", cost_usd=0.05, error=None, detail=None)
    assert await old.run("open_calls", job=job["id"]) == []
    with pytest.raises(asyncpg.PostgresError) as refused:
        old.id, mine = uuid4(), old.id
        await old.begin_call(job)
    old.id = mine
    assert refused.value.sqlstate == "DC001"


async def test_failures_and_jobs_handed_back(old: OldWorker, connection: psycopg.Connection) -> None:
    enqueue(connection, 3)
    again, hopeless, returned = await old.claim()
    assert (await old.fail(again, "transient"))["status"] == "pending"
    assert (await old.fail(hopeless, "invalid_request"))["status"] == "failed"
    (row,) = await old.run(
        "hand_back_jobs", worker=old.id, jobs=[returned["id"]], claims=[returned["claims"]], reason="drain"
    )
    assert row[0] == [returned["id"]]
    states = connection.execute("select status, attempts from dreamcut_jobs order by seq").fetchall()
    assert states == [("pending", 1), ("failed", 1), ("pending", 0)]


async def test_lost_worker_is_rescued_and_told(old: OldWorker, connection: psycopg.Connection) -> None:
    enqueue(connection)
    (job,) = await old.claim()
    connection.execute("update dreamcut_workers set lease_expires_at = now() - interval '1 second'")
    rescuer = OldWorker(old.pool)
    await rescuer.register()
    assert (await rescuer.heartbeat([]))["rescue_due"]
    (rescued,) = await rescuer.run("rescue")
    assert (rescued["id"], rescued["status"], rescued["worker_id"]) == (job["id"], "pending", old.id)
    beat = await old.heartbeat([job])
    assert (beat["alive"], beat["taken"]) == (False, [job["id"]])
    with pytest.raises(asyncpg.PostgresError) as refused:
        await old.claim()
    assert refused.value.sqlstate == "DC001"
    await rescuer.run("reconcile")


async def test_leaves(old: OldWorker, connection: psycopg.Connection) -> None:
    await old.run("leave_worker", worker=old.id, empty=True)
    assert connection.execute("select state from dreamcut_workers").fetchone() == ("stopped",)
