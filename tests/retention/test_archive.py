"""What moves to the archive, when, and that nothing is lost or in the way."""

from __future__ import annotations

from uuid import UUID

import psycopg
import pytest

from tests.retention.past import Past
from tests.support import Queue


def test_the_jobs_of_a_manifest_move_together_with_their_attempts(past: Past) -> None:
    manifest, jobs = past.ended_manifest(8)
    before = {name: past.job(job) for name, job in jobs.items()}
    attempts = past.history(jobs["a"])
    ended_at = past.of_manifest(manifest)["completed_at"]
    assert len(attempts) == 1

    assert past.archive() == 2
    assert past.present() == set()
    for name, job in jobs.items():
        after = past.row("select * from dreamcut_archived_jobs where id = %s", job)
        assert after.pop("ended_at") == ended_at
        after.pop("archived_at")
        before[name].pop("ready")
        before[name].pop("suspect")
        assert after == before[name]
    kept = past.row("select * from dreamcut_archived_attempts where job = %s", jobs["a"])
    kept.pop("ended_at")
    assert kept == attempts[0]


def test_the_manifest_stays_and_says_what_it_had(past: Past) -> None:
    manifest, _ = past.ended_manifest(8)
    before = past.of_manifest(manifest)
    past.archive()
    after = past.of_manifest(manifest)
    assert after.pop("archived_at") is not None
    before.pop("archived_at")
    assert after == before
    assert after["total_jobs"] == 2
    assert past.archive() == 0


@pytest.mark.parametrize(
    ("days", "failed", "moves"), [(6, False, 0), (8, False, 2), (8, True, 0), (29, True, 0), (31, True, 2)]
)
def test_what_failed_is_kept_longer(past: Past, days: float, failed: bool, moves: int) -> None:
    past.ended_manifest(days, failed=failed)
    assert past.archive() == moves


def test_never_means_never(past: Past) -> None:
    past.ended_manifest(9000)
    past.ended_manifest(9000, failed=True)
    past.ended_job(9000)
    assert past.archive(None, None) == 0
    assert past.archive(None, "30 days") == 2  # the failed one
    assert past.archive("7 days", None) == 3


def test_what_is_not_over_stays(past: Past) -> None:
    """A manifest under way, one with an open paid call, and one whose job somebody has set back by hand."""
    past.graph({"a": [], "b": ["a"]})
    past.finish("a")
    paid, jobs = past.ended_manifest(8)
    past.run(
        "insert into dreamcut_provider_calls (job, manifest_id, job_id, claim, worker_id, provider, endpoint)"
        " values (%s, %s, 'a', 1, gen_random_uuid(), 'fal', 'e')",
        jobs["a"],
        paid,
    )
    _, others = past.ended_manifest(8)
    past.run("update dreamcut_jobs set status = 'pending' where id = %s", others["b"])
    assert past.archive() == 0

    past.run("update dreamcut_provider_calls set status = 'failed', finished_at = now()")
    assert past.archive() == 2
    assert past.archived() == set(jobs.values())
    past.run("update dreamcut_jobs set status = 'completed' where id = %s", others["b"])


def test_jobs_without_a_manifest_move_one_by_one(past: Past) -> None:
    old, young = past.ended_job(8), past.ended_job(6)
    dead_old, dead_young = past.ended_job(31, failed=True), past.ended_job(29, failed=True)
    waiting = past.add(None)
    assert past.archive() == 2
    assert past.archived() == {old, dead_old}
    assert past.present() == {young, dead_young, waiting}


def test_the_search_for_jobs_without_a_manifest_goes_on_where_it_stopped(past: Past) -> None:
    """With one at a time it looks at 20 jobs; those that are due lie behind 50 that are not."""
    past.connection.execute(
        "insert into dreamcut_jobs (type, job_id, status, completed_at)"
        " select 'work', 'fresh_' || to_char(n, 'FM000'), 'completed', now() from generate_series(1, 50) n"
    )
    due = past.ended_job(8, job_id="old_1")
    moved = [past.archive(limit=1) for _ in range(4)]
    assert moved == [0, 0, 1, 0]
    assert past.archived() == {due}
    again = past.ended_job(8, job_id="aaa")
    assert [past.archive(limit=1) for _ in range(4)].count(1) == 1
    assert past.archived() == {due, again}


def test_the_ledger_keeps_the_job(past: Past) -> None:
    _, jobs = past.ended_manifest(8)
    past.run(
        "insert into dreamcut_provider_calls"
        " (job, job_id, claim, worker_id, provider, endpoint, status, cost_usd)"
        " values (%s, 'a', 1, gen_random_uuid(), 'fal', 'e', 'succeeded', 0.5)",
        jobs["a"],
    )
    past.archive()
    assert past.row("select job, cost_usd from dreamcut_provider_calls")["job"] == jobs["a"]


