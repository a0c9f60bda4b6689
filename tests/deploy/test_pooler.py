"""Through a real PgBouncer: what it takes away is noticed, and everything works without it."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import anyio
import asyncpg
import psycopg
import pytest

from dreamcuts.client import Client
from dreamcuts.db import migrate as module
from dreamcuts.db.migrate import migrate
from dreamcuts.db.pool import open_pool
from dreamcuts.db.pooler import is_known_pooler, is_transaction_pooled
from dreamcuts.errors import DatabaseError
from dreamcuts.queue.models import Completed
from dreamcuts.queue.store import Lookout, Store
from dreamcuts.sandbox import Sandbox
from tests.deploy.processes import Start

StartPooler = Callable[..., str]


@pytest.mark.anyio
async def test_transaction_mode_is_found_out(pooler: StartPooler, database: str) -> None:
    assert not await is_transaction_pooled(database)
    assert await is_transaction_pooled(pooler(pool_mode="transaction"))
    assert await is_transaction_pooled(pooler(pool_mode="transaction", server_round_robin="1"))
    assert not await is_transaction_pooled(pooler(pool_mode="session"))


@pytest.mark.anyio
async def test_transaction_mode_is_found_out_where_the_pool_is_one_connection(pooler: StartPooler) -> None:
    assert await is_transaction_pooled(pooler(default_pool_size="1"))


@pytest.mark.anyio
async def test_transaction_mode_is_found_out_under_load(pooler: StartPooler) -> None:
    dsn = pooler(default_pool_size="4")
    pool = await open_pool(dsn, size=3, pooled=True)
    stop = anyio.Event()

    async def busy() -> None:
        while not stop.is_set():
            await pool.fetchval("select pg_sleep(0.01)")

    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(busy)
        assert [await is_transaction_pooled(dsn) for _ in range(5)] == [True] * 5
        stop.set()
    await pool.close()


@pytest.mark.anyio
async def test_unreachable_database_is_left_to_the_next_who_connects() -> None:
    assert not await is_transaction_pooled("postgresql://nobody@127.0.0.1:1/nothing")
    assert not await is_transaction_pooled("no address at all")


@pytest.mark.parametrize(
    ("dsn", "known"),
    [
        ("postgresql://postgres.ref:x@aws-0-eu-central-1.pooler.supabase.com:6543/postgres", True),
        ("postgresql://postgres.ref:x@aws-0-eu-central-1.pooler.supabase.com:5432/postgres", False),
        ("postgresql://postgres:x@db.ref.supabase.co:6543/postgres", True),
        ("postgresql://postgres:x@db.ref.supabase.co:5432/postgres", False),
        ("host=ep-cool-1-pooler.eu-central-1.aws.neon.tech user=x dbname=y", True),
        ("postgresql://x@ep-cool-1.eu-central-1.aws.neon.tech/y", False),
        ("postgresql://x@db.example.org:6543/y", False),
    ],
)
def test_known_addresses(dsn: str, known: bool) -> None:
    assert is_known_pooler(dsn) is known


@pytest.mark.anyio
async def test_prepared_statements_fail_there_and_the_pooled_mode_does_not(pooler: StartPooler) -> None:
    """The first half shows that this PgBouncer really takes prepared statements away."""
    dsn = pooler()

    async def load(pool: asyncpg.Pool[asyncpg.Record]) -> list[object]:
        answers = (pool.fetchval("select $1::int", number) for number in range(60))
        return list(await asyncio.gather(*answers, return_exceptions=True))

    naive = await open_pool(dsn, size=8, pooled=False)
    errors: list[object] = []
    for _ in range(20):
        errors += [answer for answer in await load(naive) if isinstance(answer, asyncpg.PostgresError)]
        if errors:
            break
    assert errors
    naive.terminate()

    pooled = await open_pool(dsn, size=8, pooled=True)
    for _ in range(20):
        assert await load(pooled) == list(range(60))
    await pooled.close()


@pytest.mark.anyio
async def test_many_workers_share_few_connections(
    pooler: StartPooler, connection: psycopg.Connection
) -> None:
    """Claims, outcomes and heartbeats of 8 workers over 3 server connections: each job done once."""
    Client(connection).enqueue("gen_image_falai", {"prompt": "x"})
    connection.execute(
        "insert into dreamcut_jobs (type) select 'gen_image_falai' from generate_series(1, 199)"
    )
    dsn = pooler()
    lease = timedelta(seconds=60)
    done: list[object] = []

    async def work(store: Store) -> None:
        worker = uuid4()
        await store.register(worker, {"gen_image_falai": 5}, lease)
        while jobs := await store.claim(worker, [Lookout("gen_image_falai", 5)]):
            assert (await store.heartbeat(worker, lease, draining=False, held=jobs)).alive
            outcomes = [Completed(job, {"by": str(worker)}, None) for job in jobs]
            done.extend(settled.outcome.job.id for settled in await store.write(worker, outcomes))

    pool = await open_pool(dsn, size=16, pooled=True)
    async with anyio.create_task_group() as tasks:
        for _ in range(8):
            tasks.start_soon(work, Store(pool))
    await pool.close()
    assert len(done) == len(set(done)) == 200
    assert connection.execute("select status, count(*) from dreamcut_jobs group by 1").fetchall() == [
        ("completed", 200)
    ]


def test_migrates_through_it(pooler: StartPooler, empty_database: str) -> None:
    dsn = pooler(before=empty_database)
    assert migrate(dsn)
    assert migrate(dsn) == []


def test_a_graph_of_jobs_runs_through_it(
    start: Start, pooler: StartPooler, connection: psycopg.Connection, sandbox: Sandbox
) -> None:
    """Two workers, real providers' clients, dependencies and templates; nobody said --pooler."""
    manifest = connection.execute(
        "insert into dreamcut_production_manifest (manifest_json) values ('{}') returning id"
    ).fetchone()
    assert manifest is not None
    jobs = [
        ("job_lipsync_s1", "lip_sync_lypsso", ["job_tts_s1", "video_s1"],
         {"videoUrl": "{{job_result:video_s1}}", "audioJobId": "job_tts_s1"}),
        ("video_s1", "gen_video_falai", ["job_gen_a"],
         {"prompt": "a walk", "imageUrl": "{{job_result:job_gen_a}}", "durationSeconds": 5}),
        ("job_gen_a", "gen_image_falai", [], {"prompt": "a lighthouse"}),
        ("job_tts_s1", "tts_elevenlabs", [], {"text": "Hello there.", "voiceId": "21m00Tcm4TlvDq8ikWAM"}),
        *((f"sound_effect_s1_{n}", "gen_sound_effects_elevenlabs", ["job_tts_s1"],
           {"text": "whoosh", "durationSeconds": 0.5}) for n in range(6)),
    ]  # fmt: skip
    for job_id, job_type, depends_on, payload in jobs:
        connection.execute(
            "insert into dreamcut_jobs (manifest_id, job_id, type, depends_on, payload) "
            "values (%s, %s, %s, %s, %s)",
            (manifest[0], job_id, job_type, depends_on, psycopg.types.json.Jsonb(payload)),
        )
    dsn = pooler()
    workers = [start("work", "--until-idle", DATABASE_URL=dsn) for _ in range(2)]
    for worker in workers:
        assert worker.end() == 0, worker.log
        assert worker.log.count("A pooler in transaction mode") == 1
        assert "Notifications do not arrive" not in worker.log
    rows = connection.execute("select job_id, status, error_message, attempts from dreamcut_jobs").fetchall()
    assert [row for row in rows if row[1:] != ("completed", None, 1)] == []
    assert len(sandbox.bills()) == len(jobs), "each call was paid once"


def test_a_concurrent_index_needs_a_session(
    pooler: StartPooler,
    connection: psycopg.Connection,
    database: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Behind transaction mode a lock of a session would stay with a stranger, so nothing is begun there."""
    shutil.copytree(module.sql_folder(), copy := tmp_path / "sql")
    monkeypatch.setattr(module, "sql_folder", lambda: copy)
    number = len(module.migrations()) + 1
    (copy / f"migrations/{number:04d}_column.sql").write_text("alter table dreamcut_jobs add extra int;")
    file = f"{number + 1:04d}_extra.concurrent.sql"
    (copy / "migrations" / file).write_text("create index concurrently dreamcut_x on dreamcut_jobs (extra);")
    with pytest.raises(DatabaseError, match=rf"{file} .* transaction mode\. Nothing was changed"):
        migrate(pooler())
    assert max(module.status(database).applied) == number - 1
    assert file in migrate(pooler(pool_mode="session"))
    assert connection.execute(
        "select indisvalid from pg_index where indexrelid = 'dreamcut_x'::regclass"
    ).fetchone() == (True,)