def test_each_month_has_its_place(past: Past) -> None:
    manifest, jobs = past.ended_manifest(1)
    past.run(
        "update dreamcut_production_manifest set completed_at = '2026-01-31 23:59:59.999+00' where id = %s",
        manifest,
    )
    other, more = past.ended_manifest(1)
    past.run(
        "update dreamcut_production_manifest set completed_at = '2026-02-01 00:00+00' where id = %s", other
    )
    assert past.archive() == 4
    rows = past.rows("select tableoid::regclass::text as place, manifest_id from dreamcut_archived_jobs")
    assert {(row["place"], row["manifest_id"]) for row in rows} == {
        ("dreamcut_archived_jobs_2026_01", manifest),
        ("dreamcut_archived_jobs_2026_02", other),
    }
    assert past.archived() == {*jobs.values(), *more.values()}


def test_a_manifest_that_got_more_jobs_is_archived_again(past: Past) -> None:
    manifest, jobs = past.ended_manifest(8)
    past.archive()
    late = past.add(manifest, "late")
    assert past.of_manifest(manifest)["status"] == "rendering"
    past.finish("late")
    assert past.of_manifest(manifest)["status"] == "done"
    assert past.archive() == 0  # it has just ended
    past.run(
        "update dreamcut_production_manifest set archived_at = now() - interval '20 days' where id = %s",
        manifest,
    )
    past.age(manifest, 8)
    assert past.archive() == 1
    assert past.archived() == {*jobs.values(), late}


def test_one_at_a_time_and_never_waiting(past: Past, database: str) -> None:
    """While one archives another passes; and a manifest that somebody has locked is skipped."""
    _, jobs = past.ended_manifest(8)
    locked, _ = past.ended_manifest(9)
    with psycopg.connect(database) as other:
        queue = Queue(other)
        queue.run("set lock_timeout = '5s'")
        queue.run("select 1 from dreamcut_production_manifest where id = %s for no key update", locked)
        past.run("set lock_timeout = '5s'")
        assert past.archive() == 2
        assert past.archived() == set(jobs.values())
    with psycopg.connect(database) as other:
        Queue(other).value("select dreamcut_archive_jobs('7 days', '30 days', 1)")
        assert past.archive_step("7 days", "30 days") == {"jobs": 0, "more": False}
    assert past.archive() == 0


def test_claims_go_on_while_a_batch_is_moved(past: Past, database: str) -> None:
    """A claim, an outcome and an insert get through while the archive's transaction is still open."""
    past.ended_manifest(8)
    past.ended_job(8)
    with psycopg.connect(database) as other:
        assert Queue(other).value("select jobs from dreamcut_archive_jobs('7 days', '30 days', 100)") == 3
        past.run("set lock_timeout = '5s'")
        manifest, jobs = past.graph({"x": [], "y": ["x"]})
        worker = past.worker()
        held = past.claim_one(worker)
        assert held.id == jobs["x"]
        assert past.complete(worker, held) == [held.id]
        past.finish("y")
        assert past.of_manifest(manifest)["status"] == "done"


def test_a_batch_is_limited_and_says_that_there_is_more(past: Past) -> None:
    for _ in range(3):
        past.ended_manifest(8)
    assert past.archive_step("7 days", "30 days", 2) == {"jobs": 4, "more": True}
    assert past.archive_step("7 days", "30 days", 2) == {"jobs": 2, "more": False}


def test_the_archive_has_every_column_of_a_job(past: Past) -> None:
    """A migration that adds a column to dreamcut_jobs adds it to the archive, too; else it would be lost."""
    for live, archived in (
        ("dreamcut_jobs", "dreamcut_archived_jobs"),
        ("dreamcut_job_attempts", "dreamcut_archived_attempts"),
    ):
        kept = columns(past, archived) - {"ended_at", "archived_at"}
        assert columns(past, live) - {"ready", "suspect"} == kept


def columns(queue: Queue, table: str) -> set[str]:
    return {
        row["column_name"]
        for row in queue.rows(
            "select column_name from information_schema.columns where table_name = %s", table
        )
    }


def test_a_month_is_open_to_nobody(past: Past) -> None:
    """A new table goes to whomever the default privileges name; on Supabase, to all its roles."""
    name = f"reader_{UUID(int=past.connection.info.backend_pid).hex[-8:]}"
    past.run(f"create role {name}")
    try:
        past.run("alter default privileges in schema public grant all on tables to public")
        past.ended_manifest(8)
        past.archive()
        tables = past.rows(
            "select inhrelid::regclass::text as name from pg_inherits join pg_class on oid = inhrelid"
            " where relkind = 'r'"
        )
        assert len(tables) == 2
        for table in tables:
            assert not past.value("select has_table_privilege(%s, %s, 'select')", name, table["name"])
            assert past.value("select relrowsecurity from pg_class where oid = %s::regclass", table["name"])
    finally:
        past.run("alter default privileges in schema public revoke all on tables from public")
        past.run(f"drop role {name}")
